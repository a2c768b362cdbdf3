"""Small labelled cells and models for tests of heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.heads.request import FinetuneRequest
from tests.small import GENES

FAST: dict[str, Any] = {
    "resamples": 20,
    "max_epochs": 30,
    "patience": 5,
    "batch_size": 64,
    "variable_genes": 24,
    "components": 5,
    "device": "cpu",
}


def write_labelled(path: Path, n: int = 160, seed: int = 0, **columns: object) -> Path:
    """Counts of 24 genes; `type` (A, B, C) shows in them, `dose` is a number that shows too, `donor` has four names, `X_pca` 5 columns."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    dose = rng.normal(size=n)
    rate = np.full((n, len(GENES)), 4.0)
    for j in range(3):
        rate[kind == j, 4 * j : 4 * j + 4] += 12
    rate[:, 20:] *= np.exp(0.7 * dose)[:, None]
    obs = {
        "type": np.array(["A", "B", "C"])[kind],
        "dose": dose,
        "donor": np.array(["d1", "d2", "d3", "d4"])[rng.integers(0, 4, n)],
        "tags": [";".join(t for t, on in (("low", d < 0.3), ("high", d > -0.3)) if on) for d in dose],
        "is_a": kind == 0,
        "is_high": dose > 0,
        **columns,
    }
    data = anndata.AnnData(
        sp.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=pd.DataFrame(obs, index=[f"cell-{i}" for i in range(n)]),
        var=pd.DataFrame(index=list(GENES)),
    )  # fmt: skip
    data.obsm["X_pca"] = (np.log1p(data.X.toarray()) @ rng.normal(size=(len(GENES), 5))).astype(np.float32)
    data.write_h5ad(path)
    return path


def asked(data: Path, *labels: str, **changes: Any) -> FinetuneRequest:
    """A fine-tuning that takes a second."""
    return FinetuneRequest(str(data), labels or ("type",), **{**FAST, **changes})
