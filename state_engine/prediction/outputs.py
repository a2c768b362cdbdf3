"""What comes out of a model for a data set: names of the genes, where these were measured, and the batches it is told.

The counterpart of `inputs`. Boundary: names and columns; no values are read.
"""

from __future__ import annotations

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, match_genes
from state_engine.errors import UnknownLabelError, listed


def batch_indices(dataset: Dataset, card: ModelCard, allow_unknown: bool) -> np.ndarray | None:
    """The model's batch index of every cell (n,), or None when it has no batch encoder.

    Raises:
        UnknownLabelError: batches that the model does not know; not with `allow_unknown`, which takes the first.
    """
    if not card.config.batch_encoder:
        return None
    known = {label: i for i, label in enumerate(card.batches)}
    labels = dataset.batch_labels()
    unknown = sorted({str(b) for b in np.unique(labels)} - set(known))
    if unknown and not allow_unknown:
        raise UnknownLabelError(
            f"The model does not know the batches {listed(unknown)}.",
            f"It knows {listed(card.batches)}.",
            "Choose the batch column on the Data page, or allow the model's first batch for all.",
        )
    return np.array([known.get(str(b), 0) for b in labels], dtype=np.int64)


def gene_names(dataset: Dataset, card: ModelCard, source: FeatureSource) -> list[str]:
    """Names of the expression columns of the result; empty when the model predicts an embedding only."""
    if card.reads_embedding and card.config.decoder is None:
        return []
    width = card.config.decoder.genes if card.config.decoder else card.config.output_dim
    if card.output_genes is not None and len(card.output_genes) == width:
        return list(card.output_genes)
    if source.representation == dataset.expression and source.columns is None and width == dataset.n_genes:
        return list(dataset.genes.names)
    return [f"feature {i}" for i in range(width)]


def expression_source(dataset: Dataset, card: ModelCard, source: FeatureSource) -> FeatureSource | None:
    """Where the measured expression of the result's genes comes from; None when it cannot be found."""
    if not card.reads_embedding:
        return source
    if card.config.decoder is None or card.output_genes is None:
        return None
    return log1p_of(dataset, card.output_genes, card.depth)


def log1p_of(dataset: Dataset, genes: tuple[str, ...], depth: float | None) -> FeatureSource | None:
    """Return how log1p expression of some genes is read; None where the data set has none of them, or no expression of a known scale.

    Args:
        dataset: the data set.
        genes: names.
        depth: that the values are brought to; see `FeatureSource.at_depth`, which may refuse it.
    """
    if not (dataset.expression and dataset.scale.scale):
        return None
    match = match_genes(dataset, genes)
    if not match.n_matched:
        return None
    columns = tuple(int(i) for i in match.columns)
    found = FeatureSource(dataset.expression, columns, dataset.scale.scale == "counts", len(genes) - match.n_matched)
    return found.at_depth(dataset.scale, depth)
