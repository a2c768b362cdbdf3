"""Cell sentences: the genes of a cell in the order of their expression, as a State Embedding model reads them.

Source: what arc-state's sentences look like from outside, with two things decided instead of drawn: ties go by the vocabulary, and
the unexpressed genes that fill a short sentence are drawn by a seed and the cell's row number. So a cell's sentence depends on nothing
but the cell, its row and the seed: not on the block it is read in, nor on the other cells.

No loop over cells: a value, its cell and its gene are packed into one 64-bit number, and one sort of a block orders all its sentences.

Notation: b cells of a block, g genes of the file, k kept genes (those the model knows), p positions of a sentence, n stored values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from state_engine.data.gene_vocabulary import GeneMap
from state_engine.data.scale import Scale
from state_engine.errors import ConfigError, ScaleError

PERCENT = 100.0
CELLS_A_SORT = 128  # what a sort and the tables beside it need then stays in the caches
VALUE_BITS = 31  # of a positive float32; its bits are ordered as its values are
_LARGEST = np.uint64((1 << VALUE_BITS) - 1)


@dataclass(frozen=True, eq=False)
class Sentences:
    """The sentences of some cells, those without any expression left out.

    Args:
        cells: (m,) their row numbers in the file.
        rows: (m, p) int32 rows of the model's table; position 0 is CLS.
        counts: (m, p) float32, each gene's part of the cell's expression as a percentage; 0 for genes that fill up.
        expressed: (m,) int32, genes of the sentence that are expressed: positions 1 to `expressed`.
        empty: row numbers of the cells that express none of the genes the model knows: they have no sentence.
        mean_expression: (m,) float32, mean log1p expression of all expressed kept genes.
        negative: how many values below 0 were taken as 0.
    """

    cells: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    expressed: np.ndarray
    empty: np.ndarray
    mean_expression: np.ndarray
    negative: int = 0

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, part: slice) -> Sentences:
        """Some of the sentences; `empty` and `negative` stay with the whole."""
        fields = (self.cells, self.rows, self.counts, self.expressed)
        one, two, three, four = (field[part] for field in fields)
        return Sentences(one, two, three, four, np.empty(0, np.int64), self.mean_expression[part])


class SentenceMaker:
    """Makes the sentences of one data set.

    Args:
        genes: which columns of the file are which rows of the vocabulary.
        scale: of the values: counts get a log1p, without any normalisation of depth.
        positions: p, CLS included.
        cls_gene: CLS carries the amount of this kept gene (its number in file order); None: it carries 0.
        seed: of the filling.

    Raises:
        ConfigError: the vocabulary is too large to be sorted this way.
    """

    def __init__(self, genes: GeneMap, scale: Scale, positions: int, cls_gene: int | None = 3, seed: int = 0) -> None:
        self.genes, self.scale, self.length, self.seed = genes, scale, positions - 1, seed
        self.kept = len(genes.rows)
        self.gene_bits = max(1, int(self.kept - 1).bit_length())
        if VALUE_BITS + self.gene_bits > 56:
            raise ConfigError(f"{self.kept:,} genes are too many for cell sentences.")
        self.most_cells = 1 << (64 - VALUE_BITS - self.gene_bits)
        self._place = np.full(genes.n_file, -1, dtype=np.int32)  # column of the file -> kept gene
        self._place[genes.columns] = np.arange(self.kept, dtype=np.int32)
        self._rows = genes.rows.astype(np.int32)
        in_file_order = np.argsort(genes.columns, kind="stable")
        self._cls = int(in_file_order[cls_gene]) if cls_gene is not None and cls_gene < self.kept else None
        self._fill = _Filling(self.kept, self.length, seed)
        self._strange = np.setdiff1d(np.arange(genes.n_vocabulary, dtype=np.int32), self._rows)

    def make(self, values: np.ndarray | sp.csr_matrix, cells: np.ndarray) -> Sentences:
        """The sentences of a block.

        Args:
            values: (b, g) as stored, dense or CSR.
            cells: (b,) row numbers in the file.

        Raises:
            ScaleError: values that are not numbers.
        """
        step = min(self.most_cells, CELLS_A_SORT)
        parts = [self._make(values[i : i + step], cells[i : i + step]) for i in range(0, len(cells), step)]
        return parts[0] if len(parts) == 1 else _joined(parts, self.length + 1)

    def _make(self, values: np.ndarray | sp.csr_matrix, cells: np.ndarray) -> Sentences:
        cell, gene, value, negative = self._positive(values)
        b = len(cells)
        totals = np.bincount(cell, weights=value, minlength=b)
        numbers = np.bincount(cell, minlength=b)
        there = np.flatnonzero(totals > 0)
        starts = np.concatenate([[0], np.cumsum(numbers)])
        gene, value = self._sorted(cell, gene, value)
        taken = np.minimum(numbers, self.length)
        rows = np.empty((b, self.length + 1), dtype=np.int32)
        counts = np.zeros((b, self.length + 1), dtype=np.float32)
        rows[:, 0] = self.genes.n_vocabulary
        at = np.arange(self.length)
        inside = at < taken[:, None]
        source = (starts[:-1, None] + at)[inside]
        share = PERCENT / np.where(totals > 0, totals, 1.0)
        rows[:, 1:][inside] = self._rows[gene[source]]
        counts[:, 1:][inside] = value[source] * np.repeat(share, taken)
        self._fill_up(rows, starts, numbers, gene, cells)
        if self._cls is not None:
            found = np.flatnonzero(gene == self._cls)
            owner = np.searchsorted(starts, found, side="right") - 1
            counts[owner, 0] = value[found] * share[owner]
        mean = (totals / np.maximum(numbers, 1)).astype(np.float32)
        empty = cells[totals <= 0]
        whole = Sentences(cells, rows, counts, taken.astype(np.int32), empty, mean, negative)
        if len(there) == b:
            return whole
        kept = (cells[there], rows[there], counts[there], taken[there].astype(np.int32))
        return Sentences(*kept, empty, mean[there], negative)

    def _positive(self, values: np.ndarray | sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Positive values of kept genes on the log1p scale: their cell (n,), kept gene (n,), value (n,); and how many were below 0."""
        block = sp.csr_matrix(values)
        gene = self._place[block.indices]
        data = np.asarray(block.data, dtype=np.float32)
        known = gene >= 0
        if not np.isfinite(data[known]).all():
            raise ScaleError("Some expression values are not numbers (NaN or infinite).", "", "Remove or repair these cells.")
        negative = int(np.count_nonzero(data[known] < 0))
        keep = known & (data > 0)
        cell = np.repeat(np.arange(block.shape[0], dtype=np.int32), np.diff(block.indptr))[keep]
        value = data[keep]
        return cell, gene[keep], np.log1p(value) if self.scale == "counts" else value, negative

    def _sorted(self, cell: np.ndarray, gene: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Genes and values of all cells, cell after cell, in each by falling value and then by the vocabulary."""
        bits = np.uint64(self.gene_bits)
        key = value.view(np.uint32).astype(np.uint64)
        np.subtract(_LARGEST, key, out=key)
        key <<= bits
        key |= gene.astype(np.uint64)
        key |= cell.astype(np.uint64) << np.uint64(VALUE_BITS + self.gene_bits)
        key.sort()
        ordered = (key & np.uint64((1 << self.gene_bits) - 1)).astype(np.int32)
        key >>= bits
        key &= _LARGEST
        return ordered, (_LARGEST - key).astype(np.uint32).view(np.float32)

    def _fill_up(self, rows: np.ndarray, starts: np.ndarray, numbers: np.ndarray, gene: np.ndarray, cells: np.ndarray) -> None:
        """Unexpressed genes behind the expressed ones of each cell whose sentence is not full."""
        short = np.flatnonzero((numbers < self.length) & (numbers > 0))
        if not len(short):
            return
        expressed = np.zeros((len(short), self.kept), dtype=bool)
        sizes = numbers[short]
        owner = np.repeat(np.arange(len(short)), sizes)
        inside = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        expressed[owner, gene[np.repeat(starts[short], sizes) + inside]] = True
        chosen = self._fill.choose(expressed, sizes, cells[short])  # (short, length), -1 where nothing is left
        spare = self._strange if len(self._strange) else self._rows
        draws = _hash(self.seed, cells[short], 3)[:, None] + np.arange(self.length, dtype=np.uint64)
        drawn = spare[(_mixed(draws) % np.uint64(len(spare))).astype(np.int64)]
        filled = np.where(chosen >= 0, self._rows[chosen], drawn)
        wanted = np.arange(self.length) >= sizes[:, None]
        part = rows[short]
        part[:, 1:][wanted] = filled[wanted]
        rows[short] = part


class _Filling:
    """Draws unexpressed genes: without repeats when the file has as many genes as a sentence has places, else with."""

    def __init__(self, kept: int, length: int, seed: int) -> None:
        self.kept, self.length, self.seed = kept, length, seed
        self.modulus = _next_prime(max(kept, 2))
        order = np.random.default_rng([seed, kept]).permutation(kept)
        self.order = np.concatenate([order, np.full(self.modulus - kept, -1)]).astype(np.int64)

    def choose(self, expressed: np.ndarray, sizes: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """(b, length) kept genes for the places from `sizes` on, -1 where a cell has no unexpressed gene."""
        return self._walk(expressed, sizes, cells) if self.kept >= self.length else self._draw(expressed, cells)

    def _walk(self, expressed: np.ndarray, sizes: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Walks through all genes in an order of the cell's own (a start and a step, modulo a prime) past the expressed ones.

        Of `length` + the gap to the prime steps at least as many as wanted meet an unexpressed gene.
        """
        steps = min(self.modulus, self.length + self.modulus - self.kept)
        start = (_hash(self.seed, cells, 1) % np.uint64(self.modulus)).astype(np.int64)
        stride = (_hash(self.seed, cells, 2) % np.uint64(self.modulus - 1)).astype(np.int64) + 1
        met = self.order[(start[:, None] + stride[:, None] * np.arange(steps)) % self.modulus]
        free = (met >= 0) & ~np.take_along_axis(expressed, np.maximum(met, 0), axis=1)
        place = sizes[:, None] + np.cumsum(free, axis=1) - 1
        cell, step = np.nonzero(free & (place < self.length))
        chosen = np.full((len(cells), self.length), -1, dtype=np.int64)
        chosen[cell, place[cell, step]] = met[cell, step]
        return chosen

    def _draw(self, expressed: np.ndarray, cells: np.ndarray) -> np.ndarray:
        free = self.kept - expressed.sum(axis=1)
        listed = np.nonzero(~expressed)[1]
        first = np.cumsum(free) - free
        draws = _mixed(_hash(self.seed, cells, 1)[:, None] + np.arange(self.length, dtype=np.uint64))
        number = (draws % np.maximum(free, 1).astype(np.uint64)[:, None]).astype(np.int64)
        if not len(listed):
            return np.full(number.shape, -1, dtype=np.int64)
        found = listed[np.minimum(first[:, None] + number, len(listed) - 1)]
        return np.where(free[:, None] > 0, found, -1)


def _hash(seed: int, cells: np.ndarray, stream: int) -> np.ndarray:
    """(b,) uint64: a number that belongs to the seed, the cell and the stream."""
    first = _mixed(np.uint64(seed & 0xFFFFFFFFFFFFFFFF) + np.zeros(1, np.uint64))
    return _mixed(_mixed(first + np.uint64(stream)) + cells.astype(np.uint64))


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: neighbouring numbers come out unrelated."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _next_prime(n: int) -> int:
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def _joined(parts: list[Sentences], positions: int) -> Sentences:
    if not parts:
        none = np.empty(0, np.int64)
        shape = (0, positions)
        return Sentences(none, np.empty(shape, np.int32), np.empty(shape, np.float32), none, none, np.empty(0, np.float32))
    together = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("cells", "rows", "counts", "expressed", "empty", "mean_expression")
    ]
    cells, rows, counts, expressed, empty, mean = together
    return Sentences(cells, rows, counts, expressed, empty, mean, sum(part.negative for part in parts))
