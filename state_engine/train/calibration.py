"""How much of the network's paired effect, of the transferred and of the common effect to use, fitted on conditions left out of the training.

For each such condition (`conditions`: a perturbation in a context) the model's effect on the mean cell, and what the training cells alone say
of it, are set beside the effect that was measured. The weights are those of `effects.mixture`.

Conditions of contexts that trained other perturbations (blocks), of contexts left out whole and of perturbations that no other context knows are
weighed apart. A mixture is used where it is at
least as close to what was left out of its own fit as each of its parts and baselines alone; else the closest of these is used in its place.
A context whose own conditions are fitted better by weights of its own has those (`train.own_weights`).

Notation: s cells in a set, g features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from state_engine.checkpoints.card import Bands, Calibration, ModelCard
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.checkpoints.store import set_calibration
from state_engine.effects.apply import applied_mean
from state_engine.effects.bands import fit_bands
from state_engine.effects.means import effect_table
from state_engine.effects.mixture import ALONE, BOUNDS, PARTS, Condition, Mixture, even_prior, fit_mixture, mixed_mean
from state_engine.effects.scores import scores
from state_engine.effects.store import save_effects
from state_engine.effects.table import EffectTable
from state_engine.progress import OnProgress, silent
from state_engine.train.adapt import with_effects
from state_engine.train.conditions import output_sources, predicts_expression, validation_conditions
from state_engine.train.own_weights import fits_by_parts, own_weights

if TYPE_CHECKING:
    from state_engine.data.splits.apply import Split

Origin = Literal["validation cells", "left-out contexts", "left-out blocks", "left-out perturbations"]
MOST_FOLDS = 10


def add_baselines(
    folder: Path, split: Split, seed: int = 42, device: str = "cpu", on_progress: OnProgress = silent, fit: bool = True,
    start: EffectTable | None = None,
) -> ModelCard:  # fmt: skip
    """Give a trained model its effect table, and its calibration where validation cells allow one.

    Args:
        folder: a model of our store.
        split: that it was trained on.
        seed: of basal cells and folds.
        device: where to predict.
        on_progress: told once per block of training cells and once per validation condition.
        fit: also fit the calibration.
        start: effects of the model that it was adapted from, which serve beside its own.

    Returns:
        The card as it is now.
    """
    loaded = load_model(folder, device)
    sources = output_sources(split, loaded.card)
    names = loaded.card.output_genes or () if predicts_expression(loaded.card) else ()
    effects = with_effects(effect_table(split, sources, names, on_progress), start)
    save_effects(folder, effects)
    if not fit:
        return set_calibration(folder, None)
    conditions = tuple(validation_conditions(loaded, effects, split, seed, on_progress))
    return set_calibration(folder, *fit_calibrations(conditions, predicts_expression(loaded.card), seed))


def calibrate(
    loaded: LoadedModel, effects: EffectTable, split: Split, seed: int = 42, on_progress: OnProgress = silent
) -> Calibration | None:
    """Fit the weights on validation cells.

    Args:
        loaded: the model.
        effects: of the training cells, in the features that the model predicts (`output_sources`).
        split: says which cells are for validation; those for testing are not touched.
        seed: of basal cells, of the choice among more than `MOST_CONDITIONS` conditions, and of folds.
        on_progress: told once per condition.

    Returns:
        The calibration, or None when nothing but the network says anything of any validation condition.

    Raises:
        IncompatibleError: a file of the split that the model cannot read.
    """
    conditions = tuple(validation_conditions(loaded, effects, split, seed, on_progress))
    return fit_calibrations(conditions, predicts_expression(loaded.card), seed)[0]


def fit_calibrations(
    conditions: Sequence[Condition], expression: bool, seed: int = 42, origin: Origin = "validation cells"
) -> tuple[Calibration | None, Calibration | None, Calibration | None]:
    """Return the calibration of a model, and those of blocks and of perturbations that no other context knows, where they have their own.

    Arguments are those of `fit_calibration`. The first is that of contexts left out whole, or the next that there is.
    """
    folds = origin == "left-out contexts"
    kinds: dict[Kind, Origin] = {
        "contexts": origin,
        "blocks": "left-out blocks" if folds else origin,
        "perturbations": "left-out perturbations" if folds else origin,
    }
    whole, blocks, new = (
        fit_calibration([c for c in conditions if kind_of(c) == kind], expression, seed, of) for kind, of in kinds.items()
    )
    if whole is not None:
        return whole, blocks, new
    return (blocks, None, new) if blocks is not None else (new, None, None)


def kind_of(condition: Condition) -> Kind:
    """Return what was left out, as the condition's parts tell."""
    if condition.mean is None:
        return "perturbations"
    return "contexts" if condition.common is None else "blocks"


