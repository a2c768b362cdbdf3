"""Goals that are scored on cells: how much closer to target cells, or how much more probable a label of a head.

Both compare the first predicted cells of a condition with their own basal cells, and control cells with other control cells for the null.

target cells    (distance of basal cells - distance of predicted cells) / distance of all control cells; energy distances to the target in the
                principal components of controls and target. 1 is on the target, 0 no nearer, below 0 further off.
head            mean probability of the label in predicted cells - mean in their basal cells.

Notation: n control cells, s cells of a sample, t target cells, b comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from state_engine.errors import RequestError
from state_engine.metrics.population import Cloud, Components, energy_distance
from state_engine.screening.null import Groups

Matrix = NDArray[np.floating]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A score, and the number before and after from which it comes."""

    score: float
    before: float
    after: float


class CellGoal(Protocol):
    """A goal that is scored on cells of one context."""

    def score(self, predicted: Matrix, basal: Matrix) -> Scored:
        """Return the score of predicted cells beside their basal cells."""

    def null(self, groups: Groups) -> Vector:
        """Return (b,) scores of control cells against control cells."""


class TargetGoal:
    """Closeness to target cells, in one context.

    Args:
        controls: (n, g) control cells of the context.
        target: (t, g) target cells.
        seed: of the principal components.

    Raises:
        RequestError: controls and target are the same cloud, so that nothing could come closer.
    """

    def __init__(self, controls: Matrix, target: Matrix, seed: int) -> None:
        from scipy.spatial.distance import cdist

        self._components = Components.of(np.vstack([controls, target]), seed)
        self._target = self._components.cloud(target, seed)
        everyone = self._components.cloud(controls, seed)
        self._unit = energy_distance(everyone, self._target)
        if self._unit <= 0:
            raise RequestError(
                "The target cells lie where the control cells lie.",
                "Their energy distance is 0 or less.",
                "Choose other target cells.",
            )
        points = self._components.pca.transform(controls).astype(np.float64)
        # (n,) mean distance of each control cell to the target, and (n, n) to each other: all that the comparisons need
        self._to_target = cdist(points, self._target.points).mean(axis=1)
        self._between = cdist(points, points)

    def score(self, predicted: Matrix, basal: Matrix) -> Scored:
        """See `CellGoal`; before and after are distances."""
        before, after = (energy_distance(self._cloud(cells), self._target) for cells in (basal, predicted))
        return Scored((before - after) / self._unit, before, after)

    def null(self, groups: Groups) -> Vector:
        """See `CellGoal`."""
        first, second = (self._distances(weights, groups.size) for weights in (groups.first, groups.second))
        return (first - second) / self._unit

    def _distances(self, weights: NDArray[np.float32], size: int) -> Vector:
        """Return (b,) energy distances of groups of control cells to the target; their means within are over pairs of different cells."""
        one = weights.astype(np.float64)
        within = np.einsum("bn,bn->b", one @ self._between, one) * size / (size - 1)
        return np.asarray(2 * (one @ self._to_target) - within - self._target.within)

    def _cloud(self, cells: Matrix) -> Cloud:
        return self._components.cloud(np.asarray(cells))


class HeadGoal:
    """Probability of a head's label, in one context. Its cells are probabilities (s, 1), which the head gave.

    Args:
        controls: (n, 1) of control cells.
    """

    def __init__(self, controls: Matrix) -> None:
        self._controls = controls[:, 0].astype(np.float64)

    def score(self, predicted: Matrix, basal: Matrix) -> Scored:
        """See `CellGoal`; before and after are mean probabilities."""
        before, after = float(np.nanmean(basal)), float(np.nanmean(predicted))
        return Scored(after - before, before, after)

    def null(self, groups: Groups) -> Vector:
        """See `CellGoal`."""
        known = np.nan_to_num(self._controls, nan=float(np.nanmean(self._controls)))
        return np.asarray((groups.first - groups.second) @ known)
