"""What is added to a finished result: calibrated predictions, and mean effects in the place of labels that a model does not know.

    calibrated = basal cell + paired x (its own predicted effect) + mean x (what the other contexts say of the perturbation)
                            + common x (the mean effect of the context's other perturbations)
                            + features x (the effect that a regression on perturbation features tells)
                            + what takes the noise of the context's mean control cell out

Calibrated predictions are the third kind beside raw and corrected: layers["calibrated"] of expression, or obsm[KEY + "_calibrated"] of an
embedding; measured cells are as in X. So are predicted control cells, unless the noise of their mean is taken out: then it is taken out of
them too, so that their difference to perturbed cells is the effect and nothing else. The predicted condition's own training effect is left out.
Where a model's card recommends them they are X too (the same array under two names), and the corrected prediction is layers["corrected"], or
obsm[KEY + "_corrected"]. Cards of before recommend nothing, and know nothing of a perturbation that no other context was trained on: its rows
are NaN.

The mean effect of known labels, or the transfer of measured effects (`prediction.screens`), stands in for unknown ones: a baseline, never a
prediction, so its rows stay marked in obs["fallback"], and a calibration leaves them as they are.

Works block by block on the layout of `state_engine.prediction.result_writer`, in which the rows of a condition are consecutive. Mean effects are
added to expression as everywhere (`effects.apply`): no value falls below 0. Cells of a recommended mixture start from the control cells
and get to its mean by molecules (`Moving`); the network's effect of each cell, which is in the mean, stays in the corrected layer.

Notation: g features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.checkpoints.card import Bands, Calibration, ModelCard
from state_engine.data.files.frames import read_frame
from state_engine.effects.apply import ADDED, Moving, apply_effect, below_total, within_total
from state_engine.effects.from_features import FromFeatures
from state_engine.effects.store import check_features
from state_engine.effects.table import Condition, EffectTable
from state_engine.effects.transfer import LEAST_COMMON, Likeness, SharedEffects, shared_effects
from state_engine.errors import UnknownLabelError, listed
from state_engine.prediction.result_writer import new_array
from state_engine.progress import OnProgress, Progress, silent

BLOCK = 1024


# ---- calibrated predictions ----


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a calibrated layer is computed from, for each condition (perturbation, context) that has one.

    Args:
        card: of the model.
        paired: condition -> how much of its own predicted effect each cell gets.
        shared: condition -> effect (g,) that all its cells get.
        missing: conditions that have none.
        corrections: context -> (g,) what takes the noise of its mean control cell out.
        own: (context, kind of condition) -> calibration with the context's own weights, where some were used.
        bands: condition -> how often the direction of genes held on what the calibration left out, where that is known.
    """

    card: ModelCard
    paired: dict[Condition, float]
    shared: dict[Condition, np.ndarray]
    missing: tuple[Condition, ...]
    corrections: dict[str, np.ndarray] = field(default_factory=dict)
    own: dict[tuple[str, str], Calibration] = field(default_factory=dict)
    bands: dict[Condition, Bands] = field(default_factory=dict)

    @property
    def calibration(self) -> Calibration:
        """The weights of the model's calibration."""
        assert self.card.calibration is not None
        return self.card.calibration

    def facts(self) -> dict[str, object]:
        """Return JSON values for the manifest."""
        fitted = self.calibration
        return {
            "paired": fitted.paired,
            "mean": fitted.mean,
            "common": fitted.common,
            "features": fitted.features,
            "correction": fitted.correction,
            "contexts": list(fitted.contexts),
            "conditions": fitted.conditions,
            "chosen": fitted.chosen,
            "why": fitted.why,
            "without": [list(pair) for pair in self.missing],
            "own": [
                {"context": context, "kind": kind, "paired": c.paired, "mean": c.mean, "common": c.common, "features": c.features}
                for (context, kind), c in self.own.items()
            ],
        }

    def remark(self) -> str:
        """Return it in a sentence or two."""
        fitted = self.calibration
        common = f" and {fitted.common:.2f} of the mean effect of the context" if fitted.common else ""
        common += f" and {fitted.features:.2f} of what perturbation features tell" if fitted.features else ""
        text = (
            f"Calibrated: {fitted.paired:.2f} of the predicted effect and {fitted.mean:.2f} of {_TRANSFERS[fitted.transfer]}{common}, "
            f"as fitted on {fitted.conditions:,} held-out {'condition' if fitted.conditions == 1 else 'conditions'}."
        )
        if fitted.correction:
            text += (
                " The noise of the context's mean control cell is taken out: it moves, by a standard error at most, towards "
                "the control cells of contexts like it."
            )
        if fitted.chosen:
            text += f" The default output is the calibrated prediction. {fitted.why}"
        text += "".join(f" {of_context.why}" for of_context in self.own.values())
        if not self.missing:
            return text
        shown = ", ".join(f"{p} in {c}" for p, c in self.missing[:3])
        rest = f" and {len(self.missing) - 3:,} more" if len(self.missing) > 3 else ""
        return f"{text} {shown}{rest}: trained on in no other context, so they have no calibrated values."