def fit_calibration(
    conditions: Sequence[Condition], expression: bool, seed: int = 42, origin: Origin = "validation cells"
) -> Calibration | None:
    """Return the weights that fit conditions, and how well they do on those left out of the fit; None without any effect to weigh.

    Args:
        conditions: that the models behind them never saw; all of one kind (`kind_of`).
        expression: what was predicted is not below 0.
        seed: of the folds; noted on the calibration.
        origin: where the conditions come from.
    """
    if not any(np.any(c.stacked()) for c in conditions):
        return None
    parts = tuple(name for name in PARTS if any(name in c.parts() for c in conditions))
    # with the noise of the control cells taken out, and without
    correction, (crossed, fits), measures = min(
        (_weighed(conditions, seed, parts, expression, correction) for correction in _corrections(conditions)),
        key=lambda tried: tried[2].get("mae_calibrated", 0.0),
    )
    whole = fit_mixture(conditions, parts=parts, correction=correction)
    chosen, used, transfer, why = _choice(whole, measures)
    fitted = Calibration(
        paired=used.paired,
        mean=used.mean,
        lowest=BOUNDS[0],
        highest=BOUNDS[1],
        prior=even_prior(parts),
        contexts=tuple(sorted({c.context for c in conditions})),
        perturbations=tuple(sorted({c.perturbation for c in conditions})),
        conditions=len(conditions),
        cells=sum(c.cells for c in conditions),
        crossed=crossed,
        folds=len(fits),
        paired_range=_range([fit.paired for fit, _ in fits]),
        mean_range=_range([fit.mean for fit, _ in fits]),
        scores=measures,
        seed=seed,
        origin=origin,
        common=used.common,
        kind=kind_of(conditions[0]),
        transfer=transfer,
        without=fits_by_parts(conditions, parts, used.correction),
        fitted=() if chosen == "mixture" else whole.weights(),
        chosen=chosen,
        why=why,
        correction=used.correction,
        features=used.features,
    )
    fitted = replace(fitted, bands=_bands(conditions, fits, used if chosen != "mixture" else None, expression, origin))
    # a context that is left out whole has no conditions of its own to fit on
    return fitted if fitted.kind == "contexts" else replace(fitted, own=own_weights(conditions, fitted, parts, expression))


def _bands(
    conditions: Sequence[Condition],
    fits: list[tuple[Mixture, list[Condition]]],
    alone: Mixture | None,
    expression: bool,
    origin: Origin,
) -> Bands | None:
    """Return how often the direction of a gene holds, each condition predicted by weights that were fitted without it."""
    told = [(fit if alone is None else alone, c) for fit, fold in fits for c in fold]
    if not told or not expression:
        return None
    predicted = [mixed_mean(c, mixture, nonnegative=expression) - c.control for mixture, c in told]
    return fit_bands(predicted, [c.observed for _, c in told], _ORIGINS[origin])


_ORIGINS: dict[Origin, str] = {
    "validation cells": "validation conditions",
    "left-out contexts": "conditions of left-out contexts",
    "left-out blocks": "left-out conditions",
    "left-out perturbations": "conditions of left-out perturbations",
}
_Crossed = tuple[Literal["contexts", "perturbations", ""], list[tuple[Mixture, list[Condition]]]]


def _corrections(conditions: Sequence[Condition]) -> tuple[float, ...]:
    """Return the weights of the correction that are tried, the one that serves where nothing tells them apart first."""
    return (1.0, 0.0) if all(c.correction is not None for c in conditions) else (0.0,)


def _weighed(
    conditions: Sequence[Condition], seed: int, parts: tuple[str, ...], expression: bool, correction: float
) -> tuple[float, _Crossed, dict[str, float]]:
    """Return the correction, weights fitted with it without some conditions each, and how close all comes."""
    crossed = _fits_without(conditions, seed, parts, correction)
    return correction, crossed, _scores(conditions, crossed[1], expression)


