"""How far predicted cells are from measured ones: as a cloud, and gene by gene.

The cloud: energy distance in principal components of the measured cells.

E(X, Y) = 2 mean |x - y| - mean |x - x'| - mean |y - y'|, Euclidean, the means within a group over pairs of different cells, so that two
samples of the same cells differ by 0 on average (Székely and Rizzo 2013; as scPertEval 0.2).

Gene by gene (`Marginals`): Wasserstein distance W1 = mean over quantiles of |x_(q) - y_(q)|, and the difference of the shares of cells above 0.
Boundary: numpy, SciPy and scikit-learn.

Notation: n and m cells of the two groups, g genes, k components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

COMPONENTS: Final = 50
MOST_CELLS: Final = 2000  # of each side: the distances of all pairs are computed
EXPRESSED: Final = 0.05  # share of the measured or the control cells that express a gene which is compared
QUANTILES: Final = 200
GENES_AT_ONCE: Final = 1000  # dense in memory


@dataclass(frozen=True, eq=False)
class Cloud:
    """Cells in principal components.

    Args:
        points: (n, k) float64.
        within: mean distance between two different cells; 0 for one cell.
    """

    points: np.ndarray
    within: float

    @classmethod
    def of(cls, points: np.ndarray) -> Cloud:
        """Return points (n, k) as a cloud."""
        from scipy.spatial.distance import pdist

        return cls(points, float(pdist(points).mean()) if len(points) > 1 else 0.0)


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of measured cells."""

    pca: PCA

    @classmethod
    def of(cls, cells: np.ndarray, seed: int = 0) -> Components:
        """Fit on cells (n, g) log1p expression; at most `COMPONENTS`, and fewer where cells or genes are fewer."""
        from sklearn.decomposition import PCA

        return cls(PCA(min(COMPONENTS, *cells.shape), random_state=seed).fit(cells))

    def cloud(self, cells: np.ndarray | sp.csr_matrix, seed: int = 0) -> Cloud:
        """Return cells (n, g) as a cloud; of more than `MOST_CELLS` that many are drawn."""
        if cells.shape[0] > MOST_CELLS:
            cells = cells[np.sort(np.random.default_rng(seed).choice(cells.shape[0], MOST_CELLS, replace=False))]
        return Cloud.of(self.points(cells))

    def points(self, cells: np.ndarray | sp.csr_matrix) -> np.ndarray:
        """Return cells (n, g) in the components, (n, k) float64."""
        dense = cells if isinstance(cells, np.ndarray) else cells.toarray()
        return np.asarray(self.pca.transform(dense), dtype=np.float64)


def energy_distance(one: Cloud, other: Cloud) -> float:
    """Return the energy distance of two clouds in the same components."""
    from scipy.spatial.distance import cdist

    return float(2 * cdist(one.points, other.points).mean() - one.within - other.within)


def energy_draws(one: Cloud, other: Cloud, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return energy distances, (draws,), of clouds whose cells are drawn again with replacement; a bootstrap of cells.

    The mean within a cloud is over pairs of different cells as in `energy_distance`: a cell that is drawn twice is no pair with itself.
    """
    from scipy.spatial.distance import cdist

    (a, wa), (b, wb) = ((cloud.points, _weights(len(cloud.points), draws, rng)) for cloud in (one, other))
    # counts (draws, n) x distances (n, m) x counts (draws, m), a sum for each draw
    across = ((wa @ cdist(a, b)) * wb).sum(axis=1) / (len(a) * len(b))
    within = []
    for points, weights in ((a, wa), (b, wb)):
        pairs = len(points) ** 2 - (weights**2).sum(axis=1)  # of different cells, both orders
        sums = ((weights @ cdist(points, points)) * weights).sum(axis=1)
        within.append(np.divide(sums, pairs, out=np.zeros(draws), where=pairs > 0))
    return np.asarray(2 * across - within[0] - within[1])


def _weights(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of n cells is drawn, (draws, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Marginals:
    """Single genes of some cells, each by itself, k genes.

    Args:
        quantiles: (`QUANTILES`, k) float32, at the middles of equal parts.
        share: (k,) share of the cells above 0.
    """

    quantiles: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, cells: np.ndarray | sp.csr_matrix, genes: np.ndarray) -> Marginals:
        """Read cells (n, g) log1p expression, n > 0, at some genes (indices)."""
        n = cells.shape[0]
        # the sorted value whose part of 1/n holds the quantile; a gene at a time would be slow, all at once large
        places = ((np.arange(QUANTILES) + 0.5) / QUANTILES * n).astype(int)
        quantiles, columns = (
            np.zeros((QUANTILES, len(genes)), np.float32),
            cells if isinstance(cells, np.ndarray) else cells.tocsc(),
        )
        for start in range(0, len(genes), GENES_AT_ONCE):
            part = slice(start, start + GENES_AT_ONCE)
            chosen = columns[:, genes[part]]
            dense = chosen if isinstance(chosen, np.ndarray) else chosen.toarray()
            quantiles[:, part] = np.sort(dense, axis=0)[places]
        return cls(quantiles, expressing(cells)[genes])

    def distance(self, other: Marginals) -> float:
        """Return the Wasserstein distance of the median gene; NaN without genes."""
        if not len(self.share):
            return float("nan")
        return float(np.median(np.abs(self.quantiles - other.quantiles).mean(axis=0)))

    def share_off(self, other: Marginals) -> float:
        """Return by how much the share of cells that express a gene differs: mean absolute difference over genes; NaN without genes."""
        return float(np.abs(self.share - other.share).mean()) if len(self.share) else float("nan")


def expressing(cells: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """Return the share of the cells (n, g) above 0, (g,)."""
    return np.asarray((cells > 0).sum(axis=0), np.float64).ravel() / cells.shape[0]


def expressed_genes(measured: np.ndarray | sp.csr_matrix, control: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """Return the genes (indices) that enough measured or control cells express, which are compared one by one."""
    return np.flatnonzero(np.maximum(expressing(measured), expressing(control)) >= EXPRESSED)
