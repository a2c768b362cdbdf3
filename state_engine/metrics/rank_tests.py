"""Which genes differ: every group of cells against one reference, gene by gene. The one test of the house.

U and p of the two-sided Mann-Whitney U test, with tie and continuity correction, are those of illico (compiled; nothing is compiled at the
first call); means and detection are computed here, on the values as they are. The test counts values under `FLOOR` as "not detected", in
both groups: see `state_engine.analysis.differential` for why.

Genes are taken in blocks: sparse cells stay sparse, and progress is reported after each block.

Notation: k groups, n cells of a group, m cells of the reference, g genes.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from state_engine.progress import OnProgress, Progress, silent

FLOOR: Final = 0.2
"""log1p expression under which a cell counts as not detecting the gene: a single count in a cell of 45,000."""
PSEUDOCOUNT: Final = 0.1
"""Added to both natural means (counts per 10,000) before the ratio."""
ENGINE: Final = "illico"
BLOCK_VALUES: Final = 10_000_000
"""Values (cells x genes) of one block, as if it were dense."""

Matrix: TypeAlias = "NDArray[np.floating] | sp.csr_matrix | sp.csr_array"


class Columns(Protocol):
    """Cells of which some genes are read at a time."""

    shape: tuple[int, int]

    def __getitem__(self, part: tuple[slice, slice], /) -> NDArray[np.floating]: ...


Table: TypeAlias = NDArray[np.float64]

# illico's own label of the reference; the groups are called by their number
_REFERENCE: Final = "reference"


@dataclass(frozen=True, eq=False)
class RankTests:
    """Tests of k groups against one reference.

    Args:
        groups: their names, in the order of the rows below.
        n, n_reference: cells of each group, (k,), and of the reference.
        p_value: (k, g), 1 where a gene is the same in all cells.
        statistic: (k, g), U of the group, 0 to n x m.
        mean, mean_reference: (k, g) and (g,), natural: means of expm1 of the values.
        fraction, fraction_reference: (k, g) and (g,), share of the cells not under the floor, 0 to 1.
    """

    groups: tuple[str, ...]
    n: NDArray[np.int64]
    n_reference: int
    p_value: Table
    statistic: Table
    mean: Table
    mean_reference: Table
    fraction: Table
    fraction_reference: Table

    @property
    def fdr(self) -> Table:
        """(k, g) p-values adjusted by Benjamini-Hochberg over all genes of a group."""
        from scipy.stats import false_discovery_control

        return np.asarray(false_discovery_control(self.p_value, axis=1)) if self.p_value.size else self.p_value

    @property
    def log2_fold_change(self) -> Table:
        """(k, g) of the natural means, `PSEUDOCOUNT` added to both."""
        return fold_change(self.mean, self.mean_reference)


def fold_change(mean: Table | np.float64, reference: Table | np.float64) -> Table:
    """Return the log2 ratio of natural means; the pseudocount keeps genes near zero from leading a list."""
    return np.asarray(np.log2((mean + PSEUDOCOUNT) / (reference + PSEUDOCOUNT)))


def against_reference(
    groups: Mapping[str, Matrix | Columns],
    reference: Matrix | Columns,
    floor: float = FLOOR,
    on_progress: OnProgress = silent,
    block_values: int = BLOCK_VALUES,
) -> RankTests:
    """Test each group, (n, g) log1p expression, against the reference, (m, g). No matrix is changed.

    Args:
        groups: cells by name; each has one at least.
        floor: values under it count as not detected in the test and in the fractions.
        on_progress: called after each block of genes; may raise `JobCancelled`.
        block_values: values of a block.
    """
    parts = [*groups.values(), reference]
    sizes = np.array([part.shape[0] for part in parts])
    labels = np.repeat([*map(str, range(len(groups))), _REFERENCE], sizes)
    g = int(reference.shape[1])
    p, u = np.empty((len(groups), g)), np.empty((len(groups), g))
    mean, fraction = np.empty((len(parts), g)), np.empty((len(parts), g))
    width = max(1, block_values // int(sizes.sum()))
    for start in range(0, g, width):
        on_progress(Progress("Testing genes", start, g))
        columns = slice(start, min(start + width, g))
        blocks = [part[:, columns] for part in parts]
        for row, block in enumerate(blocks):
            mean[row, columns], fraction[row, columns] = _mean_and_fraction(block, floor)
        p[:, columns], u[:, columns] = _mann_whitney(_above(blocks, floor), labels, sizes)
    on_progress(Progress("Testing genes", g, g))
    return RankTests(tuple(groups), sizes[:-1], int(sizes[-1]), p, u, mean[:-1], mean[-1], fraction[:-1], fraction[-1])


def _mean_and_fraction(block: Matrix, floor: float) -> tuple[Table, Table]:
    """Return the natural mean of each gene, and the share of cells that detect it."""
    if isinstance(block, np.ndarray):
        detected = block >= floor if floor > 0 else block > 0
        return np.expm1(block).mean(axis=0, dtype=np.float64), detected.mean(axis=0)
    n, g = block.shape
    rows = block.tocsr()
    detected = rows.data >= floor if floor > 0 else rows.data > 0
    # expm1(0) is 0: the stored values of a gene are all there is to its sum
    mean = np.bincount(rows.indices, weights=np.expm1(rows.data), minlength=g) / n
    return mean, np.bincount(rows.indices[detected], minlength=g) / n


def _above(blocks: list[Matrix], floor: float) -> NDArray[np.floating] | sp.csr_array:
    """Stack blocks, what lies under the floor as 0; sparse as illico's sparse kernel wants it: no zeros stored, genes in order."""
    if all(isinstance(block, np.ndarray) for block in blocks):
        values = np.vstack(blocks)
        np.copyto(values, 0, where=values < floor)
        return values
    cells = sp.csr_array(sp.vstack([sp.csr_array(block) for block in blocks], format="csr"))
    cells.data[cells.data < floor] = 0
    cells.eliminate_zeros()
    cells.sort_indices()
    cells.indices, cells.indptr = cells.indices.astype(np.int32), cells.indptr.astype(np.int32)
    return cells


