"""How much of one effect and how much of another to use: two weights by bounded least squares.

    calibrated effect = paired x (the network's paired effect) + mean x (the perturbation's mean effect over other contexts)

The weights minimise the mean squared error of effects over conditions, plus a pull towards a prior that is worth a fraction of a
condition: with many conditions the data decide, with one the prior has its say. Two variables in a box: the minimum is found
exactly, by looking at the inside, the four edges and the four corners.
Boundary: numpy only.

Notation: k conditions, g features, n cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from state_engine.effects.apply import applied_mean
from state_engine.errors import ConfigError

# The prior is the corrected prediction as it is, since one cell type says little about another: among seven real ones, weights
# fitted on one alone were often wrong for the next, on four together hardly ever.
PRIOR = (1.0, 0.0)
PRIOR_CONDITIONS = 2.0
BOUNDS = (0.0, 1.0)


@dataclass(frozen=True)
class Mixture:
    """The weights of the paired effect and of the mean effect."""

    paired: float
    mean: float


@dataclass(frozen=True, eq=False)
class Condition:
    """One perturbation in one context: effects (g,) as the network pairs them, as other contexts had them, as measured.

    Args:
        context, perturbation: its labels.
        paired, mean, observed: effects on the mean cell.
        control: (g,) mean control cell; to score what the cells become.
        cells: measured perturbed cells.
    """

    context: str
    perturbation: str
    paired: np.ndarray
    mean: np.ndarray
    observed: np.ndarray
    control: np.ndarray
    cells: int


def fit_mixture(
    conditions: Sequence[Condition],
    prior: tuple[float, float] = PRIOR,
    worth: float = PRIOR_CONDITIONS,
    bounds: tuple[float, float] = BOUNDS,
) -> Mixture:
    """Return the weights that fit the measured effects best; each condition counts once, its features alike.

    Args:
        conditions: to fit on.
        prior: weights towards which the fit is pulled.
        worth: how many conditions, with effects as large as the measured ones, the prior weighs as.
        bounds: of both weights.

    Raises:
        ConfigError: no conditions, or nothing in them that moves.
    """
    if not conditions:
        raise ConfigError("Weights cannot be fitted.", "There is no condition to fit them on.")
    gram, target, size = np.zeros((2, 2)), np.zeros(2), 0.0
    for condition in conditions:
        x = np.stack([condition.paired, condition.mean]).astype(np.float64)
        gram += x @ x.T
        target += x @ condition.observed.astype(np.float64)
        size += float(np.square(condition.observed, dtype=np.float64).sum())
    if not np.diag(gram).any():
        raise ConfigError("Weights cannot be fitted.", "Neither the model nor the other contexts show any effect.")
    # in the size of the measured effects, so that effects that are far too large do not outweigh the prior by their size
    pull = worth * size / len(conditions)
    gram, target = gram + pull * np.eye(2), target + pull * np.array(prior)
    best = min(_candidates(gram, target, bounds), key=lambda w: float(w @ gram @ w / 2 - target @ w))
    return Mixture(float(best[0]), float(best[1]))


def _candidates(gram: np.ndarray, target: np.ndarray, bounds: tuple[float, float]) -> list[np.ndarray]:
    """Return where the minimum in the box may be: inside, or on an edge (its corners included)."""
    low, high = bounds
    found = []
    inside = np.linalg.lstsq(gram, target, rcond=None)[0]
    if (inside >= low).all() and (inside <= high).all():
        found.append(inside)
    for fixed in (0, 1):
        free = 1 - fixed
        for value in bounds:
            point = np.empty(2)
            point[fixed] = value
            along = (target[free] - gram[free, fixed] * value) / gram[free, free] if gram[free, free] > 0 else low
            point[free] = np.clip(along, low, high)
            found.append(point)
    return found


def mixed_mean(condition: Condition, mixture: Mixture, *, nonnegative: bool) -> np.ndarray:
    """Return the mean cell (g,) that the weights give.

    Args:
        condition: effects and the mean control cell.
        mixture: the weights.
        nonnegative: the values are expression; False for an embedding.
    """
    effect = mixture.paired * condition.paired + mixture.mean * condition.mean
    return applied_mean(condition.control, effect, nonnegative=nonnegative)
