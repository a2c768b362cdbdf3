"""Measured cells of a data set as a prediction needs them: what the model reads, and their expression in the result's genes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, read_features
from state_engine.data.usable_values import require_usable
from state_engine.prediction.outputs import expression_source, gene_names

BLOCK = 2048


@dataclass(frozen=True, eq=False)
class MeasuredCells:
    """Reads cells of one data set for one model.

    Args:
        dataset: the data set.
        source: how the model's input is read, w features.
        expression: how the result's genes are read; None where the data set has no expression of them.
        genes: (g,) of the result; empty when the model predicts an embedding only.
        reads_embedding: the model's input is an embedding, so that expression is read apart.
    """

    dataset: Dataset
    source: FeatureSource
    expression: FeatureSource | None
    genes: tuple[str, ...]
    reads_embedding: bool

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return what the model reads of some cells, (m, w)."""
        return read_features(self.dataset, self.source, rows)

    def genes_of(self, rows: np.ndarray, features: np.ndarray) -> np.ndarray | None:
        """Return the log1p expression of some cells in the result's genes, (m, g), NaN for genes that the data set lacks.

        Args:
            rows: of the data set.
            features: of these cells; for a model of genes they are the expression already.

        Returns:
            None where the data set has no expression of the result's genes.
        """
        if not self.reads_embedding:
            return features
        if self.expression is None:
            return None
        values = read_features(self.dataset, self.expression, rows)
        # column -1 is a gene that the data set lacks: it was read as 0, which would look measured
        values[:, np.asarray(self.expression.columns) < 0] = np.nan
        return values

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """Yield cells in blocks: place of the first, features (m, w), and expression (m, g), 0 for genes that the data set lacks.

        Args:
            rows: of the data set, in any order, repeats allowed.
        """
        for first in range(0, len(rows), BLOCK):
            # each cell is read once, in file order, however often it was drawn
            unique, back = np.unique(rows[first : first + BLOCK], return_inverse=True)
            features = self.features(unique)
            expression = self.genes_of(unique, features) if self.genes else None
            if expression is not None and self.expression is not None and self.reads_embedding:
                expression[:, np.asarray(self.expression.columns) < 0] = 0
            yield first, features[back], None if expression is None else expression[back]

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean (g,) float64 of some cells in the result's features: expression of its genes where it has any."""
        total = np.zeros(1)
        for _, features, expression in self.blocks(rows):
            total = total + (features if expression is None else expression).sum(axis=0, dtype=np.float64)
        return total / len(rows)

    def require_usable(self, rows: np.ndarray) -> None:
        """Look at every value that a prediction reads of some cells.

        Raises:
            RepresentationError: values are NaN or infinite. ScaleError: expression is negative.
        """
        for source in dict.fromkeys((self.source, self.expression if self.reads_embedding else None)):
            if source is not None:
                # a cell's depth is the sum of all its columns
                used = None if source.normalise else source.columns
                require_usable(self.dataset, source.representation, rows, used)


def measured_cells(dataset: Dataset, card: ModelCard, source: FeatureSource) -> MeasuredCells:
    """Return the reader of a data set's cells for a model.

    Args:
        dataset: the data set.
        card: the model.
        source: how its input is read, see `require_compatible`.
    """
    genes = tuple(gene_names(dataset, card, source))
    return MeasuredCells(dataset, source, expression_source(dataset, card, source), genes, card.reads_embedding)
