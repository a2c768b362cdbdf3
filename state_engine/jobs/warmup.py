"""What a worker does before the first job asks for it: imports and compilations that take seconds. Each is one small step."""

from __future__ import annotations


def import_torch() -> None:
    """PyTorch, with one product so that its threads exist."""
    import torch

    with torch.inference_mode():
        torch.ones(8, 8).matmul(torch.ones(8, 8))


def import_anndata() -> None:
    """The readers of data sets."""
    import anndata  # noqa: F401
    import h5py  # noqa: F401
    import scipy.sparse  # noqa: F401


def import_umap() -> None:
    """umap-learn and what it compiles when imported."""
    import umap  # noqa: F401


def compile_umap_fit() -> None:
    """UMAP's fit of few cells, compiled by a first call."""
    import numpy as np
    import umap

    points = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    umap.UMAP(n_neighbors=5, n_epochs=5, random_state=0, n_jobs=1).fit(points)
