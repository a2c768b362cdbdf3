"""Make the representation that many models read: log1p expression of the most variable genes, as `obsm["X_hvg"]` of a copy.

The genes' names and how they were chosen are kept in the copy's `uns`, since published models do not ship theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine import keys
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, hvg_choice, iter_features, match_genes
from state_engine.data.files.replaced_copy import ReplacedCopy
from state_engine.errors import RepresentationError
from state_engine.files import free_output, replacing
from state_engine.progress import OnProgress, Progress, silent

HVG_KEY = "X_hvg"


@dataclass(frozen=True)
class Prepared:
    """What `add_hvgs` wrote: the genes in the order of the columns, and how they were chosen, a sentence."""

    genes: tuple[str, ...]
    method: str


def add_hvgs(dataset: Dataset, n: int, output: Path, on_progress: OnProgress = silent) -> Prepared:
    """Writes a copy of the data set with `obsm["X_hvg"]`: (cells, n) float32, log1p of depth 1e4.

    Args:
        dataset: counts are normalised; log1p values are taken as they are.
        n: how many genes.
        output: the .h5ad; it appears only when complete.
        on_progress: called once a block of cells; may raise `JobCancelled`.

    Raises:
        ScaleError, GeneError, RepresentationError: the data set does not allow it.
    """
    free_output(output, dataset.path)
    on_progress(Progress("Choosing variable genes"))
    chosen = hvg_choice(dataset, n)
    if dataset.expression is None:
        raise RepresentationError(f"{dataset.path.name} has no expression.", "It has no X and no layers.")
    columns = tuple(int(i) for i in match_genes(dataset, chosen.names).columns)
    source = FeatureSource(dataset.expression, columns, dataset.scale.require() == "counts", 0)
    note = (f"{keys.MANIFEST}_hvg", {"genes": list(chosen.names), "method": chosen.method})
    with (
        replacing(output) as beside,
        ReplacedCopy(dataset.path, beside, {f"obsm/{HVG_KEY}": n}, dataset.n_cells, note) as copy,
    ):
        for rows, values in iter_features(dataset, source):
            copy.write(f"obsm/{HVG_KEY}", np.asarray(rows), values)
            on_progress(Progress("Writing variable genes", int(rows[-1]) + 1, dataset.n_cells))
    return Prepared(chosen.names, chosen.method)
