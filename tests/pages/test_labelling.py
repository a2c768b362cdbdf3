"""Labels by hand on a page: a group or a selection labelled by a term or one's own words, undone, coloured on the map, made a data set."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts.explore.map import measured_rows
from pages.parts.labelling import meant, term_words
from state_engine import keys
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import LabelRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.library import label
from state_engine.library.datasets import get_dataset, register_file
from state_engine.library.hand_labels import add_round
from state_engine.plain import to_plain
from state_engine.prediction.result import open_result
from state_engine.progress import silent
from tests.pages.opened import text
from tests.prediction.make_result import make_result
from tests.small import write_cells

SCRIPT = """
import numpy as np
from pages.parts import session
from pages.parts.labelling import given, labelling

entry = session.data_entry()
data = session.understand(entry)
rows = {rows}
labelling(entry, data, rows, "lasso on a map", "x")
"""


@pytest.fixture
def data(home: Path) -> str:
    """Id of a data set of an installation of its own."""
    return register_file(Settings(home, (home.parent / "data",)), write_cells(home.parent / "data" / "cells.h5ad")).id


def page(data: str, rows: str = "None") -> AppTest:
    made = AppTest.from_string(SCRIPT.format(rows=rows), default_timeout=30)
    made.session_state["thread_data"] = data
    return made.run()


def test_a_group_is_labelled_with_a_term_and_a_selection_with_another(data: str) -> None:
    shown = page(data)
    assert not shown.exception and shown.button(key="label_give_x").disabled
    n = len(np.flatnonzero(anndata.read_h5ad(_path(data)).obs["cell_type"] == "NK"))
    shown.selectbox(key="label_group_x_cell_type").set_value("NK").run()
    box = shown.selectbox(key="label_term_x")
    assert "natural killer cell (NK cell) · CL:0000623" in box.options[:3]  # what the context may mean comes first
    box.set_value("CL:0000623").run()
    assert shown.button(key="label_give_x").label == f"Label {n} measured cells"
    shown.button(key="label_give_x").click().run()
    assert shown.dataframe[0].value.values.tolist() == [["natural killer cell", "CL:0000623", n]]
    assert f"{n} of 160 cells of cells.h5ad are labelled, in 1 round." in text(shown)

    shown = page(data, "np.array([1, 2, 3])")  # another session: what was kept is there
    shown.selectbox(key="label_term_x").set_value("CL:0000236").run()
    shown.button(key="label_give_x").click().run()
    assert ["B cell", "CL:0000236", 3] in shown.dataframe[0].value.values.tolist() and "lasso on a map" in text(shown)
    shown.button(key="label_undo_x").click().run()
    assert "B cell" not in shown.dataframe[0].value["label"].tolist()
    shown.button(key="label_redo_x").click().run()
    shown.button(key="label_off_x").click().run()
    assert "labels taken off" in text(shown) and not shown.exception


def test_a_selection_without_measured_cells_says_so(data: str) -> None:
    shown = page(data, "np.zeros(0, int)")
    assert "Predicted cells get no label by hand" in text(shown) and shown.button(key="label_give_x").disabled


def test_labels_of_another_file_can_be_discarded(data: str, home: Path) -> None:
    settings = Settings(home, (home.parent / "data",))
    shown = page(data)
    entry = get_dataset(settings, data)
    add_round(settings, entry, open_dataset(entry.path), [1], "x")
    write_cells(Path(entry.path), n=170)
    shown = page(data)
    assert "labelled by hand in another file" in text(shown)
    shown.button(key="label_discard_x").click().run()
    assert "another file" not in text(shown) and not shown.exception


def test_the_job_makes_a_data_set(data: str, home: Path) -> None:
    settings = Settings(home, (home.parent / "data",))
    shown = page(data, "np.arange(7)")
    shown.selectbox(key="label_term_x").set_value("CL:0000236").run()
    shown.button(key="label_give_x").click().run()
    request = LabelRequest(data, "mine")
    run = RunFolder.create(settings, "label", to_plain(request))
    made = label(request, run, silent, WarmCache())
    copy = get_dataset(settings, made.data)
    assert made.cells == 7 and copy.name == "cells with mine"
    assert anndata.read_h5ad(copy.path).obs["mine"].value_counts().to_dict() == {"B cell": 7}


def test_only_measured_cells_of_a_result_are_rows_of_the_data_set(tmp_path: Path) -> None:
    path = make_result(tmp_path / "result.h5ad")
    found = anndata.read_h5ad(path)
    found.obs[keys.BASAL_ROW] = np.arange(len(found)) * 2
    found.write_h5ad(path)
    rows = measured_rows(open_result(path), np.arange(len(found)))
    kinds = found.obs[keys.KIND].astype(str).to_numpy()
    assert rows.tolist() == (2 * np.flatnonzero(np.isin(kinds, [keys.OBSERVED, keys.OBSERVED_CONTROL]))).tolist() and len(rows)


def test_words_of_terms_and_of_ones_own() -> None:
    assert term_words("my label") == "my label" and term_words("CL:0000000") == "cell · CL:0000000"
    assert meant("nk cells") == ("natural killer cell", "CL:0000623") and meant("my label") == ("my label", "")


def _path(data: str) -> str:
    return get_dataset(Settings(Path(os.environ["STATE_EXPLORER_HOME"])), data).path
