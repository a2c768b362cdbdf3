"""Thinning of counts: each molecule that was read is kept with the same chance, as if the cell had been read less deeply.

What a cell becomes depends on the seed, its row in the file and its counts alone: the same whichever cells are read, in whichever order.
Boundary: counts in, counts out; which cells keep how much is decided in `data.depth`.

Notation: n cells of a file, m of them read, g genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

MOST = 2.0**53  # whole numbers end there


@dataclass(frozen=True, eq=False)
class Thinning:
    """How much of its counts each cell of a file keeps.

    Args:
        shares: (n,) chance of each molecule to be kept, above 0; 1 leaves a cell as it is, to the bit.
        seed: of the draws.
    """

    shares: np.ndarray = field(repr=False)
    seed: int

    def thinned(self, values: np.ndarray | sp.csr_matrix, rows: np.ndarray) -> np.ndarray | sp.csr_matrix:
        """Return counts (m, g) of the rows after thinning; the same layout and number type, no place lost.

        Values that are no counts (negative, not finite, beyond whole numbers) stay, for whoever looks for them.
        """
        if not (self.shares[rows] < 1).any():
            return values
        if isinstance(values, np.ndarray):
            found = values.copy()
            for place, row in enumerate(rows.tolist()):
                found[place] = self._of_cell(found[place], row)
            return found
        data = values.data.copy()
        for place, row in enumerate(rows.tolist()):
            own = slice(values.indptr[place], values.indptr[place + 1])
            data[own] = self._of_cell(data[own], row)
        return sp.csr_matrix((data, values.indices, values.indptr), shape=values.shape)

    def _of_cell(self, counts: np.ndarray, row: int) -> np.ndarray:
        share = float(self.shares[row])
        usable = (counts > 0) & (counts < MOST)  # neither is true of what is not a number
        if share >= 1 or not usable.any():
            return counts
        # a generator of its own for each cell, so that what it becomes does not hang on what was read before it
        rng = np.random.Generator(np.random.Philox(key=[self.seed, row]))
        made = counts.copy()
        made[usable] = rng.binomial(np.rint(counts[usable]).astype(np.int64), share)
        return made
