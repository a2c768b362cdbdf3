"""The cells of a step: their sentences, and the genes that are decoded from each, with their measured values. No torch.

A step's cells, sentences and tasks depend on the seed and the step's number alone. A cell is asked for P genes that it expresses and N
that it does not (with repeats where it has fewer), and all cells of the step for the same S genes, of those that every data set measures.

Notation: b cells, p positions of a sentence, k = P + N + S genes of a task, v genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.sparse as sp

from state_engine.data.cell_sentences import SentenceMaker
from state_engine.errors import EmptyDataError
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.pretrain.order import CellOrder
from state_engine.pretrain.request import Task
from state_engine.pretrain.sources import Source, common_genes


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a step.

    Args:
        rows: (b, p) int64 rows of the gene table, CLS first.
        counts: (b, p) float32, percent of the cell's expression.
        genes: (b, k) int64 rows of the vocabulary that are decoded, the shared ones last.
        values: (b, k) float32 measured log1p expression of these.
        datasets: (b,) int64, the number of each cell's data set.
    """

    rows: np.ndarray
    counts: np.ndarray
    genes: np.ndarray
    values: np.ndarray
    datasets: np.ndarray


class CellReader:
    """Reads cells of some data sets and makes their sentences and tasks.

    Args:
        sources: the data sets.
        config: of the network that reads the sentences.
        task: how many genes of each kind.
        seed: of the filling of sentences and the draws of genes.
    """

    def __init__(self, sources: Sequence[Source], config: EmbeddingConfig, task: Task, seed: int) -> None:
        self.sources, self.task, self.seed = tuple(sources), task, seed
        self.makers = [
            SentenceMaker(s.genes, s.dataset.scale.require(), config.tokens, config.cls_gene, seed) for s in self.sources
        ]
        self.common = common_genes(self.sources)
        self._places = [_places(s) for s in self.sources]

    def shared(self, *key: int) -> np.ndarray:
        """Return the S genes that belong to a key (step, use), rows of the vocabulary."""
        rng = np.random.default_rng([self.seed, 3, *key])
        return rng.choice(self.common, self.task.shared, replace=len(self.common) < self.task.shared)

    def cells(self, file: int, rows: np.ndarray, values: np.ndarray | sp.csr_matrix, shared: np.ndarray, key: int) -> Cells:
        """Return cells of one file.

        Args:
            file: number of the data set.
            rows: (m,) rows in the file.
            values: (m, g) as stored.
            shared: (S,) see `shared`.
            key: tells the draws of steps apart.
        """
        made = self.makers[file].make(values, rows)
        source = self.sources[file]
        logged = source.logged(values)
        dense = logged if isinstance(logged, np.ndarray) else logged.toarray()
        dense = dense[np.searchsorted(rows, made.cells)] if len(made) < len(rows) else dense
        places = self._places[file][shared]
        of_shared = dense[:, places]  # every data set measures them
        own = (
            np.stack([self._own(line, key, int(row)) for line, row in zip(dense, made.cells, strict=True)]) if len(made) else None
        )
        if own is None:
            own = np.empty((0, self.task.expressed + self.task.unexpressed), np.int64)
        genes = np.concatenate([source.genes.rows[own], np.broadcast_to(shared, (len(made), len(shared)))], axis=1)
        measured = np.concatenate([np.take_along_axis(dense, own, axis=1), of_shared], axis=1)
        datasets = np.full(len(made), file, np.int64)
        return Cells(made.rows.astype(np.int64), made.counts, genes.astype(np.int64), measured.astype(np.float32), datasets)

    def _own(self, line: np.ndarray, key: int, row: int) -> np.ndarray:
        """Draw a cell's expressed and unexpressed genes, (P + N,) places among the known genes of its file."""
        rng = np.random.default_rng([self.seed, 4, key, row])
        there, absent = np.flatnonzero(line > 0), np.flatnonzero(line <= 0)
        # a cell that expresses all its genes, or (counts of a panel) none: the other kind stands in
        there, absent = (there if len(there) else absent), (absent if len(absent) else there)
        wanted = ((there, self.task.expressed), (absent, self.task.unexpressed))
        return np.concatenate([rng.choice(of, n, replace=len(of) < n) for of, n in wanted])


class CellStream:
    """Training cells of all files as one stream from disk.

    Args:
        reader: of the cells.
        rows: of each data set, those that are trained on.
        cells_per_step: b.
    """

    def __init__(self, reader: CellReader, rows: Sequence[np.ndarray], cells_per_step: int) -> None:
        self.reader, self.rows, self.cells_per_step = reader, tuple(rows), cells_per_step
        self.order = CellOrder(tuple(len(r) for r in rows), reader.seed)
        self._window = lru_cache(maxsize=2)(self._read)

    def step(self, step: int, share: slice = slice(None)) -> Cells:
        """Return the cells of a step, counted from 0; `share` takes some of them."""
        picked: dict[int, list[tuple[np.ndarray, np.ndarray | sp.csr_matrix]]] = {}
        first, behind, _ = share.indices(self.cells_per_step)
        for at, n in self.order.parts(step * self.cells_per_step + first, behind - first):
            window, values = self.order.window(at.epoch, at.window), self._window(at.epoch, at.window)
            chosen = slice(at.cell, at.cell + n)
            for file in np.unique(window.files[chosen]).tolist():
                places = np.sort(window.places[chosen][window.files[chosen] == file])
                known, stored = values[file]
                picked.setdefault(file, []).append((self.rows[file][places], stored[np.searchsorted(known, places)]))
        shared = self.reader.shared(step)
        parts = [self.reader.cells(file, rows, values, shared, step) for file in sorted(picked) for rows, values in picked[file]]
        return _joined(parts)

    def _read(self, epoch: int, window: int) -> dict[int, tuple[np.ndarray, np.ndarray | sp.csr_matrix]]:
        """The cells of a window: file -> places among its training cells, sorted, and the stored values of these."""
        cells, found = self.order.window(epoch, window), {}
        for file in np.unique(cells.files).tolist():
            places = np.sort(cells.places[cells.files == file])
            source = self.reader.sources[file]
            found[file] = places, source.dataset.read_stored(source.expression, self.rows[file][places])
        return found


def validation_cells(reader: CellReader, rows: Sequence[np.ndarray], cells_per_pass: int) -> tuple[Cells, ...]:
    """Return the validation cells of all files, some at a time; their tasks are drawn once."""
    found = []
    for file, own in enumerate(rows):
        source = reader.sources[file]
        for start in range(0, len(own), cells_per_pass):
            part = own[start : start + cells_per_pass]
            values = source.dataset.read_stored(source.expression, part)
            found.append(reader.cells(file, part, values, reader.shared(start, file), 2**31))
    return tuple(part for part in found if len(part.rows))


def _places(source: Source) -> np.ndarray:
    """(v,) place of each gene of the vocabulary among the known genes of a file, -1 where it lacks it."""
    places = np.full(source.genes.n_vocabulary, -1, np.int64)
    places[source.genes.rows] = np.arange(len(source.genes.rows))
    return places


def _joined(parts: Sequence[Cells]) -> Cells:
    names = ("rows", "counts", "genes", "values", "datasets")
    whole = Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    if not len(whole.rows):
        raise EmptyDataError("All cells of a step express no known gene.", "", "Leave out cells with so few genes.")
    return whole
