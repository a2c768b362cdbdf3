"""Small AnnData files for tests, in every layout that ours must read."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

SYMBOLS = ("STAT1", "ISG15", "CD3D", "MS4A1", "LYZ", "NKG7", "GNLY", "IFI6", "JUN", "FOS", "TNF", "IL6")


def counts(n: int = 60, g: int = 12, seed: int = 0) -> np.ndarray:
    """(n, g) negative binomial counts, float32, about two thirds zeros."""
    rng = np.random.default_rng(seed)
    return (rng.negative_binomial(1, 0.3, (n, g)) * (rng.random((n, g)) < 0.5)).astype(np.float32)


def cells(n: int = 60, g: int = 12, seed: int = 0, layout: str = "csr") -> anndata.AnnData:
    """A data set with all the usual parts: perturbation, context, batch; a layer; obsm as array, sparse matrix and table."""
    rng = np.random.default_rng(seed)
    x = counts(n, g, seed)
    index = [f"cell{i}" for i in range(n)]
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical(rng.choice(["non-targeting", "STAT1", "TNF"], n)),
            "cell_type": rng.choice(["B", "NK"], n),
            "gem_group": rng.integers(1, 4, n),
            "mito": rng.random(n),
            "treated": rng.random(n) < 0.5,
        },
        index=index,
    )
    names = list(SYMBOLS[:g]) if g <= len(SYMBOLS) else [f"GENE{i}" for i in range(g)]
    to = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[layout]
    made = anndata.AnnData(to(x), obs=obs, var=pd.DataFrame(index=names))
    made.layers["log1p"] = to(np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4).astype(np.float32))
    made.obsm["X_state"] = rng.normal(size=(n, 5)).astype(np.float64)
    made.obsm["X_sparse"] = sp.csr_matrix(x[:, :3])
    made.obsm["X_table"] = pd.DataFrame({"a": x[:, 0], "b": x[:, 1]}, index=index)
    return made


def write(data: anndata.AnnData, path: Path, **options: object) -> Path:
    """Write it, quietly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_h5ad(path, **options)
    return path