_TRANSFERS = {
    "mean of other contexts": "the mean effect over other contexts",
    "likeness-weighted mean": "the mean effect over other contexts, weighted by how alike their controls are",
    "shrunk": "the mean effect over other contexts, weighted by how alike their controls are and shrunk by its noise",
}


def calibrated_of(
    card: ModelCard,
    table: EffectTable | None,
    conditions: tuple[Condition, ...],
    features: tuple[str, ...],
    width: int,
    controls: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    replaced: tuple[str, ...] = (),
    vectors: Mapping[str, np.ndarray] | None = None,
) -> Calibrated | None:
    """Return what can be calibrated of a prediction; None without a calibration, effects, or any condition that can be.

    Args:
        card: of the model.
        table: the effects saved with it.
        conditions: (perturbation, context) that are predicted.
        features: names of the predicted features, empty for an embedding.
        width: how many there are.
        controls: context -> (g,) mean control cell of the data set and its squared standard errors, for contexts that the table lacks.
        replaced: labels in whose place something else was written, which stays as it is.
        vectors: label -> perturbation features, where the model reads any.

    Raises:
        CheckpointError: the effects are of other features than the model predicts.
    """
    if card.calibration is None or table is None:
        return None
    check_features(table, features, width)
    likeness, regression = Likeness(table), FromFeatures(table, vectors) if vectors else None
    for context, (control, errors) in (controls or {}).items():
        likeness.know(context, control, errors)
    paired: dict[Condition, float] = {}
    shared: dict[Condition, np.ndarray] = {}
    own: dict[tuple[str, str], Calibration] = {}
    bands: dict[Condition, Bands] = {}
    corrections = _corrections(card, likeness, dict.fromkeys(context for _, context in conditions))
    for label, context in conditions:
        if label in replaced:
            paired[label, context], shared[label, context] = 1.0, np.zeros(width)
            continue
        found = shared_effects(likeness, label, context, regression)
        if not card.calibration.chosen and found.plain is None:
            continue
        fitted = card.calibration_for(block=found.common is not None, new=found.new) or card.calibration
        of_context = fitted.of_context(context)
        if fitted.bands is not None and fitted.chosen:
            bands[label, context] = fitted.bands
        if context in fitted.own:
            own[context, fitted.kind] = of_context
        # a label that the model does not know has no effect of its own, unless there is nothing else
        known = label in card.perturbations or not found.parts()
        paired[label, context], shared[label, context] = _weighted(of_context, known, found, width)
    missing = tuple(pair for pair in conditions if pair not in paired)
    return Calibrated(card, paired, shared, missing, corrections, own, bands) if paired else None


def _corrections(card: ModelCard, likeness: Likeness, contexts: Iterable[str]) -> dict[str, np.ndarray]:
    """Return what takes the noise of control cells out, (g,) for each context where the calibration asks for it and it is known.

    One for all conditions of a context, since its predicted control cells are the same for each: also for perturbations that no other context knows.
    """
    found = {}
    for context in contexts:
        fitted = card.calibration_for(block=likeness.table.n_perturbations(context) >= LEAST_COMMON)
        correction = likeness.correction(context) if fitted is not None and fitted.correction else None
        if correction is not None:
            found[context] = correction
    return found


