"""Arrows on a map: they join the right cells, and averaged ones stay within their condition and end at cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.analysis import projection as pr
from state_engine.analysis.arrows import LEAST_SHARE, arrows, condition_arrows, measured_shifts
from state_engine.prediction.result import Result, open_result
from tests.prediction.make_result import write_result


def hand_made(tmp_path: Path, own: str = "") -> tuple[Result, pr.Projection]:
    rows = [
        ("p1", "drug", "T", keys.PREDICTED, "a"),
        ("p2", "drug", "T", keys.PREDICTED, "b"),
        ("p3", "drug", "B", keys.PREDICTED, "a"),
        ("a", "control", "T", keys.OBSERVED_CONTROL, own),
        ("b", "control", "T", keys.OBSERVED_CONTROL, "b" if own else ""),
        ("x", "control", "B", keys.OBSERVED_CONTROL, "a"),
    ]
    obs = pd.DataFrame(rows, columns=["name", "perturbation", "context", "kind", "basal_cell"]).set_index("name")
    result = open_result(write_result(tmp_path / "r.h5ad", np.zeros((6, 2)), np.zeros((6, 2)), obs))
    xy = np.array([[1, 1], [2, 2], [3, 3], [0, 0], [0.1, 0], [9, 9]], np.float32)
    settings = pr.Settings(0, "expression", 6, 6, False, 2, 2)
    return result, pr.Projection(xy, np.arange(6, dtype=np.int32), np.empty(0, np.float32), settings)


@pytest.mark.parametrize("own", ["", "a"])
def test_arrows_start_at_the_basal_cell_of_the_same_context(tmp_path: Path, own: str) -> None:
    result, projection = hand_made(tmp_path, own)
    table = arrows(result, projection)
    assert list(table["row"]) == [0, 1, 2] and list(table["basal_row"]) == [3, 4, 5]
    np.testing.assert_allclose(table[["x0", "y0", "x1", "y1"]], [[0, 0, 1, 1], [0.1, 0, 2, 2], [9, 9, 3, 3]], rtol=1e-6)
    assert list(arrows(result, projection, context="B")["row"]) == [2]
    assert arrows(result, projection, perturbation="none").empty


def a_map(xy: np.ndarray) -> pr.Projection:
    rows = np.arange(len(xy), dtype=np.int32)
    return pr.Projection(xy, rows, np.empty(0, np.float32), pr.Settings(0, "expression", len(xy), len(xy), False, 2, 2))


def apart() -> tuple[pd.DataFrame, pr.Projection]:
    """Two perturbations that lead the same 40 cells to opposite sides, and one cell of one that goes elsewhere."""
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.01, (40, 2)).astype(np.float32)
    ends = {"left": start + np.array([-5, 0]), "right": start + np.array([5, 0])}
    parts = []
    for name, end in ends.items():
        part = pd.DataFrame(
            {"perturbation": name, "context": "T", "x0": start[:, 0], "y0": start[:, 1], "x1": end[:, 0], "y1": end[:, 1]}
        )
        parts.append(part)
    odd = parts[1].iloc[:1].assign(x0=4.0, y0=4.0, x1=-5.0, y1=-5.0)
    table = pd.concat([*parts, odd], ignore_index=True)
    cells = np.vstack([table[["x0", "y0"]].to_numpy(), table[["x1", "y1"]].to_numpy()])
    return table, a_map(cells.astype(np.float32))


def test_conditions_that_lead_apart_are_not_averaged() -> None:
    table, projection = apart()
    found = condition_arrows(table, projection, n=3)
    assert found.table["perturbation"].tolist() == ["left", "right"] and found.table["n"].tolist() == [40, 40]
    assert found.table["x1"].round().tolist() == [-5, 5], "the mean over perturbations would end at 0, where no cell is"
    ends = {tuple(end) for end in table[["x1", "y1"]].to_numpy()}
    assert all(tuple(end) in ends for end in found.table[["x1", "y1"]].to_numpy()), "an arrow ends at a cell"


def test_arrows_of_few_cells_are_left_out_and_counted() -> None:
    table, projection = apart()
    found = condition_arrows(table, projection, n=3)
    assert (found.few, found.few_cells) == (1, 1) and found.table["of"].tolist() == [40, 41]
    assert (found.table["n"] >= LEAST_SHARE * found.table["of"]).all()
    nothing = condition_arrows(table[:0], projection)
    assert nothing.table.empty and (nothing.few, nothing.few_cells) == (0, 0)


def test_averaged_arrows_stand_at_the_median_of_their_cells() -> None:
    table, projection = apart()
    (left,) = condition_arrows(table[:40], projection, n=1).table.itertuples()
    middle = table[:40][["x0", "y0"]].median().to_numpy()
    away = np.hypot(*(table[:40][["x0", "y0"]].to_numpy() - middle).T)
    assert np.hypot(left.x0 - middle[0], left.y0 - middle[1]) == pytest.approx(away.min())


def test_the_measured_shift_leads_from_the_controls_of_the_context(tmp_path: Path) -> None:
    rows = [(f"c{c}{i}", "control", c, keys.OBSERVED_CONTROL, "") for c in "TB" for i in range(3)]
    rows += [(f"m{i}", "drug", "T", keys.OBSERVED, "") for i in range(3)] + [("p", "drug", "B", keys.PREDICTED, "")]
    obs = pd.DataFrame(rows, columns=["name", "perturbation", "context", "kind", "basal_cell"]).set_index("name")
    result = open_result(write_result(tmp_path / "r.h5ad", np.zeros((10, 2)), np.zeros((10, 2)), obs))
    xy = np.array([[0, 0], [1, 0], [9, 0], [5, 5], [6, 5], [7, 5], [0, 8], [1, 8], [30, 8], [9, 9]], np.float32)
    (shift,) = measured_shifts(result, a_map(xy)).to_dict("records")
    assert shift == {"perturbation": "drug", "context": "T", "x0": 1, "y0": 0, "x1": 1, "y1": 8, "n": 3}
    unmeasured = a_map(xy[:6])
    assert measured_shifts(result, unmeasured).empty
