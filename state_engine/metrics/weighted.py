"""Agreement of mean cells where genes count by how much they change: weights from Welch's t, and the scores that use them.

w_g = ((|t_g| - min |t|) / (max |t| - min |t|))^2, normalised to sum 1; t compares the perturbation with all other perturbed cells
(Mejia et al. 2025), so that genes which every perturbation moves alike say little, and the mean of the others cannot score.
Boundary: numpy.

Notation: g genes; x a measured mean cell, y a predicted one, o the mean of the other perturbations.
"""

from __future__ import annotations

import numpy as np


def effect_weights(t: np.ndarray, power: float = 2.0) -> np.ndarray:
    """Return weights (g,) that sum to 1, by the size of a test statistic (g,); all alike when the statistic is."""
    size = np.abs(t)
    spread = np.ptp(size)
    if spread == 0:
        return np.full(len(size), 1 / len(size))
    weights = ((size - size.min()) / spread) ** power
    return np.asarray(weights / weights.sum())


def weighted_mse(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean squared error of a mean cell (g,)."""
    return float(weights @ np.square(y - x))


def weighted_r2(y: np.ndarray, x: np.ndarray, other: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of the weighted squared distance between `other` and the measurement that the prediction explains.

    1 is perfect, 0 is what `other` (g,) itself scores; NaN when that is the measurement already.
    """
    base = weighted_mse(other, x, weights)
    return 1 - weighted_mse(y, x, weights) / base if base > 0 else float("nan")


def weighted_pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted correlation of two effects (g,); NaN when one of them is the same everywhere that counts."""
    a, b = a - weights @ a, b - weights @ b
    size = float(np.sqrt((weights @ a**2) * (weights @ b**2)))
    return float(weights @ (a * b)) / size if size > 1e-15 else float("nan")