def _weighted(fitted: Calibration, known: bool, found: SharedEffects, width: int) -> tuple[float, np.ndarray]:
    """Return how much of its own effect a cell gets, `known` to the model, and the effect (g,) that all cells of the condition get."""
    parts = found.parts()
    own, mean, common, features = fitted.weights(("paired", *parts) if known else parts)
    ways = {"mean of other contexts": found.plain, "likeness-weighted mean": found.likeness, "shrunk": found.transfer}
    transfer = ways[fitted.transfer] if ways[fitted.transfer] is not None else found.transfer
    effect = np.zeros(width)
    for weight, part in ((mean, transfer), (common, found.common), (features, found.features)):
        if part is not None:
            effect += weight * part
    return own, effect


def add_calibrated(
    path: Path, parts: Calibrated, key: str | None = None, on_progress: OnProgress = silent, moving: Moving = ADDED
) -> None:
    """Write the calibrated layer into a result.

    Args:
        path: a finished result; the first cells under the control label are the basal cells of each perturbation.
        parts: what it is computed from.
        key: name of the embedding in obsm; None for expression.
        on_progress: called for each condition.
        moving: how cells of a recommended mixture get to their mean; those of another calibration have the effects added.
    """
    with h5py.File(path, "r+") as file:
        obs = read_frame(file["obs"])
        source = file["X"] if key is None else file["obsm"][key]
        group, name = (file["layers"], keys.CALIBRATED_LAYER) if key is None else (file["obsm"], f"{key}_calibrated")
        target = new_array(group, name, source.shape)
        within, total = key is None and bool(parts.calibration.chosen), moving.total
        predicted = (obs[keys.KIND] == keys.PREDICTED).to_numpy()
        for rows in _pieces(_range(~predicted)):
            target[rows] = source[rows]
        for context, correction in parts.corrections.items():
            basal = _rows(obs, keys.PREDICTED_CONTROL, context)
            mean = _mean(source, basal)
            for rows in _pieces(basal):
                cells = source[rows]
                moved = apply_effect(cells, correction, mean, nonnegative=key is None)
                target[rows] = moving.cells(cells, moved, ("", context), rows.start - basal.start) if within else moved
        pairs = obs.loc[predicted, [keys.PERTURBATION, keys.CONTEXT]].astype(str).drop_duplicates()
        for number, (label, context) in enumerate(pairs.itertuples(index=False)):
            on_progress(Progress("Calibrating", number, len(pairs)))
            here = _rows(obs, keys.PREDICTED, context, label)
            effect = parts.shared.get((label, context))
            if effect is None:
                target[here] = np.nan
                continue
            weight = parts.paired[label, context]
            basal = _as_many(_rows(obs, keys.PREDICTED_CONTROL, context), here)
            # first the share of each cell's own effect: between its basal and its corrected values, so not below 0 either
            mean = weight * (_mean(source, here) - _mean(source, basal)) + _mean(target, basal)
            for rows, start in zip(_pieces(here), _pieces(basal), strict=True):
                # in the control cells of this layer the noise of their mean is taken out, where it is
                measured, control = source[start], target[start]
                cells = weight * (source[rows] - measured) + control
                if key is None:
                    np.maximum(cells, 0, out=cells)
                moved = apply_effect(cells, effect, mean, nonnegative=key is None)
                if not within:
                    target[rows] = below_total(moved, total)
                elif weight == 1 and not effect.any():
                    # the prediction alone, or what was written in its place: its cells as they are
                    target[rows] = within_total(below_total(moved, total), total)
                else:
                    first = rows.start - here.start
                    target[rows] = moving.cells(control, moved, (label, context), first, measured, within=True)
        if parts.calibration.chosen:
            for context in parts.corrections:  # last, so that perturbed cells are scaled once as well
                for rows in _pieces(_rows(obs, keys.PREDICTED_CONTROL, context)):
                    target[rows] = within_total(target[rows], total)
            _make_default(file, key)


def _make_default(file: h5py.File, key: str | None) -> None:
    """Let the calibrated prediction be the default output, and keep the corrected one beside it."""
    if key is None:
        file.move("X", f"layers/{keys.CORRECTED_LAYER}")
        # a second name of the same array, which takes no space
        file["X"] = file[f"layers/{keys.CALIBRATED_LAYER}"]
    else:
        file.move(f"obsm/{key}", f"obsm/{key}_{keys.CORRECTED_LAYER}")
        file[f"obsm/{key}"] = file[f"obsm/{key}_calibrated"]


# ---- mean effects for unknown labels ----


