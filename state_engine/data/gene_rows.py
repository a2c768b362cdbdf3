"""Which rows of var are genes, where a file holds other features too: guides, antibodies, peaks.

Source: the kinds of features that a file names, as Cell Ranger writes them. Boundary: names and rows; no values, no file.

Notation: g genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from state_engine.errors import listed

# words for genes among kinds of features, in lower case
GENE_KINDS = frozenset({"gene expression", "gene", "genes", "gex", "rna"})


@dataclass(frozen=True, eq=False)
class OnlyGenes:
    """Rows of var that are genes, where others are guides, antibodies or peaks.

    Args:
        columns: (g,) of X and of layers, in file order.
        others: kind -> how many rows of var.
    """

    columns: np.ndarray
    others: dict[str, int]

    def words(self, n_rows: int) -> str:
        """Return for people what is left out of all rows of var."""
        kinds = listed([f"{n:,} {kind}" for kind, n in self.others.items()], 6)
        return f"{n_rows - len(self.columns):,} of the {n_rows:,} rows of var are no genes and are left out: {kinds}."


def genes_among(kinds: pd.Categorical | None) -> OnlyGenes | None:
    """Return which rows of var are genes by their kinds ("Gene Expression", ...); None when all are, or none is called so."""
    if kinds is None:
        return None
    names = np.array([*map(str, kinds.categories), ""], dtype=object)
    genes = np.array([name.casefold() in GENE_KINDS for name in names])[kinds.codes]
    if genes.all() or not genes.any():
        return None
    counts = pd.Series(names[kinds.codes[~genes]]).replace("", "without a kind").value_counts()
    return OnlyGenes(np.flatnonzero(genes), {str(kind): int(n) for kind, n in counts.items()})
