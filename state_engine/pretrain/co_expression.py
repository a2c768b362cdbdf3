"""Vectors of genes where no file of them is given: where each gene lies in the main variation of the training cells.

Counts are brought to one depth and log1p, each gene to mean 0 and variance 1 within its file (so that files differ by what their genes
do together, not by their means), and the first principal axes of the gene-gene correlation are found by subspace iteration: a few
passes over the cells, memory for genes x width. A gene's vector is its loadings on them, brought to length 1.

Notation: m cells of a block, v genes of the vocabulary, w width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from state_engine.data.expression import normalise
from state_engine.errors import GeneError
from state_engine.pretrain.sources import Source
from state_engine.progress import OnProgress, Progress

PASSES = 6
MOST_CELLS = 20_000  # of all files together, each with its share
BLOCK = 512
HIGHEST = 10.0  # a value of a rare gene's few cells would be an axis of its own


def gene_vectors(
    sources: Sequence[Source], rows: Sequence[np.ndarray], width: int, seed: int, on_progress: OnProgress
) -> np.ndarray:
    """Return a vector for each gene of the vocabulary, (v, w) float32 of length 1.

    Args:
        sources, rows: data sets and the cells of each that are trained on; at most `MOST_CELLS` of them are read.
        width: w, at most the number of genes and of cells.
        seed: of the draw of cells and the first axes.

    Raises:
        GeneError: no gene varies.
    """
    rng = np.random.default_rng([seed, 5])
    total = sum(len(own) for own in rows)
    part = min(1.0, MOST_CELLS / total)
    drawn = [np.sort(rng.permutation(own)[: max(1, round(part * len(own)))]) for own in rows]
    scaled = [_Scaled(source, own) for source, own in zip(sources, drawn, strict=True)]
    v = sources[0].genes.n_vocabulary
    width = min(width, v, sum(map(len, drawn)))
    axes = np.linalg.qr(rng.standard_normal((v, width)).astype(np.float32))[0]
    for number in range(PASSES):
        on_progress(Progress("Learning gene vectors from co-expression", number, PASSES))
        product = np.zeros_like(axes)
        for one in scaled:
            for block in one.blocks():
                product[one.genes] += block.T @ (block @ axes[one.genes])
        axes, triangle = np.linalg.qr(product)
    # loadings: axes times the root of what they explain, so that genes far apart in the leading axes are far apart here
    explained = np.abs(np.diag(triangle)) / max(1, sum(map(len, drawn)))
    vectors = axes * np.sqrt(explained)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (lengths > 0).any() or not np.isfinite(lengths).all():
        raise GeneError("No vectors can be learnt for the genes.", "No gene varies between the cells.", "Give vectors (--genes).")
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


class _Scaled:
    """Cells of a file with each gene at mean 0 and variance 1."""

    def __init__(self, source: Source, rows: np.ndarray) -> None:
        self.source, self.rows = source, rows
        self.genes = source.genes.rows
        sums = squares = np.zeros(len(self.genes))
        for values in self._values():
            sums = sums + np.asarray(values.sum(axis=0)).ravel()
            squares = squares + np.asarray(values.multiply(values).sum(axis=0)).ravel()
        self.mean = (sums / len(rows)).astype(np.float32)
        spread = np.sqrt(np.maximum(squares / len(rows) - (sums / len(rows)) ** 2, 0))
        self.factor = np.where(spread > 1e-6, 1 / np.where(spread > 1e-6, spread, 1), 0).astype(np.float32)

    def _values(self) -> Iterator[sp.csr_matrix]:
        dataset = self.source.dataset
        for _, values in dataset.iter_blocks(self.source.expression, self.rows, BLOCK):
            positive = sp.csr_matrix(values)
            positive.data = np.maximum(positive.data, 0)
            logged = normalise(positive) if dataset.scale.scale == "counts" else positive
            yield sp.csr_matrix(logged)[:, self.source.genes.columns]

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks (m, genes of the file), dense."""
        for values in self._values():
            yield np.minimum((values.toarray() - self.mean) * self.factor, HIGHEST)
