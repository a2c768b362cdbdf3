"""Whether values can be used by a model or a score: a sample decided the scale, but every value that is used is looked at here.

One NaN makes every cell of its set NaN, and a negative value is no expression. Boundary: reads and refuses; nothing is repaired.

Notation: m cells, w columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import scipy.sparse as sp

from state_engine.data.dataset import Dataset
from state_engine.data.scale import MOST_COUNT
from state_engine.errors import RepresentationError, ScaleError, listed

MOST_EMBEDDED: Final = 1e18  # of an embedding: squares of larger numbers have no float32


class ValueCheck:
    """Look at values block by block, and refuse at the end with counts of cells and genes.

    Args:
        dataset: the values' data set.
        representation: "X", "layers/NAME" or "obsm/NAME"; in the last, values may be negative.
        columns: that are used; None for all, as when a cell's depth is taken from all of them.
    """

    def __init__(self, dataset: Dataset, representation: str, columns: Sequence[int] | None = None) -> None:
        self.dataset, self.representation = dataset, representation
        self.signed = representation.startswith("obsm/")
        self.most = MOST_EMBEDDED if self.signed else MOST_COUNT
        self.used = None if columns is None else np.array([c for c in columns if c >= 0], dtype=np.int64)
        self.looked_at = 0
        self._cells: dict[str, list[np.ndarray]] = {"not finite": [], "negative": [], "too large": []}
        self._columns: dict[str, list[np.ndarray]] = {what: [] for what in self._cells}

    @property
    def found(self) -> bool:
        """Something that `require_usable` refuses was found already."""
        return any(self._cells.values())

    def add(self, rows: np.ndarray, values: np.ndarray | sp.csr_matrix) -> None:
        """Look at the values (m, w) of some cells, as they are stored."""
        self.looked_at += len(rows)
        stored = values if isinstance(values, np.ndarray) else values.data
        # comparisons with NaN are false, so this pass is almost always the only one
        least = -self.most if self.signed else 0.0
        if not stored.size or (float(stored.min()) >= least and float(stored.max()) <= self.most):
            return
        chosen = values if self.used is None else values[:, self.used]
        found = sp.coo_matrix(chosen)
        finite = np.isfinite(found.data)
        large = finite & (np.abs(found.data) > self.most)
        for what, bad in (("not finite", ~finite), ("negative", found.data < 0), ("too large", large)):
            if bad.any() and not (what == "negative" and self.signed):
                columns = np.unique(found.col[bad])
                self._cells[what].append(rows[np.unique(found.row[bad])])
                self._columns[what].append(columns if self.used is None else self.used[columns])

    def require_usable(self) -> None:
        """Refuse what was found.

        Raises:
            RepresentationError: values are NaN or infinite, or too large to be computed with. ScaleError: expression is negative.
        """
        where = f"{self.representation} of {self.dataset.path.name}"
        if self._cells["not finite"]:
            remedy = "Remove or repair these cells"
            if self.signed:
                remedy = "Remove these cells (an empty cell has no embedding)"
            raise RepresentationError(
                f"{where} has cells whose values are not all finite (NaN or infinite).",
                self._counted("not finite"),
                f"{remedy}, or read another matrix.",
            )
        if self._cells["negative"]:
            raise ScaleError(
                f"{where} has negative values: neither counts nor log1p of them is negative.",
                self._counted("negative"),
                "Remove or repair these cells, or choose the matrix of counts or log1p values.",
            )

        if self._cells["too large"]:
            raise RepresentationError(
                f"{where} has values above {self.most:.0e}: no {'embedding' if self.signed else 'gene of a cell'} has such.",
                self._counted("too large"),
                "Remove or repair these cells, or read another matrix.",
            )

    def _counted(self, what: str) -> str:
        """Return how many cells and genes, and names of the first."""
        cells = np.unique(np.concatenate(self._cells[what]))
        columns = np.unique(np.concatenate(self._columns[what]))
        names = listed([str(name) for name in self.dataset.obs_names[cells]], 3)
        where = f"{len(columns):,} of {self.dataset.representation(self.representation).width:,} features"
        if not self.signed:
            where = f"{len(columns):,} of {self.dataset.n_genes:,} genes, such as {listed([self.dataset.genes.names[i] for i in columns[:3]], 3)}"
        return f"{len(cells):,} of {self.looked_at:,} cells that were looked at, such as {names}. They are in {where}."
