"""The rank tests of cell-eval2, taken from the house's own engine: the same U, the same p, compiled ahead.

cell-eval2 takes nothing from pdex but the p-values of a Mann-Whitney U test with ties and continuity corrected, and their adjustment within a
perturbation; these are `rank_tests`'. pdex needs a minute of compilation in each process and many times the processor time, so that scores of
full size did not come to an end. Fold changes, filters and every metric stay cell-eval2's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from state_engine.metrics.rank_tests import BLOCK_VALUES, against_reference

if TYPE_CHECKING:
    import anndata as ad
    import polars


@contextlib.contextmanager
def own_rank_tests() -> Iterator[None]:
    """Let cell-eval2 take p-values from `rank_tests` in the place of pdex."""
    from cell_eval2 import de_compute

    before = de_compute._de_pdex_pvalues
    de_compute._de_pdex_pvalues = p_values
    try:
        yield
    finally:
        de_compute._de_pdex_pvalues = before


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
