"""Numbers of attention maps: what heads do, what cells receive, how mixed a set is. Pure numpy.

Notation: l layers, h heads, s cells in the set, g input features. Weights are (s, s): row i says what cell i attends to. "Times an
equal share" is a weight times s: 1 where a cell gets as much as if all cells got the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
COMPONENTS: Final = 10
ROUNDS: Final = 25


def chosen_map(maps: Floats, layer: int | None, head: int | None) -> Floats:
    """(s, s) weights of one head of (l, h, s, s) maps; None averages over layers or heads."""
    some = maps if layer is None else maps[layer : layer + 1]
    some = some if head is None else some[:, head : head + 1]
    return some.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)


def focus(maps: Floats) -> Floats:
    """(l, h) effective number of cells that a cell attends to: exp of the entropy of a row, averaged over rows; 1 to s."""
    out = np.empty(maps.shape[:2], np.float32)
    for layer, head in np.ndindex(*out.shape):
        rows = maps[layer, head].astype(np.float64)
        rows = rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)
        out[layer, head] = np.exp(-(rows * np.log(np.maximum(rows, 1e-12))).sum(1)).mean()
    return out


def received(weights: Floats) -> Floats:
    """(s,) attention that each cell gets from all cells, times an equal share."""
    return (weights.mean(axis=0, dtype=np.float64) * len(weights)).astype(np.float32)


def shrink(values: Floats, most: int) -> Floats:
    """(k, k) means of blocks of (s, s) values, k at most `most`; blocks differ by at most one cell in size."""
    s = len(values)
    if s <= most:
        return values
    cuts = np.linspace(0, s, most + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), cuts, 0), cuts, 1)
    sizes = np.diff(np.r_[cuts, s])
    return (sums / np.outer(sizes, sizes)).astype(np.float32)


def thumbnails(maps: Floats, order: NDArray[np.int64], most: int) -> Floats:
    """(l, h, k, k) shrunk maps with rows and columns in the given order, times an equal share."""
    layers, heads, s, _ = maps.shape
    small = [[shrink(maps[i, j][np.ix_(order, order)], most) for j in range(heads)] for i in range(layers)]
    return np.array(small, np.float32) * s


def distance_to_mean(basal: Floats) -> Floats:
    """(s,) Euclidean distance of each cell's (s, g) input to the mean of the set."""
    return np.linalg.norm(basal - basal.mean(axis=0), axis=1).astype(np.float32)


def random_pairs(basal: Floats, n: int = 1000, seed: int = 0) -> Floats:
    """Distances between n random pairs of different cells of the set; empty for a set of one cell."""
    s = len(basal)
    if s < 2:
        return np.empty(0, np.float32)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, s, n)
    second = (first + rng.integers(1, s, n)) % s
    return np.linalg.norm(basal[first] - basal[second], axis=1).astype(np.float32)


def clusters(basal: Floats, k: int) -> NDArray[np.int64]:
    """(s,) groups of similar cells: k-means on ten principal components of the input, largest group first; at most k groups."""
    centred = basal - basal.mean(axis=0)
    u, scale, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    points = u[:, :COMPONENTS] * scale[:COMPONENTS]
    # started from equal parts along the first component: stable, and one odd cell does not become a group of its own
    parts = np.array_split(np.argsort(points[:, 0], kind="stable"), min(k, len(points)))
    centres = np.array([points[part].mean(0) for part in parts])
    for _ in range(ROUNDS):
        nearest = _distances(points, centres).argmin(1)
        centres = np.array([points[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(len(centres))])
    sizes = np.bincount(nearest, minlength=len(centres))
    rank = np.empty(len(centres), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(centres))
    return rank[nearest]


def quarters(values: Floats) -> NDArray[np.int64]:
    """(s,) 0 to 3: the quarter of its rank, lowest first; equal values share a quarter."""
    cuts = np.quantile(values, [0.25, 0.5, 0.75])
    return np.searchsorted(cuts, values, side="left")


def between_groups(weights: Floats, codes: NDArray[np.int64], n: int) -> Floats:
    """(n, n) mean attention from a cell of one group (row) to a cell of another (column), times an equal share; NaN where empty."""
    member = np.eye(n)[codes]
    sizes = member.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (member.T @ weights.astype(np.float64) @ member) / np.outer(sizes, sizes)
    return (means * len(weights)).astype(np.float32)


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's, -1 to 1; NaN when one of them does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks with ties averaged."""
    _, back, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[back]


def _distances(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(points[:, None] - centres[None], axis=2)