Kind = Literal["contexts", "blocks", "perturbations"]
Transfer = Literal["mean of other contexts", "likeness-weighted mean", "shrunk"]
# a part or baseline alone, by the name of its score: what it is called, its weights, and how the other contexts are weighed
_ALONE: dict[str, tuple[str, Mixture, Transfer]] = {
    "none": ("no change", ALONE["none"], "shrunk"),
    "corrected": ("the model's paired effect", ALONE["corrected"], "shrunk"),
    "transfer": ("the weighted mean of other contexts, shrunk by its noise,", ALONE["transfer"], "shrunk"),
    "likeness": ("the likeness-weighted mean", ALONE["transfer"], "likeness-weighted mean"),
    "mean": ("the mean of other contexts", ALONE["transfer"], "mean of other contexts"),
    "common": ("the mean of the context", ALONE["common"], "shrunk"),
    "features": ("the regression on perturbation features", ALONE["features"], "shrunk"),
}


def _choice(whole: Mixture, measures: dict[str, float]) -> tuple[str, Mixture, Transfer, str]:
    """Return what is used, its weights, how other contexts are weighed, and the reason: the closest on what was left out of a fit."""
    ours = measures.get("mae_calibrated")
    if ours is None:
        return "mixture", whole, "shrunk", "Fitted on one condition, so nothing was left to compare the mixture with its parts."
    rivals = {name: measures[f"mae_{name}"] for name in _ALONE if f"mae_{name}" in measures}
    best = min(rivals, key=rivals.__getitem__)
    words, mixture, transfer = _ALONE[best]
    if ours <= rivals[best]:
        why = f"The mixture is closest to what was left out: MAE {ours:.4f}, the best alone ({words}) {rivals[best]:.4f}."
        return "mixture", whole, "shrunk", why
    why = f"On what was left out {words} alone is closest: MAE {rivals[best]:.4f}, the mixture {ours:.4f}."
    return words, mixture, transfer, why


def _fits_without(conditions: Sequence[Condition], seed: int, parts: tuple[str, ...], correction: float) -> _Crossed:
    """Return weights fitted without some conditions, and these: a context at a time, else perturbations; none with one of each."""
    kinds: dict[Literal["contexts", "perturbations"], Callable[[Condition], str]] = {
        "contexts": lambda c: c.context,
        "perturbations": lambda c: c.perturbation,
    }
    for kind, label_of in kinds.items():
        labels = sorted(set(map(label_of, conditions)))
        if len(labels) > 1:
            order = np.random.default_rng(seed).permutation(len(labels))
            number = {labels[i]: place % MOST_FOLDS for place, i in enumerate(order.tolist())}
            fits = []
            for fold in range(min(MOST_FOLDS, len(labels))):
                rest = [c for c in conditions if number[label_of(c)] != fold]
                here = [c for c in conditions if number[label_of(c)] == fold]
                fits.append((fit_mixture(rest, parts=parts, correction=correction), here))
            return kind, fits
    return "", []


def _scores(conditions: Sequence[Condition], fits: list[tuple[Mixture, list[Condition]]], expression: bool) -> dict[str, float]:
    """Return mean errors of the mean cell: of each effect alone, of the baselines, and of the mixture on conditions left out of its fit."""
    predicted: dict[str, list[tuple[np.ndarray, Condition]]] = {}
    for name, mixture in ALONE.items():
        part = {"transfer": "mean"}.get(name, name)
        if part not in PARTS or all(part in c.parts() for c in conditions):
            predicted[name] = [(mixed_mean(c, mixture, nonnegative=expression), c) for c in conditions]
    for name in sorted(set.intersection(*(set(c.baselines) for c in conditions))):
        predicted[name] = [(applied_mean(c.control, c.baselines[name], nonnegative=expression), c) for c in conditions]
    if fits:
        predicted["calibrated"] = [(mixed_mean(c, fit, nonnegative=expression), c) for fit, fold in fits for c in fold]
    absolute, squared = {}, {}
    for name, pairs in predicted.items():
        each = [scores(mean, c.control + c.observed, c.control) for mean, c in pairs]
        absolute[f"mae_{name}"] = round(float(np.mean([s.mae for s in each])), 6)
        squared[f"mse_{name}"] = round(float(np.mean([s.mse for s in each])), 6)
    return absolute | squared


def _range(values: list[float]) -> tuple[float, ...]:
    return (min(values), max(values)) if values else ()
