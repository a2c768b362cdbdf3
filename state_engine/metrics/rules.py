"""When a gene is called: the two rules, and the words that stand beside each count.

- `significant`: FDR < 0.05, on predicted and on measured cells. The rule of Evaluate and of every score, as the published metrics have it.
- `changed`: the fold change, of genes that are detected. The rule for predicted cells on Explore, Screen and the Genes page: more predicted
  cells, which is a choice, make more genes significant, and change no fold change. Measured cells on the Genes page need an FDR < 0.05 too.

Without numpy at import: profiles are read where it is not loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNIFICANT: Final = 0.05
"""False discovery rate under which a gene is called."""
FOLD: Final = 0.25
"""Absolute log2 fold change from which a gene counts as changed."""
DETECTED: Final = 0.01
"""Share of the cells on one side, at least, that detect a gene which counts as changed in predicted cells."""
BY_FDR: Final = f"FDR < {SIGNIFICANT:g}"
"""The rule `significant`, as it stands in the header of a count."""
BY_CHANGE: Final = f"|log2FC| ≥ {FOLD:g}"
"""The rule `changed`, as it stands in the header of a count; `change_words` has all of it."""


def significant(fdr: NDArray[np.float64], below: float = SIGNIFICANT) -> NDArray[np.bool_]:
    """Return which genes are called by their false discovery rate."""
    return fdr < below


def detected(fraction: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which genes are detected in enough cells of either side, by the shares of cells that detect them."""
    return (fraction >= DETECTED) | (other >= DETECTED)


def changed(change: NDArray[np.float64], there: NDArray[np.bool_], fold: float = FOLD) -> NDArray[np.int8]:
    """Return 1, -1 or 0 for each gene that goes up, goes down, or does not change.

    Args:
        change: log2 fold changes.
        there: genes that may be called at all: `detected` ones in predicted cells, `significant` ones in measured cells.
        fold: the absolute log2 fold change that is needed.
    """
    import numpy as np

    return np.where(there & (np.abs(change) >= fold), np.sign(change), 0).astype(np.int8)


def change_words(fold: float = FOLD) -> str:
    """Return the rule `changed` of predicted cells in words."""
    return f"|log2 fold change| ≥ {fold:g}, detected in {DETECTED:.0%} of the cells of one side"
