"""Weights of a context's own: where its left-out conditions are fitted better by them than by those common to all contexts.

In one screen a context may respond to every perturbation alike, and another to each in its own way; weights fitted over both suit one of them.
A context's own weights fit its own conditions, pulled towards the common ones as by half a condition. Both ways predict each of its conditions
without that condition in any fit, and its own are used where they come closer. `benchmarks.own_weights` compares it on screens with known truth.
Boundary: conditions and weights only; no data set, no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

import numpy as np

from state_engine.checkpoints.card import Calibration, OwnWeights
from state_engine.effects.apply import applied_mean
from state_engine.effects.mixture import PARTS, Condition, Mixture, fit_mixture, mixed_effect
from state_engine.effects.scores import scores

WORTH: Final = 0.5  # conditions that the common weights count as; 0.25 and 1 differ from it by 1 % of the error at most
FEWEST: Final = 2  # conditions of a context; with one nothing would be left to fit on


def own_weights(
    conditions: Sequence[Condition], common: Calibration, parts: tuple[str, ...], expression: bool
) -> dict[str, OwnWeights]:
    """Return context -> its own weights, for those that they fit better.

    Args:
        conditions: that the common weights were fitted on, each left out of the network behind it.
        common: the weights of all contexts together.
        parts: of `PARTS`, those that may be used.
        expression: what was predicted is not below 0.
    """
    found = {}
    for context in sorted({c.context for c in conditions}):
        here = [c for c in conditions if c.context == context]
        errors = _errors(here, conditions, common, parts, expression) if len(here) >= FEWEST else (0.0, 0.0)
        if errors[0] < errors[1]:
            without = fits_by_parts(here, parts, common.correction, conditions)
            weights = _own(here, _common(conditions, parts, common.correction), parts).weights()
            found[context] = OwnWeights(weights, len(here), round(errors[0], 6), round(errors[1], 6), without)
    return found


def _errors(
    here: Sequence[Condition], every: Sequence[Condition], common: Calibration, parts: tuple[str, ...], expression: bool
) -> tuple[float, float]:
    """Return the mean MAE of a context's conditions by its own weights and by the common ones, each condition outside of the fits."""
    errors = []
    for condition in here:
        rest = _common([c for c in every if c is not condition], parts, common.correction)
        own = _own([c for c in here if c is not condition], rest, parts)
        theirs = rest if common.chosen == "mixture" else Mixture(common.paired, common.mean, common.common, common.features)
        # a part alone may weigh the other contexts in another way than a mixture does
        way = {"mean of other contexts": "mean", "likeness-weighted mean": "likeness"}.get(common.transfer, "")
        as_used = replace(condition, mean=condition.baselines.get(way, condition.mean))
        effects = mixed_effect(condition, own), mixed_effect(as_used, theirs)
        truth, control = condition.control + condition.observed, condition.control
        errors.append([scores(applied_mean(control, e, nonnegative=expression), truth, control).mae for e in effects])
    own_error, common_error = np.mean(errors, axis=0).tolist()
    return own_error, common_error


def _common(conditions: Sequence[Condition], parts: tuple[str, ...], correction: float) -> Mixture:
    if not any(np.any(c.stacked()[[PARTS.index(p) for p in parts]]) for c in conditions):
        return Mixture(0.0, 0.0, correction=correction)
    return fit_mixture(conditions, parts=parts, correction=correction)


def _own(here: Sequence[Condition], common: Mixture, parts: tuple[str, ...]) -> Mixture:
    """Return weights that fit conditions of one context, pulled towards the common ones."""
    places = [PARTS.index(name) for name in parts]
    if not any(np.any(c.stacked()[places]) for c in here):
        return common
    prior = tuple(common.weights()[i] for i in places)
    return fit_mixture(here, prior, WORTH, parts=parts, correction=common.correction)


def fits_by_parts(
    conditions: Sequence[Condition], parts: tuple[str, ...], correction: float, every: Sequence[Condition] = ()
) -> dict[str, tuple[float, ...]]:
    """Return weights for conditions that lack parts, by the parts that they have ("paired+common").

    Args:
        conditions: to fit on.
        parts: of `PARTS`, all that there are.
        correction: see `fit_mixture`.
        every: those of all contexts, where the weights are a context's own; () where they are the common ones.
    """
    found: dict[str, tuple[float, ...]] = {}
    for size in range(1, len(parts) + 1):
        for there in combinations(parts, size):
            if any(np.any(c.stacked()[[PARTS.index(p) for p in there]]) for c in conditions):
                common = _common(every or conditions, there, correction)
                found["+".join(there)] = (_own(conditions, common, there) if every else common).weights()
    return found