def fill_effects(
    path: Path, effects: Mapping[Condition, np.ndarray], on_progress: OnProgress = silent, moving: Moving = ADDED
) -> None:
    """Rewrite the predicted cells of some conditions: basal cells plus an effect on expression. An embedding stays as it is.

    Args:
        path: a result with X, and perhaps raw predictions; the first cells under the control label are the basal cells of each perturbation.
        effects: condition -> (g,).
        on_progress: called for each condition.
        moving: how cells of expression get to their mean.
    """
    with h5py.File(path, "r+") as file:
        obs = read_frame(file["obs"])
        for number, ((label, context), effect) in enumerate(effects.items()):
            on_progress(Progress("Filling in measured effects", number, len(effects)))
            here = _rows(obs, keys.PREDICTED, context, label)
            basal = _as_many(_rows(obs, keys.PREDICTED_CONTROL, context), here)
            for place in ("X", f"layers/{keys.RAW_LAYER}"):
                if place in file:
                    _move(file[place], here, basal, effect, (label, context), moving if place == "X" else None)
            file["obs"][keys.CONFIDENCE][here] = np.nan


def fill_mean_effects(path: Path, unknown: tuple[str, ...], on_progress: OnProgress = silent, moving: Moving = ADDED) -> None:
    """Rewrite the predicted cells of some labels: basal cells plus the mean effect of the other labels in the same context.

    Args:
        path: a result with X, and perhaps layers and obsm; the first cells under the control label are the basal cells of each perturbation.
        unknown: labels to rewrite.
        on_progress: called for each context.
        moving: how cells of expression get to their mean.

    Raises:
        UnknownLabelError: there is no other label to take the mean of.
    """
    with h5py.File(path, "r+") as file:
        obs = read_frame(file["obs"])
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
            basal = _rows(obs, keys.PREDICTED_CONTROL, context)
            for place in places:
                matrix = file[place]
                of = [_rows(obs, keys.PREDICTED, context, p) for p in known]
                effect = np.mean([_mean(matrix, rows) - _mean(matrix, _as_many(basal, rows)) for rows in of], axis=0)
                for label in unknown:
                    here = _rows(obs, keys.PREDICTED, context, label)
                    _move(matrix, here, _as_many(basal, here), effect, (label, context), moving if place == "X" else None)
            for label in unknown:
                file["obs"][keys.CONFIDENCE][_rows(obs, keys.PREDICTED, context, label)] = np.nan


def _move(
    matrix: h5py.Dataset, here: slice, basal: slice, effect: np.ndarray, condition: Condition, moving: Moving | None
) -> None:
    """Write basal cells plus an effect into the rows of a condition; without `moving` they may be negative, as a network's own output."""
    start = _mean(matrix, basal)
    for rows, control in zip(_pieces(here), _pieces(basal), strict=True):
        cells = matrix[control]
        moved = apply_effect(cells, effect, start, nonnegative=moving is not None)
        matrix[rows] = moved if moving is None else moving.cells(cells, moved, condition, rows.start - here.start)


# ---- rows ----


def _rows(obs: pd.DataFrame, kind: str, context: str, label: str | None = None) -> slice:
    """Return the rows of a condition."""
    chosen = (obs[keys.KIND] == kind) & (obs[keys.CONTEXT] == context)
    return _range((chosen if label is None else chosen & (obs[keys.PERTURBATION] == label)).to_numpy())


def _range(chosen: np.ndarray) -> slice:
    """Return the consecutive rows that are chosen."""
    at = np.flatnonzero(chosen)
    return slice(int(at[0]), int(at[-1]) + 1)


def _as_many(basal: slice, rows: slice) -> slice:
    """Return the first rows under the control label, as many as a condition has: the same basal cells."""
    return slice(basal.start, basal.start + rows.stop - rows.start)


def _pieces(rows: slice) -> list[slice]:
    """Return consecutive rows in blocks."""
    return [slice(first, min(first + BLOCK, rows.stop)) for first in range(rows.start, rows.stop, BLOCK)]


def _mean(matrix: h5py.Dataset, rows: slice) -> np.ndarray:
    """Return the mean (g,) of consecutive rows, in float64."""
    total = np.zeros(matrix.shape[1])
    for piece in _pieces(rows):
        total += matrix[piece].sum(axis=0, dtype=np.float64)
    return total / (rows.stop - rows.start)
