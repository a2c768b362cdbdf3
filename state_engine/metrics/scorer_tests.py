"""The rank tests of cell-eval2, taken from the house's own engine: the same U, the same p, compiled ahead.

cell-eval2 takes nothing from pdex but the p-values of a Mann-Whitney U test with ties and continuity corrected, and their adjustment within a
perturbation; these are `rank_tests`'. pdex needs a minute of compilation in each process and many times the processor time, so that scores of
full size did not come to an end. Fold changes, filters and every metric stay cell-eval2's.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.sparse as sp

from state_engine.metrics.rank_tests import BLOCK_VALUES, against_reference

if TYPE_CHECKING:
    import anndata as ad
    import pandas as pd
    import polars

COLUMNS: Final = 2048  # of a dense group in float64 at once


@contextlib.contextmanager
def own_rank_tests() -> Iterator[None]:
    """Let cell-eval2 take p-values from `rank_tests` in the place of pdex, and mean cells from log1p values without a copy of all of them."""
    from cell_eval2 import cache, de_compute, prep

    means = partial(grouped_means, prep._grouped_means)
    own = {
        (de_compute, "_de_pdex_pvalues"): p_values,
        (de_compute, "_to_linear"): partial(natural, de_compute._to_linear),
        (de_compute, "_grouped_means"): means,
        (prep, "_grouped_means"): means,
        (cache, "_hash_X"): partial(content_hash, cache._hash_X),
    }
    before = {place: getattr(*place) for place in own}
    try:
        for (module, name), function in own.items():
            setattr(module, name, function)
        yield
    finally:
        for (module, name), function in before.items():
            setattr(module, name, function)


@dataclass(frozen=True, eq=False)
class Natural:
    """log1p values (n, g) float32 that are read on the natural scale, rows at a time: what cell-eval2 takes means of."""

    log: np.ndarray | sp.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        """(n, g)."""
        return (int(self.log.shape[0]), int(self.log.shape[1]))

    def rows(self, chosen: np.ndarray | slice, genes: slice = slice(None)) -> np.ndarray | sp.csr_matrix:
        """Return some rows, of some genes, on the natural scale, float32 as cell-eval2 has them."""
        part = self.log[chosen, genes]
        if isinstance(part, np.ndarray):
            return np.expm1(part)
        return sp.csr_matrix((np.expm1(part.data), part.indices, part.indptr), shape=part.shape)

    def sum(self, axis: int) -> np.ndarray:
        """Return what each cell sums to, (n,)."""
        assert axis == 1
        parts = (self.rows(slice(first, first + 1024)).sum(axis=1) for first in range(0, self.shape[0], 1024))
        return np.concatenate([np.asarray(part).ravel() for part in parts])


@dataclass(frozen=True, eq=False)
class NaturalCells:
    """What cell-eval2 asks of the cells that it takes means of."""

    X: Natural
    obs: pd.DataFrame
    var_names: pd.Index


def natural(
    otherwise: Callable[..., ad.AnnData], cells: ad.AnnData, input_type: str, target_sum: float | None = 1e6
) -> ad.AnnData | NaturalCells:
    """Return log1p cells to be read on the natural scale, in the place of cell-eval2's `_to_linear`, which copies them twice.

    Args:
        otherwise: `_to_linear` itself, for values that are no float32 log1p.
        cells, input_type, target_sum: see there.
    """
    x = cells.X
    if input_type != "lognorm" or x.dtype != np.float32:
        return otherwise(cells, input_type, target_sum)
    return NaturalCells(Natural(x if isinstance(x, np.ndarray) else x.tocsr()), cells.obs, cells.var_names)


def grouped_means(
    otherwise: Callable[..., np.ndarray], x: object, order: np.ndarray, bounds: np.ndarray, n_groups: int, *, log_space: bool = False
) -> np.ndarray:  # fmt: skip
    """Return the mean of each group of cells (n_groups, g), the numbers of cell-eval2's `_grouped_means`, one group in memory at a time.

    Args:
        otherwise: `_grouped_means` itself, which is called for each group.
        x, order, bounds, n_groups, log_space: see there.
    """
    if not isinstance(x, Natural | np.ndarray):
        return np.asarray(otherwise(x, order, bounds, n_groups, log_space=log_space))
    means = np.zeros((n_groups, x.shape[1]))
    # a dense group in float64 and its logarithms are large: some genes at a time, each summed in the same order
    dense = isinstance(x, np.ndarray) or isinstance(x.log, np.ndarray)
    width = COLUMNS if dense else max(1, x.shape[1])
    for group in range(n_groups):
        rows = order[bounds[group] : bounds[group + 1]]
        one = np.arange(len(rows)), np.array([0, len(rows)])
        for first in range(0, x.shape[1], width):
            genes = slice(first, first + width)
            part = x[rows, genes] if isinstance(x, np.ndarray) else x.rows(rows, genes)
            means[group, genes] = otherwise(part, *one, 1, log_space=log_space)[0]
    return means


def content_hash(otherwise: Callable[..., str], x: object) -> str:
    """Return cell-eval2's hash of the values of cells, by which it finds tests again, a stretch at a time: it widens all column numbers at once."""
    if not isinstance(x, sp.csr_matrix) or not x.has_sorted_indices:
        return otherwise(x)
    found = hashlib.sha256(np.ascontiguousarray(x.data).data)
    for numbers in (x.indices, x.indptr):
        for first in range(0, len(numbers), BLOCK_VALUES):
            found.update(np.ascontiguousarray(numbers[first : first + BLOCK_VALUES].astype(np.int64)).data)
    return found.hexdigest()


def p_values(log_adata: ad.AnnData, *, groupby: str, reference: str, threads: int) -> polars.DataFrame:
    """Return target, feature, p_value and p_adj (Benjamini-Hochberg within a target) of every group against the reference."""
    import polars
    from scipy.stats import false_discovery_control

    labels = log_adata.obs[groupby].to_numpy().astype(str)
    x = log_adata.X if isinstance(log_adata.X, np.ndarray) else sp.csr_matrix(log_adata.X)
    names = [name for name in np.unique(labels) if name != reference]
    rows = {name: np.flatnonzero(labels == name) for name in (*names, reference)}
    p = np.empty((len(names), x.shape[1]))
    width = max(1, BLOCK_VALUES // max(1, x.shape[0]))
    # genes in blocks, so that the groups are never all copied at once
    for start in range(0, x.shape[1], width):
        block = x[:, start : start + width]
        groups = {name: block[rows[name]] for name in names}
        p[:, start : start + width] = against_reference(groups, block[rows[reference]], floor=0).p_value
    genes = np.asarray(log_adata.var_names, dtype=str)
    return polars.DataFrame(
        {
            "target": np.repeat(np.array(names, str), len(genes)),
            "feature": np.tile(genes, len(names)),
            "p_value": p.ravel(),
            "p_adj": false_discovery_control(p, axis=1).ravel(),
        }
    )
