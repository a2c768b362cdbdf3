"""What people give an evaluation that is thin, oddly named or misplaced."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine.data.dataset import Choices
from state_engine.errors import DataError, RequestError
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.report import METRICS, read_evaluation
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from tests.small import write_cells

COLUMNS = Choices(perturbation_key="perturbation", control="control", context_key="cell_type", batch_key="batch")


@pytest.fixture
def request_(tmp_path: Path) -> EvaluationRequest:
    """Two files of simulated cells."""
    for seed, name in enumerate(("predicted.h5ad", "real.h5ad")):
        write_cells(tmp_path / name, counts=False, seed=seed)
    return EvaluationRequest((PredictedFile(str(tmp_path / "predicted.h5ad")),), str(tmp_path / "real.h5ad"), COLUMNS)


@pytest.mark.slow  # the differential test is compiled first
def test_one_cell_of_each_perturbation(request_: EvaluationRequest, tmp_path: Path) -> None:
    for name in ("predicted.h5ad", "real.h5ad"):
        cells = anndata.read_h5ad(tmp_path / name)
        perturbed = (cells.obs["perturbation"] != "control").to_numpy()
        cells[~perturbed | ~cells.obs.duplicated(["perturbation", "cell_type"]).to_numpy()].copy().write_h5ad(tmp_path / name)
    made = evaluate(dataclasses.replace(request_, profile="full"), tmp_path / "out")
    assert {c.n_measured for c in made.conditions} == {1} and made.verdict
    table = pd.read_csv(tmp_path / "out" / METRICS)
    assert np.isfinite(table["value"].dropna()).all()


def test_labels_are_any_text_and_make_no_files(request_: EvaluationRequest, tmp_path: Path) -> None:
    label = '../../TNF/α, "1" µM\nx'
    for name in ("predicted.h5ad", "real.h5ad"):
        cells = anndata.read_h5ad(tmp_path / name)
        cells.obs["perturbation"] = cells.obs["perturbation"].astype(str).replace({"TNF": label}).astype("category")
        cells.write_h5ad(tmp_path / name)
    evaluate(request_, tmp_path / "out")
    assert any(c.perturbation == label for c in read_evaluation(tmp_path / "out").conditions)
    assert label in set(pd.read_csv(tmp_path / "out" / METRICS)["perturbation"].dropna())
    assert {p.name for p in tmp_path.iterdir()} == {"predicted.h5ad", "real.h5ad", "out"}


def test_several_control_guides_are_one_control_in_both_files(request_: EvaluationRequest, tmp_path: Path) -> None:
    alone = evaluate(request_, tmp_path / "alone")
    for name in ("predicted.h5ad", "real.h5ad"):
        cells = anndata.read_h5ad(tmp_path / name)
        labels = cells.obs["perturbation"].astype(str).to_numpy()
        guides = np.char.add("NT", (np.arange(len(labels)) % 3).astype(str))
        cells.obs["perturbation"] = np.where(labels == "control", guides, labels)
        cells.write_h5ad(tmp_path / name)
    choices = dataclasses.replace(COLUMNS, control=("NT0", "NT1", "NT2"))
    together = evaluate(dataclasses.replace(request_, choices=choices), tmp_path / "together")
    assert together.conditions == alone.conditions and together.remarks == alone.remarks
    one, other = (pd.read_csv(tmp_path / name / METRICS) for name in ("alone", "together"))
    pd.testing.assert_frame_equal(one, other)


def test_a_file_where_the_tables_should_go_is_left_alone(request_: EvaluationRequest, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RequestError, match="is a file"):
        evaluate(request_, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_same_file_on_both_sides_agrees_perfectly(request_: EvaluationRequest, tmp_path: Path) -> None:
    made = evaluate(dataclasses.replace(request_, real=request_.predicted[0].path), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / METRICS)
    own = table[(table["method"] == made.methods[0].name) & (table["metric"] == "expr_mae")]
    assert len(own) and own["value"].abs().max() < 1e-6


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_files_that_are_none(request_: EvaluationRequest, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "predicted.h5ad").write_bytes(content)
    with pytest.raises(DataError):
        evaluate(request_, tmp_path / "out")
    assert not (tmp_path / "out").exists()
