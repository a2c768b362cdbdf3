"""What a person chose may stand in the way of opening the file again; the form shows all the same, with the problem beside its field."""

from __future__ import annotations

from pathlib import Path

import anndata
import pandas as pd
import pytest

from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.library.datasets import get_dataset, receive_upload, set_choices
from tests.pages.opened import app_on, text
from tests.small import write_cells


@pytest.fixture
def data_id(home: Path, tmp_path: Path) -> str:
    """A data set whose X has gene symbols in a column that its raw lacks."""
    path = write_cells(tmp_path / "cells.h5ad")
    data = anndata.read_h5ad(path)
    data.raw = data.copy()
    data.var = pd.DataFrame({"gene_symbols": [f"SYM{i}" for i in range(data.n_vars)]}, index=data.var_names)
    data.write_h5ad(path)
    with path.open("rb") as stream:
        return receive_upload(Settings(home), path.name, stream, path.stat().st_size).id


@pytest.mark.parametrize(
    ("wrong", "field", "label"),
    [
        (Choices(gene_column="gene_symbols", expression="raw"), "gene_column", "Gene names"),
        (Choices(control="nobody"), "control", "Control label"),
        (Choices(context_key="gone"), "context_key", "Context column"),
        (Choices(expression="layers/gone"), "expression", "Expression"),
    ],
)
def test_the_form_shows_with_the_error_beside_its_field(home: Path, data_id: str, wrong: Choices, field: str, label: str) -> None:
    set_choices(Settings(home), data_id, wrong)
    app = app_on("data", data=data_id)
    assert len(app.error) == 2, "above the form, and beside the field"
    assert app.button(key="apply_choices") and app.error[1].value in app.error[0].value
    if field == "control":
        app.multiselect(key="choice_Control label").set_value(["control"])
    else:
        app.selectbox(key=f"choice_{label}").set_value("as suggested")
    app.button(key="apply_choices").click().run()
    assert not app.error and "column `perturbation`" in text(app)
    chosen = get_dataset(Settings(home), data_id).choices
    assert getattr(chosen, field) in (None, "control") and (field != "gene_column" or chosen.expression == "raw")
