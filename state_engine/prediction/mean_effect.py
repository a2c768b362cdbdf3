"""Give perturbations that a model does not know the mean effect of those it knows: a baseline that stands in, never a prediction.

Works on a finished result file (layout: `state_engine.prediction.result_writer`), block by block. The rows stay marked in obs["fallback"].
Why the mean effect: beside "no change" it is the baseline that predictions are measured against, so it is known what it is worth.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.errors import UnknownLabelError, listed
from state_engine.progress import OnProgress, Progress, silent

BLOCK = 1024


def fill_mean_effects(path: Path, unknown: tuple[str, ...], on_progress: OnProgress = silent) -> None:
    """Rewrites the predicted cells of some labels: basal cell + mean effect of the other labels in the same context.

    Args:
        path: a result with X, and perhaps layers and obsm, of as many cells for each label as for the predicted control.
        unknown: labels to rewrite.

    Raises:
        UnknownLabelError: there is no other label to take the mean of.
    """
    with h5py.File(path, "r+") as file:
        obs = ad.io.read_elem(file["obs"])
        predicted = obs[keys.KIND] == keys.PREDICTED
        known = [str(p) for p in pd.unique(obs[keys.PERTURBATION][predicted]) if p not in unknown]
        if not known:
            raise UnknownLabelError(
                f"The model knows none of the perturbations: {listed(unknown)}.",
                "Their mean effect is that of the perturbations it knows.",
                "Ask for some that it knows as well.",
            )
        contexts = [str(c) for c in pd.unique(obs[keys.CONTEXT][predicted])]
        places = [name for name in ("X", f"layers/{keys.RAW_LAYER}") if name in file]
        places += [f"obsm/{name}" for name in file["obsm"]]
        for number, context in enumerate(contexts):
            on_progress(Progress("Filling in mean effects", number, len(contexts)))
            here = (obs[keys.CONTEXT] == context).to_numpy()
            blocks = {p: np.nonzero(here & predicted & (obs[keys.PERTURBATION] == p))[0] for p in (*known, *unknown)}
            control = np.nonzero(here & (obs[keys.KIND] == keys.PREDICTED_CONTROL))[0]
            for place in places:
                effect = _mean_effect(file[place], [blocks[p] for p in known], control)
                for label in unknown:
                    _write(file[place], blocks[label], control, effect, at_least=0.0 if place == "X" else None)
            for label in unknown:
                file["obs"][keys.CONFIDENCE][blocks[label][0] : blocks[label][-1] + 1] = np.nan


def _mean_effect(matrix: h5py.Dataset, blocks: list[np.ndarray], control: np.ndarray) -> np.ndarray:
    """(g,) mean over labels of (mean of a label's cells - mean of the control's)."""
    means = [_mean(matrix, rows) for rows in blocks]
    return np.mean(means, axis=0) - _mean(matrix, control)


def _mean(matrix: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """(g,) mean of contiguous rows, in float64."""
    total = np.zeros(matrix.shape[1])
    for first in range(int(rows[0]), int(rows[-1]) + 1, BLOCK):
        total += matrix[first : min(first + BLOCK, int(rows[-1]) + 1)].sum(axis=0, dtype=np.float64)
    return total / len(rows)


def _write(matrix: h5py.Dataset, rows: np.ndarray, basal: np.ndarray, effect: np.ndarray, at_least: float | None) -> None:
    for first in range(0, len(rows), BLOCK):
        last = min(first + BLOCK, len(rows))
        values = matrix[int(basal[first]) : int(basal[last - 1]) + 1] + effect
        values = values if at_least is None else np.maximum(values, at_least)
        matrix[int(rows[first]) : int(rows[last - 1]) + 1] = values.astype(np.float32)
