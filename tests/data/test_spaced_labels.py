"""Labels that begin or end with blanks are told, offered as the control, and read without them where that is asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

import anndata
import pytest

from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import LabelError
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.request import PredictionRequest
from tests.small import write_cells


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Cells whose control is called 'NT ' and whose TNF is spelled in two ways."""
    path = write_cells(tmp_path / "cells.h5ad")
    data = anndata.read_h5ad(path)
    labels = data.obs["perturbation"].astype(str).replace({"control": "NT "})
    labels.iloc[: len(labels) // 2] = labels.iloc[: len(labels) // 2].replace({"TNF": " TNF"})
    data.obs["perturbation"] = labels.astype("category")
    data.write_h5ad(path)
    return path


def test_they_are_told_and_offered(path: Path) -> None:
    data = open_dataset(path)
    assert data.labels.control is None and "NT " in data.labels.control_suggestions
    (note,) = (n for n in data.notes if "blanks" in n)
    assert "2 labels" in note and "' TNF' (" in note and "'NT ' (" in note and "--strip-labels" in note
    assert {"TNF", " TNF"} <= set(data.perturbations)
    assert open_dataset(path, Choices(control="NT ")).labels.control == "NT "


def test_they_are_stripped_on_request(path: Path) -> None:
    plain, data = open_dataset(path, Choices(control="NT ")), open_dataset(path, Choices(control="NT ", strip_labels=True))
    assert data.labels.control == "NT" and len(data.control_rows()) == len(plain.control_rows())
    assert len(data.rows("TNF")) == len(plain.rows("TNF")) + len(plain.rows(" TNF")) and " TNF" not in data.perturbations
    (note,) = (n for n in data.notes if "blanks" in n)
    assert "were read without them" in note
    assert open_dataset(path, Choices(control="NT", strip_labels=True)).labels.control == "NT"
    with pytest.raises(LabelError):
        open_dataset(path, Choices(control="NT"))


def test_tidy_labels_are_not_spoken_of(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "cells.h5ad")
    assert not [n for n in open_dataset(path).notes if "blanks" in n]
    assert open_dataset(path, Choices(strip_labels=True)).perturbations == open_dataset(path).perturbations


def test_it_is_recorded() -> None:
    asked = PredictionRequest("d.h5ad", "m", ("TNF",), choices=Choices(strip_labels=True))
    assert from_plain(PredictionRequest, to_plain(asked)) == asked
    assert "--strip-labels" in shlex.split(command(asked, output="o.h5ad"))
