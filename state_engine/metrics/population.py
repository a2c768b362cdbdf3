"""How far a cloud of predicted cells lies from the measured one: the energy distance in principal components of the measured cells.

E(X, Y) = 2 mean |x - y| - mean |x - x'| - mean |y - y'|, Euclidean, the means within a group over pairs of different cells, so that two
samples of the same cells differ by 0 on average (Székely and Rizzo 2013; as scPertEval 0.2). Boundary: numpy, SciPy and scikit-learn.

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


@dataclass(frozen=True, eq=False)
class Cloud:
    """Cells in principal components.

    Args:
        points: (n, k) float64.
        within: mean distance between two different cells; 0 for one cell.
    """

    points: np.ndarray
    within: float


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
        from scipy.spatial.distance import pdist

        if cells.shape[0] > MOST_CELLS:
            cells = cells[np.sort(np.random.default_rng(seed).choice(cells.shape[0], MOST_CELLS, replace=False))]
        dense = cells if isinstance(cells, np.ndarray) else cells.toarray()
        points = self.pca.transform(dense).astype(np.float64)
        return Cloud(points, float(pdist(points).mean()) if len(points) > 1 else 0.0)


def energy_distance(one: Cloud, other: Cloud) -> float:
    """Return the energy distance of two clouds in the same components."""
    from scipy.spatial.distance import cdist

    return float(2 * cdist(one.points, other.points).mean() - one.within - other.within)
