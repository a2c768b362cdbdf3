"""How well a predicted mean cell agrees with a measured one: one definition for every page, card and check.

Errors compare mean cells, correlations compare effects (minus the control). A number that does not exist is NaN, never zero.
The metrics of the challenges are not these: see `state_engine.metrics`. Boundary: numpy and scipy.

Notation: g features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOP = 50  # features that `overlap` looks at


@dataclass(frozen=True)
class Scores:
    """Agreement of one predicted condition with its measurement.

    Args:
        mae, mse: mean absolute and mean squared error of the mean cell.
        pearson: correlation of the predicted with the measured effect over all features; NaN when one of them does not vary.
    """

    mae: float
    mse: float
    pearson: float


def scores(
    predicted: np.ndarray, measured: np.ndarray, control: np.ndarray, predicted_effect: np.ndarray | None = None
) -> Scores:
    """Return the agreement of a predicted mean cell (g,) with the measured one.

    Args:
        predicted, measured, control: (g,) mean cells.
        predicted_effect: (g,) when it is known better than as `predicted - control`, as for paired predictions.
    """
    error = predicted - measured
    effect = predicted - control if predicted_effect is None else predicted_effect
    return Scores(float(np.abs(error).mean()), float(np.square(error).mean()), pearson(effect, measured - control))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two vectors (g,); NaN when one of them is the same everywhere."""
    # by range: the deviations of equal values from their rounded mean need not be exactly 0
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation of two vectors (g,), ties sharing their mean rank; NaN when one is the same everywhere."""
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def largest(effect: np.ndarray, n: int = TOP) -> np.ndarray:
    """Return the places of the n largest absolute effects, (n,); ties in the order of the features."""
    return np.argsort(-np.abs(effect), kind="stable")[:n]


def overlap(a: np.ndarray, b: np.ndarray, n: int = TOP) -> float:
    """Return the share of the n largest absolute effects of one vector that are among those of the other, 0 to 1."""
    return len(set(largest(a, n).tolist()) & set(largest(b, n).tolist())) / n
