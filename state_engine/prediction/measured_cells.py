"""Measured cells of a data set as a prediction needs them: what the model reads, and their expression in the result's genes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, iter_features, read_features
from state_engine.effects.means import mean_of
from state_engine.prediction.outputs import expression_source, gene_names

BLOCK = 2048
HELD_BYTES = 64 << 20  # of features and expression that stay in memory from the check of their values on


@dataclass(frozen=True, eq=False)
class HeldCells:
    """Cells that were read: rows (n,), ascending, their features (n, w), and their expression (n, g) where that is read apart."""

    rows: np.ndarray
    features: np.ndarray
    expression: np.ndarray | None

    def places(self, rows: np.ndarray) -> np.ndarray | None:
        """Return where rows of the data set are among these cells; None unless all are."""
        if not len(self.rows):
            return None
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return places if np.array_equal(self.rows[places], rows) else None


@dataclass(frozen=True, eq=False)
class MeasuredCells:
    """Reads cells of one data set for one model.

    Args:
        dataset: the data set.
        source: how the model's input is read, w features.
        expression: how the result's genes are read; None where the data set has no expression of them.
        genes: (g,) of the result; empty when the model predicts an embedding only.
        reads_embedding: the model's input is an embedding, so that expression is read apart.
        held: cells that need not be read again.
    """

    dataset: Dataset
    source: FeatureSource
    expression: FeatureSource | None
    genes: tuple[str, ...]
    reads_embedding: bool
    held: HeldCells | None = None

    @property
    def total(self) -> float | None:
        """What all genes of a cell sum to before the log1p of the result's expression; None for an embedding, and where it is not known."""
        if not self.genes or self.expression is None:
            return None
        return self.expression.depth_of(self.dataset.scale)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return what the model reads of some cells, (m, w)."""
        places = None if self.held is None else self.held.places(rows)
        if self.held is not None and places is not None:
            return self.held.features[places]
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
        places = None if self.held is None else self.held.places(rows)
        if self.held is not None and places is not None and self.held.expression is not None:
            return self.held.expression[places]
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

    def mean(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (g,) float64 of some cells in the result's features, expression of its genes where it has any; and its squared errors."""
        return mean_of(features if expression is None else expression for _, features, expression in self.blocks(rows))

    def looked_at(self, rows: np.ndarray) -> MeasuredCells:
        """Look at every value that a prediction reads of some cells; return a reader that keeps them.

        Cells that fit into memory are kept, so that each is read once; others are read, and looked at, when they are asked for.

        Args:
            rows: of the data set, ascending, each once.

        Raises:
            RepresentationError: values are NaN or infinite. ScaleError: expression is negative.
        """
        apart = self.expression if self.reads_embedding else None
        keep = 4 * len(rows) * (self._width(self.source) + (self._width(apart) if apart else 0)) <= HELD_BYTES
        features = self._read(self.source, rows, keep)
        expression = self._read(apart, rows, keep) if apart else None
        if expression is not None and apart is not None:
            expression[:, np.asarray(apart.columns) < 0] = np.nan  # as in `genes_of`
        return self if features is None else replace(self, held=HeldCells(rows, features, expression))

    def _read(self, source: FeatureSource, rows: np.ndarray, keep: bool) -> np.ndarray | None:
        """Read cells and look at their values; return them where they are to be kept."""
        kept = np.empty((len(rows), self._width(source)), dtype=np.float32) if keep else None
        done = 0
        for part, values in iter_features(self.dataset, source, rows, BLOCK):
            if kept is not None:
                kept[done : done + len(part)] = values
            done += len(part)
        return kept

    def _width(self, source: FeatureSource) -> int:
        return len(source.columns) if source.columns is not None else self.dataset.representation(source.representation).width


def measured_cells(dataset: Dataset, card: ModelCard, source: FeatureSource) -> MeasuredCells:
    """Return the reader of a data set's cells for a model.

    Args:
        dataset: the data set.
        card: the model.
        source: how its input is read, see `require_compatible`.
    """
    genes = tuple(gene_names(dataset, card, source))
    return MeasuredCells(dataset, source, expression_source(dataset, card, source), genes, card.reads_embedding)
