"""The most variable genes of several data sets together: a model that reads these alone is not shown what all cells have in common.

In each data set genes are ranked by how much they vary for their mean (scanpy's normalised dispersion, flavor seurat); a gene's place is
the mean of its ranks, as parts, in the data sets that measure it. A gene that one data set alone measures must be variable there.

Notation: v genes of the vocabulary, n of them that are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from state_engine.data.expression import gene_dispersions
from state_engine.errors import GeneError
from state_engine.pretrain.sources import LEAST_CELLS, Source
from state_engine.progress import OnProgress, Progress


def most_variable(sources: Sequence[Source], n: int, seed: int, on_progress: OnProgress) -> tuple[np.ndarray, str]:
    """Return the rows of the vocabulary (n,) of the most variable genes, ascending, and how they were chosen, a sentence.

    Args:
        sources: the data sets, with their genes in one vocabulary; genes that fewer than `LEAST_CELLS` cells express are not chosen.
        n: how many.
        seed: of the draw of cells in large data sets.

    Raises:
        GeneError: fewer than n genes are expressed by enough cells.
        RepresentationError: values that are not finite.
    """
    frequent = np.sum([s.expressing for s in sources], axis=0) >= LEAST_CELLS
    if n > frequent.sum():
        raise GeneError(
            f"{n:,} variable genes cannot be chosen.",
            f"{int(frequent.sum()):,} genes are known and expressed by {LEAST_CELLS} cells or more.",
            "Ask for fewer.",
        )
    places, measuring = np.zeros(len(frequent)), np.zeros(len(frequent))
    for number, source in enumerate(sources):
        on_progress(Progress("Choosing variable genes", number, len(sources), f"Genes that vary in {source.name}"))
        own = frequent[source.genes.rows]
        rows, columns = source.genes.rows[own], source.genes.columns[own]
        spread, _ = gene_dispersions(source.dataset, columns, seed)
        ranks = np.empty(len(rows))
        ranks[np.argsort(-spread, kind="stable")] = np.arange(len(rows)) / len(rows)
        places[rows] += ranks
        measuring[rows] += 1
    mean = np.where(frequent, places / np.maximum(measuring, 1), np.inf)
    chosen = np.sort(np.argsort(mean, kind="stable")[:n])
    how = f"by the mean of their ranks in {len(sources)} data sets" if len(sources) > 1 else "of the data set"
    return (
        chosen,
        f"It reads the {n:,} most variable of {int(frequent.sum()):,} genes, {how} (normalised dispersion, seed {seed}).",
    )
