"""Predictions that start from measured control cells: the mean of all control cells plus the effect between the same cells.

Which control cells were drawn is so no part of a score, and a prediction has one number here, on the Genes page and in its training. Where a
file does not name the cells that predictions start from, or they are not among the measured ones, the mean of the predicted cells is taken as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from state_engine import keys
from state_engine.data.embedding_record import ON_CONTROL_CELLS, prediction_kind
from state_engine.data.files.columns import read_coded
from state_engine.data.files.hdf5 import open_h5
from state_engine.effects.apply import applied_mean
from state_engine.effects.means import Means
from state_engine.errors import DataError
from state_engine.evaluation.compared import ComparedFiles, Side


def paired_means(files: ComparedFiles, side: Side, own: Means, real: Means) -> Means:
    """Return the means of a predicted file, each the measured control moved by the effect between predicted cells and those they start from.

    Args:
        files: what is compared.
        side: the predicted file.
        own: its means.
        real: means of the measured cells.
    """
    starts = _basal_names(side)
    if starts is None or not _on_control_cells(side):
        return own
    names = _basal_names(files.real)
    if names is None:
        names = np.asarray(files.real.dataset.obs_names).astype(str)
    values, kept, context = own.values.copy(), dict[bytes, np.ndarray](), None
    for row, (p, c) in enumerate(own.conditions):
        if p == files.control:
            continue
        if c != context:
            context, place = c, _places(files.real.rows(files.control, c), names)
        drawn = starts[side.rows(p, c)]
        if not len(drawn) or any(name not in place for name in drawn):
            continue
        rows, times = np.unique([place[name] for name in drawn], return_counts=True)
        if len(rows) == len(place) and np.ptp(times) == 0:
            continue  # all control cells, each as often: their mean is that of the control
        key = rows.tobytes() + times.tobytes()
        if key not in kept:
            kept[key] = _mean_of(files.real, rows, times)
        values[row] = applied_mean(real.mean(files.control, c), own.mean(p, c) - kept[key])
    return replace(own, values=values)


def _on_control_cells(side: Side) -> bool:
    with open_h5(side.dataset.path) as file:
        kind = prediction_kind(file, side.source.representation)
    return kind in ON_CONTROL_CELLS or (kind == "unknown" and side.source.representation == keys.X)


def _basal_names(side: Side) -> np.ndarray | None:
    """Return the name of the control cell that each cell starts from, or is, (n,); None where the file does not say."""
    with open_h5(side.dataset.path) as file:
        if keys.BASAL_CELL not in file["obs"]:
            return None
        try:
            coded = read_coded(file["obs"], keys.BASAL_CELL, side.dataset.n_cells)
        except DataError:  # a column of that name that is none of ours
            return None
    return np.array([*coded.names, ""])[coded.codes]  # a missing name has the code -1


def _places(rows: np.ndarray, names: np.ndarray) -> dict[str, int]:
    """Return name -> row of some cells; nothing where names repeat."""
    place = dict(zip(names[rows].tolist(), rows.tolist(), strict=True))
    return place if len(place) == len(rows) and "" not in place else {}


def _mean_of(side: Side, rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the mean (g,) of cells, each counted so many times."""
    total, done = np.zeros(len(side.source.columns or ())), 0
    for _, values in side.blocks(rows):
        total += times[done : done + len(values)] @ values.astype(np.float64)
        done += len(values)
    return np.asarray(total / times.sum())
