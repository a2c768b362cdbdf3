"""A small simulated screen with real effects, and a prediction that gets part of them: for tests of scores."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_GENES = 150
GENES = tuple(f"G{i}" for i in range(N_GENES))
PERTURBATIONS = tuple(f"G{i}" for i in range(6))
CONTROL = "non-targeting"


def screen(seed: int, share: float = 1.0, n: int = 40, contexts: tuple[str, ...] = ("A",)) -> ad.AnnData:
    """Counts; every perturbation with `share` of its true log effect. The effects are the same for every seed."""
    truth = np.random.default_rng(0)
    base = truth.gamma(1, 3, N_GENES) + 0.2
    effects = {p: truth.normal(0, 0.9, N_GENES) * (truth.random(N_GENES) < 0.3) for p in PERTURBATIONS}
    rng = np.random.default_rng(seed)
    rows, labels, where = [], [], []
    for context in contexts:
        for label in (CONTROL, *PERTURBATIONS):
            k = 3 * n if label == CONTROL else n
            rate = base * np.exp(share * effects[label]) if label in effects else base
            rows.append(rng.poisson(rng.gamma(4, 0.25, (k, 1)) * rate))
            labels += [label] * k
            where += [context] * k
    obs = pd.DataFrame({"target_gene": labels, "context": where}, index=[f"c{i}" for i in range(len(labels))]).astype("category")
    return ad.AnnData(sp.csr_matrix(np.vstack(rows).astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(GENES)))


def log1p(cells: ad.AnnData, depth: float = 1e4) -> ad.AnnData:
    """log1p of counts scaled to a depth."""
    out = cells.copy()
    totals = np.asarray(out.X.sum(1)).ravel()
    out.X = sp.csr_matrix(np.log1p(out.X.toarray() / totals[:, None] * depth).astype(np.float32))
    return out


def without_controls(cells: ad.AnnData) -> ad.AnnData:
    return cells[(cells.obs["target_gene"] != CONTROL).to_numpy()].copy()


def write(cells: ad.AnnData, path: Path) -> str:
    cells.write_h5ad(path)
    return str(path)