def _mann_whitney(
    cells: NDArray[np.floating] | sp.csr_array, labels: NDArray[np.str_], sizes: NDArray[np.int64]
) -> tuple[Table, Table]:
    """Return p (k, width) and U (k, width) of the groups "0" to "k - 1" against `_REFERENCE`. `sizes` are theirs, then its."""
    import anndata
    import illico
    import pandas as pd
    from loguru import logger

    logger.disable("illico")  # it writes to the standard error what is reported here
    names = [pd.RangeIndex(size).astype(str) for size in cells.shape]
    data = anndata.AnnData(cells, pd.DataFrame({"group": labels}, names[0]), pd.DataFrame(index=names[1]))
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
        table = illico.asymptotic_wilcoxon(data, is_log1p=False, group_keys="group", reference=_REFERENCE, n_threads=_threads())
    # its groups are in the order of their names as text: "0", "1", "10", …, then the reference
    k = len(sizes) - 1
    order = np.argsort(np.argsort([str(i) for i in range(k)]))
    p, u = (table[name].to_numpy().reshape(k + 1, -1)[order] for name in ("p_value", "statistic"))
    # within half a rank of the middle the continuity correction would overshoot; p is 1 there, as in SciPy
    middle = sizes[:-1, None] * sizes[-1] / 2
    return np.where(np.abs(u - middle) <= 0.5, 1.0, p), u


def _threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def q_values(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p adjusted by Benjamini and Hochberg over the known ones; NaN stays NaN."""
    from scipy.stats import false_discovery_control

    known, q = np.isfinite(p), np.full(len(p), np.nan)
    if known.any():
        q[known] = false_discovery_control(np.minimum(p[known], 1.0))
    return q
