"""Cell count, mean and variance of a group of cells for each gene, and Welch's test between two groups. Boundary: numpy and scipy.

Groups are kept as sums, so that cells stream by in blocks and "all other perturbed cells" is a subtraction.

Notation: b cells of a block, g genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over a group of cells.

    Args:
        n: how many cells.
        total, squares: (g,) float64 sums of the values and of their squares.
    """

    n: int
    total: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Return the sums of cells (b, g)."""
        wide = values.astype(np.float64)
        return cls(len(values), wide.sum(axis=0), np.square(wide).sum(axis=0))

    @classmethod
    def none(cls, width: int) -> Moments:
        """Return the sums of no cells, over `width` genes."""
        return cls(0, np.zeros(width), np.zeros(width))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.total - other.total, self.squares - other.squares)

    @property
    def mean(self) -> np.ndarray:
        """(g,) mean cell."""
        return self.total / self.n

    @property
    def variance(self) -> np.ndarray:
        """(g,) sample variance; 0 for a single cell."""
        spread = self.squares - self.total**2 / self.n
        # a gene without variance may come out a rounding error below 0
        return np.maximum(spread, 0) / max(1, self.n - 1)


def welch(group: Moments, rest: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Return Welch's t and its two-sided p-value for each gene, (g,) each.

    A gene that varies in neither group has t 0 and p 1: nothing can be said of it.
    """
    from scipy.stats import t as student

    own, other = group.variance / group.n, rest.variance / rest.n
    error = own + other
    varies = error > 0
    t = np.zeros(len(error))
    t[varies] = (group.mean - rest.mean)[varies] / np.sqrt(error[varies])
    # Welch-Satterthwaite degrees of freedom
    shares = own**2 / max(1, group.n - 1) + other**2 / max(1, rest.n - 1)
    freedom = np.ones(len(error))
    np.divide(error**2, shares, out=freedom, where=shares > 0)
    return t, np.where(varies, 2 * student.sf(np.abs(t), freedom), 1.0)
