"""The third kind of prediction, beside raw and corrected: as much of each effect as validation cells said to believe.

    calibrated = basal cell + paired x (its own predicted effect) + mean x (the perturbation's mean effect over other contexts)

Works on a finished result file (layout: `state_engine.prediction.result_writer`), block by block: layers["calibrated"] of expression, or
obsm[KEY + "_calibrated"] of an embedding. Rows whose perturbation no other context was trained on are NaN, since there is no
baseline to mix with; measured and control cells are what they are in X. The predicted context's own training effect is left out.

Expression stays at 0 or above without losing any of the effect: a cell between its basal and its corrected expression, neither of
which is negative, is moved by the mean effect as every mean effect is (`effects.apply`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.checkpoints.card import Calibration, ModelCard
from state_engine.effects.apply import apply_effect
from state_engine.effects.baselines import mean_of_other_contexts
from state_engine.effects.store import check_features
from state_engine.effects.table import EffectTable
from state_engine.prediction.result_writer import new_array
from state_engine.progress import OnProgress, Progress, silent

BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a calibrated layer is made of, for the conditions (perturbation, context) that have a baseline.

    Args:
        calibration: the weights.
        effects: condition -> mean effect over the other contexts, (g,).
        missing: conditions that have none.
    """

    calibration: Calibration
    effects: dict[tuple[str, str], np.ndarray]
    missing: tuple[tuple[str, str], ...]

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        fitted = self.calibration
        return {
            "paired": fitted.paired,
            "mean": fitted.mean,
            "contexts": list(fitted.contexts),
            "conditions": fitted.conditions,
            "without": [list(pair) for pair in self.missing],
        }

    def remark(self) -> str:
        """In a sentence or two."""
        fitted = self.calibration
        text = (
            f"Calibrated: {fitted.paired:.2f} of the predicted effect and {fitted.mean:.2f} of the mean effect over other contexts, "
            f"as fitted on {fitted.conditions:,} held-out {'condition' if fitted.conditions == 1 else 'conditions'}."
        )
        return text + (f" {missing_words(self.missing)} have no calibrated values." if self.missing else "")


def missing_words(pairs: tuple[tuple[str, str], ...]) -> str:
    """Conditions whose perturbation was trained on in no other context, in words."""
    shown = ", ".join(f"{p} in {c}" for p, c in pairs[:3])
    rest = f" and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
    return f"{shown}{rest}: trained on in no other context, so they"


def calibrated_of(
    card: ModelCard,
    table: EffectTable | None,
    conditions: tuple[tuple[str, str], ...],
    features: tuple[str, ...],
    width: int,
) -> Calibrated | None:
    """What can be calibrated of a prediction; None without a calibration, effects, or any condition that has a baseline.

    Args:
        card: of the model.
        table: the effects saved with it.
        conditions: (perturbation, context) that are predicted.
        features: names of the predicted features, empty for an embedding.
        width: how many there are.

    Raises:
        CheckpointError: the effects are of other features than the model predicts.
    """
    if card.calibration is None or table is None:
        return None
    check_features(table, features, width)
    effects = {pair: found.effect for pair, found in mean_of_other_contexts(table, conditions).items()}
    missing = tuple(pair for pair in conditions if pair not in effects)
    return Calibrated(card.calibration, effects, missing) if effects else None


def add_calibrated(path: Path, made: Calibrated, key: str | None = None, on_progress: OnProgress = silent) -> None:
    """Write the calibrated layer into a result.

    Args:
        path: a finished result, with as many predicted cells for each label as for the predicted control.
        made: what it is made of.
        key: name of the embedding in obsm; None for expression.
        on_progress: told once a condition.
    """
    with h5py.File(path, "r+") as file:
        obs = ad.io.read_elem(file["obs"])
        source = file["X"] if key is None else file["obsm"][key]
        group, name = (file["layers"], keys.CALIBRATED_LAYER) if key is None else (file["obsm"], f"{key}_calibrated")
        target = new_array(group, name, source.shape)
        predicted = (obs[keys.KIND] == keys.PREDICTED).to_numpy()
        _copy(source, target, np.flatnonzero(~predicted))
        pairs = obs.loc[predicted, [keys.PERTURBATION, keys.CONTEXT]].astype(str).drop_duplicates()
        for number, (label, context) in enumerate(pairs.itertuples(index=False)):
            on_progress(Progress("Calibrating", number, len(pairs)))
            here = _rows(obs, keys.PREDICTED, context, label)
            effect = made.effects.get((label, context))
            if effect is None:
                target[here] = np.nan
            else:
                _mix(source, target, here, _rows(obs, keys.PREDICTED_CONTROL, context), made.calibration, effect, key is None)


def _mix(
    source: h5py.Dataset,
    target: h5py.Dataset,
    corrected: slice,
    basal: slice,
    weights: Calibration,
    effect: np.ndarray,
    expression: bool,
) -> None:
    mean = weights.paired * _mean(source, corrected) + (1 - weights.paired) * _mean(source, basal)
    n = corrected.stop - corrected.start
    for first in range(0, n, BLOCK):
        size = min(BLOCK, n - first)
        start, other = corrected.start + first, basal.start + first
        cells = weights.paired * source[start : start + size] + (1 - weights.paired) * source[other : other + size]
        target[start : start + size] = apply_effect(cells, weights.mean * effect, mean, nonnegative=expression)


def _rows(obs: pd.DataFrame, kind: str, context: str, label: str | None = None) -> slice:
    """The rows of a condition: they are consecutive."""
    chosen = (obs[keys.KIND] == kind) & (obs[keys.CONTEXT] == context)
    at = np.flatnonzero(chosen if label is None else chosen & (obs[keys.PERTURBATION] == label))
    return slice(int(at[0]), int(at[-1]) + 1)


def _mean(matrix: h5py.Dataset, rows: slice) -> np.ndarray:
    """(g,) mean of consecutive rows, in float64."""
    total = np.zeros(matrix.shape[1])
    for first in range(rows.start, rows.stop, BLOCK):
        total += matrix[first : min(first + BLOCK, rows.stop)].sum(axis=0, dtype=np.float64)
    return total / (rows.stop - rows.start)


def _copy(source: h5py.Dataset, target: h5py.Dataset, rows: np.ndarray) -> None:
    """Rows as they are; they lie behind the predicted ones, so they are consecutive."""
    for first in range(int(rows[0]), int(rows[-1]) + 1, BLOCK):
        last = min(first + BLOCK, int(rows[-1]) + 1)
        target[first:last] = source[first:last]
