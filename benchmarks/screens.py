"""Simulated screens whose truth is known, to choose a recipe on and to see where it fails: counts of genes in contexts on a plane.

context-dependent   a perturbation's effect changes with the place of the context, as its control cells do
context-free        it is the same everywhere
depth-confounded    the same everywhere, but in each second context perturbed cells are read four times as deep as control cells
noise               no perturbation does anything
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

KINDS: Final = ("context-dependent", "context-free", "depth-confounded", "noise")
CONTEXTS, PERTURBATIONS, CELLS, GENES, DEPTH = 6, 5, 60, 400, 2000


def write_screen(kind: str, path: Path, seed: int) -> Path:
    """Write a simulated screen (.h5ad of counts, obs condition and cell_type). Returns the file.

    Args:
        kind: one of `KINDS`.
        path: the file.
        seed: of everything drawn.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    # contexts on a circle, so that each has near and far ones
    angles = np.linspace(0, 2 * np.pi, CONTEXTS, endpoint=False)
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    base = rng.normal(-1.0, 1.2, GENES)
    of_context = places @ rng.normal(0, 0.6, (2, GENES))
    fixed, turning = _effects(kind, rng)
    parts, rows = [], []
    for c in range(CONTEXTS):
        for p in range(PERTURBATIONS + 1):
            effect = fixed[p] + np.einsum("d,dg->g", places[c], turning[:, p])
            rates = np.exp(base + of_context[c] + effect)
            deep = 4 if kind == "depth-confounded" and p and c % 2 else 1
            depth = deep * rng.lognormal(np.log(DEPTH), 0.3, CELLS)
            parts.append(rng.poisson(depth[:, None] * rates / rates.sum()))
            rows += [("control" if p == 0 else f"P{p}", f"type {c}")] * CELLS
    obs = pd.DataFrame(rows, columns=["condition", "cell_type"], index=[f"cell {i}" for i in range(len(rows))])
    var = pd.DataFrame(index=[f"G{i}" for i in range(GENES)])
    ad.AnnData(sp.csr_matrix(np.concatenate(parts).astype(np.float32)), obs.astype("category"), var).write_h5ad(path)
    return path


def _effects(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Effects on log rates: everywhere (p + 1, g), and for each direction of the plane (2, p + 1, g); the control's are 0."""
    shape = (PERTURBATIONS + 1, GENES)
    touched = (rng.random(shape) < 0.15)[None] * np.array([0, *[1] * PERTURBATIONS])[None, :, None]
    fixed = touched[0] * rng.normal(0, 0.8, shape)
    turning = touched * rng.normal(0, 0.8, (2, *shape))
    if kind == "noise":
        return 0 * fixed, 0 * turning
    return fixed, turning if kind == "context-dependent" else 0 * turning
