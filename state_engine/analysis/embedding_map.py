"""A map of embedded cells: a UMAP of the part of an embedding that describes the cell. Cells without an embedding are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from state_engine.analysis.projection import MAX_CELLS, Projection, Settings, place
from state_engine.data.dataset import Dataset
from state_engine.progress import OnProgress, Progress, silent

BLOCK = 8192


def fit_embedding(
    dataset: Dataset,
    key: str,
    cell_width: int,
    out: Path,
    seed: int = 0,
    on_progress: OnProgress = silent,
    max_cells: int = MAX_CELLS,
) -> Projection:
    """Fits the map and stores it at `out` (.npz); of more than `max_cells` cells a random sample is shown.

    Args:
        dataset: with `obsm/KEY`.
        cell_width: columns that describe the cell; what follows is not looked at.

    Raises:
        RequestError: fewer than 10 cells have an embedding.
        RepresentationError: no such embedding.
    """
    on_progress(Progress("Reading the embedding"))
    name = f"obsm/{key}"
    known = np.concatenate([np.isfinite(values).all(axis=1) for _, values in dataset.iter_blocks(name, block=BLOCK)])
    available = np.flatnonzero(known)
    rows = available
    if len(available) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(available, max_cells, replace=False))
    features = dataset.read(name, rows)[:, :cell_width]
    on_progress(Progress("Fitting the UMAP"))
    xy, variance, neighbours = place(features, seed)
    settings = Settings(
        seed=seed,
        source=f"the embedding {key}",
        n_available=len(available),
        n_shown=len(rows),
        subsampled=len(rows) < len(available),
        components=len(variance),
        neighbours=neighbours,
    )
    projection = Projection(xy, rows.astype(np.int32), variance, settings)
    projection.save(out)
    return projection
