"""The challenge's support set, small and simulated: its files, folders, columns and labels, for a whole run from download to archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

GENES = tuple(f"GENE{i}" for i in range(40))
SCREENED = ("ADNP", "BRD4", "CTCF", "KLF2")
ASKED = ("KLF10", "ARID1A", "ADNP")  # of the template; two are in no screen
CONTROL = "non-targeting"
STARTER = """# Dataset paths - maps dataset names to their directories
[datasets]
replogle_h1 = "competition_support_set/{competition_train,k562,hepg2}.h5"

[training]
replogle_h1 = "train"

# Zeroshot specifications - entire cell types go to val or test
[zeroshot]
"replogle_h1.hepg2" = "test"

[fewshot]
"""


def cells(context: str, perturbations: tuple[str, ...], n: int = 12, seed: int = 0) -> anndata.AnnData:
    """Log1p cells of one context: `n` of each perturbation and three times as many controls."""
    rng = np.random.default_rng(seed)
    labels = np.array([CONTROL] * 3 * n + [p for p in perturbations for _ in range(n)])
    rate = 20 * rng.gamma(2, 1, len(GENES))[None] * np.where(labels != CONTROL, 1.5, 1.0)[:, None] ** (np.arange(len(GENES)) < 8)
    counts = rng.poisson(rate).astype(np.float64) + (np.arange(len(GENES)) == 0)
    values = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)
    obs = pd.DataFrame(
        {"target_gene": labels, "cell_type": context, "batch_var": [f"{context}_{i % 2}" for i in range(len(labels))]},
        index=[f"{context}-{i}" for i in range(len(labels))],
    ).astype("category")
    return anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=list(GENES)))


def challenge_set(folder: Path) -> bytes:
    """The zip."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    top = "competition_support_set"
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (name, context) in enumerate((("competition_train", "ARC_H1"), ("k562", "k562"), ("hepg2", "hepg2"))):
            cells(context, SCREENED, seed=i).write_h5ad(folder / f"{name}.h5")
            archive.write(folder / f"{name}.h5", f"{top}/{name}.h5")
        cells("ARC_H1", ASKED, seed=0).write_h5ad(folder / "competition_val_template.h5ad")
        archive.write(folder / "competition_val_template.h5ad", f"{top}/competition_val_template.h5ad")
        rng = np.random.default_rng(1)
        names = sorted({*SCREENED, *ASKED})
        torch.save({name: torch.tensor(rng.normal(size=16), dtype=torch.float32) for name in names}, folder / "features.pt")
        archive.write(folder / "features.pt", f"{top}/ESM2_pert_features.pt")
        archive.writestr(f"{top}/gene_names.csv", "".join(f"{gene}\n" for gene in GENES))
        archive.writestr(f"{top}/starter.toml", STARTER)
    return stream.getvalue()
