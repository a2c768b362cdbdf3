"""Selected cells against all others: the engine's own numbers, by rows, by the folder of a run and by the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.analysis.differential import compare_groups, read_table
from state_engine.analysis.selected import compare_selected, keep_cells, rows_named, selected_for
from state_engine.cli.main import main
from state_engine.errors import RequestError, RunError
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    make_result(place / "result.h5ad")
    return place


def test_the_numbers_are_those_of_the_engine_on_the_same_cells(folder: Path, tmp_path: Path) -> None:
    result = open_result(folder / "result.h5ad")
    rows = result.rows(keys.PREDICTED, "B", "drugA")
    control = result.rows(keys.PREDICTED_CONTROL)  # on no map
    expected = compare_groups(result, rows, np.setdiff1d(np.arange(result.n_cells), np.union1d(rows, control)))
    assert len(control) and expected.attrs["n_reference"] == result.n_cells - len(rows) - len(control)
    against = compare_selected(result, control).attrs["n_reference"]
    assert against == result.n_cells - len(control), "where they are selected themselves, nothing is left out"
    pd.testing.assert_frame_equal(compare_selected(result, rows[::-1]), expected, check_like=True)
    assert expected.sort_values("p_value")["gene"].iloc[0] in ("G0", "G1")
    kept = read_table(selected_for(folder, keep_cells(folder, rows)))
    pd.testing.assert_frame_equal(kept, expected, check_like=True)
    names = tmp_path / "cells.csv"
    names.write_text("cell,kind\n" + "".join(f"{name},predicted\n" for name in result.obs.index[rows]))
    assert main(["de", "--data", str(result.path), "--cells", str(names), "--output", str(tmp_path / "g.csv")]) == 0
    np.testing.assert_allclose(pd.read_csv(tmp_path / "g.csv")["p_value"], expected["p_value"])


def test_what_is_no_selection_is_refused(folder: Path) -> None:
    result = open_result(folder / "result.h5ad")
    with pytest.raises(RequestError, match="no cell called moon"):
        rows_named(result, ["moon"])
    with pytest.raises(RunError, match="not in the run's folder"):
        selected_for(folder, "cells-0")
    with pytest.raises(RunError, match="does not fit the result"):
        selected_for(folder, keep_cells(folder, np.array([10**6])))
    with pytest.raises(RequestError, match="at least 3"):
        compare_selected(result, np.array([0, 1]))
