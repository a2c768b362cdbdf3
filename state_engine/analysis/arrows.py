"""Where cells go on a map: from each basal cell to its prediction, averaged within a condition, and the shift that was measured.

A condition is a perturbation in a context. Arrows of different conditions are never averaged: where two perturbations lead apart, their mean
would end where no cell is. For the same reason an arrow starts and ends at a cell, the one nearest the median of those that it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.analysis.projection import Projection, basal_rows
from state_engine.prediction.result import Result

GRID: Final = 10
"""Places on the map, along each side, whose cells are averaged together."""
LEAST_SHARE: Final = 0.05
"""Of a condition's cells that an averaged arrow stands for."""
LEAST_CELLS: Final = 3
_CONDITION: Final = ["perturbation", "context"]
_ENDS: Final = ["x0", "y0", "x1", "y1"]


@dataclass(frozen=True, eq=False)
class ConditionArrows:
    """Averaged arrows, and what is not among them.

    Args:
        table: perturbation, context, x0, y0, x1, y1 (UMAP units), n (cells that the arrow stands for), of (cells of its condition).
        few: arrows left out because they stand for too few cells.
        few_cells: how many cells those are.
    """

    table: pd.DataFrame
    few: int = 0
    few_cells: int = 0


def arrows(result: Result, projection: Projection, perturbation: str | None = None, context: str | None = None) -> pd.DataFrame:
    """Return a row for each predicted cell that is shown together with its basal cell (UMAP units).

    Columns: row, basal_row (of the result), perturbation, context, x0, y0 (basal cell), x1, y1 (prediction). The basal cell is
    the observed control of the same row of the data set; in results without that column, the one of the same context whose name
    (or whose own basal_cell, where filled) is the prediction's basal_cell.
    """
    place = np.full(result.n_cells, -1)
    place[projection.rows] = np.arange(len(projection.rows))
    rows = result.rows(keys.PREDICTED, context, perturbation)
    basal = basal_rows(result)[rows]
    shown = (basal >= 0) & (place[rows] >= 0)
    # -1 would index the last cell; those rows are out already, so 0 stands in
    shown &= place[np.where(basal >= 0, basal, 0)] >= 0
    rows, basal = rows[shown], basal[shown]
    start, end = projection.xy[place[basal]], projection.xy[place[rows]]
    labels = result.obs.iloc[rows]
    return pd.DataFrame(
        {
            "row": rows,
            "basal_row": basal,
            "perturbation": labels[keys.PERTURBATION].astype(str).to_numpy(),
            "context": labels[keys.CONTEXT].astype(str).to_numpy(),
            "x0": start[:, 0],
            "y0": start[:, 1],
            "x1": end[:, 0],
            "y1": end[:, 1],
        }
    )


def condition_arrows(table: pd.DataFrame, projection: Projection, n: int = GRID) -> ConditionArrows:
    """Return the arrows averaged within each condition and place: the map is an n x n grid, and an arrow belongs where its basal cell is.

    Args:
        table: from `arrows`.
    """
    low, high = projection.xy.min(axis=0), projection.xy.max(axis=0)
    # points on the upper edge would fall into bin n: they go into the last one
    step = np.maximum(high - low, 1e-9) / n
    bins = np.clip(((table[["x0", "y0"]].to_numpy() - low) / step).astype(int), 0, n - 1)
    by = [table["perturbation"], table["context"], pd.Series(bins[:, 0] * n + bins[:, 1], table.index, name="place")]
    found = _middles(table, by)
    found["of"] = found.groupby(_CONDITION)["n"].transform("sum")
    enough = (found["n"] >= LEAST_CELLS) & (found["n"] >= LEAST_SHARE * found["of"])
    few = found.loc[~enough, "n"]
    return ConditionArrows(found[enough].reset_index(drop=True), len(few), int(few.sum()))


def measured_shifts(result: Result, projection: Projection) -> pd.DataFrame:
    """Return an arrow for each condition with measured cells, from the context's control cells to those.

    Columns: perturbation, context, x0, y0, x1, y1 (UMAP units), n (measured cells on the map).
    """
    labels = result.obs.iloc[projection.rows]
    kind = labels[keys.KIND].astype(str).to_numpy()
    cells = pd.DataFrame(
        {
            "perturbation": labels[keys.PERTURBATION].astype(str).to_numpy(),
            "context": labels[keys.CONTEXT].astype(str).to_numpy(),
            # both ends are where the cell is; `_middles` takes the start of one row and the end of another
            "x0": projection.xy[:, 0], "y0": projection.xy[:, 1], "x1": projection.xy[:, 0], "y1": projection.xy[:, 1],
        }
    )  # fmt: skip
    control, measured = cells[kind == keys.OBSERVED_CONTROL], cells[kind == keys.OBSERVED]
    starts = _middles(control, [control["context"]])[["context", "x0", "y0"]]
    ends = _middles(measured, [measured["perturbation"], measured["context"]])[[*_CONDITION, "x1", "y1", "n"]]
    return ends.merge(starts, on="context")[[*_CONDITION, *_ENDS, "n"]]


def _middles(table: pd.DataFrame, by: list[pd.Series]) -> pd.DataFrame:
    """Return a row for each group: its labels, start and end at the cells nearest the medians of starts and of ends, and n (rows)."""
    grouped = table[_ENDS].groupby(by, sort=True)
    away = table[_ENDS] - grouped.transform("median")
    found = grouped.size().rename("n").reset_index()
    for ends in (["x0", "y0"], ["x1", "y1"]):
        nearest = np.hypot(away[ends[0]], away[ends[1]]).groupby(by, sort=True).idxmin()
        found[ends] = table.loc[nearest.to_numpy(), ends].to_numpy()
    return found
