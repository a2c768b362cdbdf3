"""The empirical null: what the score of a goal is when control cells are compared with control cells, and the p and q that follow.

Two groups of control cells are drawn without overlap, as large as the groups that are scored, and go through the same scoring. p of a score
is the share of such comparisons that score as high (one added to both, so that none is 0). Beyond the highest comparisons p follows an
exponential tail through the highest 250: the shapes that occur here (correlations, distances, means) fall off faster, so this errs towards
larger p. q is Benjamini and Hochberg's.

p says how often sampling noise alone looks like the goal. It does not say that a prediction is right.

Notation: n control cells, m cells of a group, B comparisons, g genes, k scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

TAIL: Final = 250  # highest comparisons that the tail goes through
LEAST: Final = 6  # control cells: two groups of three
AT_ONCE: Final = 500  # comparisons whose groups are held at once
FDR: Final = 0.05
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Groups:
    """Some comparisons: which control cells are in the first and in the second group.

    Args:
        first, second: (b, n) float32, 1 / m where a cell is in the group and 0 elsewhere: a product with cells (n, g) is their mean.
        size: m.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    size: int


def group_size(n: int, wanted: int) -> int:
    """Return how many of n control cells a group has: as many as are wanted, half of them at most; 0 where there are too few."""
    return 0 if n < LEAST else min(wanted, n // 2)


def control_groups(n: int, size: int, splits: int, rng: np.random.Generator) -> Iterator[Groups]:
    """Yield comparisons of control cells, some at a time.

    Args:
        n: control cells. size: of each group. splits: B.
        rng: of the draws.
    """
    for start in range(0, splits, AT_ONCE):
        b = min(AT_ONCE, splits - start)
        # the places of the 2 m smallest of n random numbers are a draw without repeats
        drawn = np.argpartition(rng.random((b, n), dtype=np.float32), 2 * size - 1, axis=1)[:, : 2 * size]
        drawn = rng.permuted(drawn, axis=1)  # a partition leaves small numbers first: the groups would differ
        weights = []
        for part in (drawn[:, :size], drawn[:, size:]):
            one = np.zeros((b, n), np.float32)
            np.put_along_axis(one, part, np.float32(1 / size), axis=1)
            weights.append(one)
        yield Groups(weights[0], weights[1], size)


def p_values(scores: Vector, null: Vector) -> Vector:
    """Return one-sided p of scores (k,), high ones being good, against the scores of comparisons (B,); NaN stays NaN.

    Args:
        scores: of what is ranked.
        null: of control cells against control cells.
    """
    known = np.sort(null[np.isfinite(null)])
    if not len(known):
        return np.full(len(scores), np.nan)
    b = len(known)
    above = b - np.searchsorted(known, scores, side="left")
    p = (above + 1) / (b + 1)
    tail = min(TAIL, b // 10)
    if tail >= 10:
        edge = known[-tail]
        excess = float((known[-tail:] - edge).mean())
        beyond = (above < 10) & (scores > edge)
        if excess > 0:
            p = np.where(beyond, (tail + 1) / (b + 1) * np.exp(-(scores - edge) / excess), p)
    return np.where(np.isfinite(scores), p, np.nan)
