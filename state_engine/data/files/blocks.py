"""The cells of a matrix as blocks, in file order and in the file's own number type: one block in memory at a time.

Cells are read by `matrices`; here are the size of a block, a transposed copy on disk for a matrix stored by gene, and tidy CSR:
columns sorted, repeated entries added up, stored zeros dropped, and how many there were.

Notation: n cells, g genes of the file, m cells of a block. Memory follows `BLOCK_VALUES`, never n.
Files come here behind `safety.check_file`; positions that it checks by samples are checked here in full.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from state_engine.data.files.hdf5 import open_h5
from state_engine.data.files.matrices import Layout, MatrixFacts, check_positions, line_starts, plain_type, read_rows
from state_engine.data.files.safety import FileFacts
from state_engine.errors import RepresentationError, listed

BLOCK_VALUES = 2_000_000
BLOCK_CELLS = 8192
MAX_BUCKETS = 512


@dataclass(frozen=True)
class Matrix:
    """A matrix of a file that was checked.

    Args:
        path: the file.
        facts: the matrix as it is stored.
        columns: (g,) those that are read, ascending; None for all.
    """

    path: Path
    facts: MatrixFacts
    columns: NDArray[np.int64] | None = None

    @property
    def kind(self) -> Layout:
        """How it is stored."""
        return self.facts.layout

    @property
    def shape(self) -> tuple[int, int]:
        """(n, g)."""
        return self.facts.rows, self.facts.width if self.columns is None else len(self.columns)

    @property
    def n_stored(self) -> int:
        """Stored values (n x g when dense)."""
        return self.facts.stored


@dataclass(frozen=True)
class Block:
    """Cells that follow one another.

    Args:
        rows: (m,) positions in the file, ascending.
        values: (m, g) in the file's number type (at least 32 bits wide), no explicit duplicates, sorted.
        untidy: stored values that were zero, repeated or out of order, and are not any more.
    """

    rows: NDArray[np.int64]
    values: sp.csr_matrix
    untidy: int = 0


def find_matrix(file: FileFacts, key: str) -> Matrix:
    """Return the matrix at a place of a checked file ("X", "layers/NAME").

    Raises:
        RepresentationError: it is not there, or cannot be read.
    """
    for facts in file.matrices:
        if facts.name == key:
            return Matrix(file.path, facts)
    why = next((note for note in file.notes if note.startswith(f"{key} ")), f"It has {listed([m.name for m in file.matrices])}.")
    raise RepresentationError(f"The file has no {key} that can be read.", why, "Choose another matrix.")


def read_blocks(matrix: Matrix, keep: NDArray[np.bool_] | None = None, scratch: Path | None = None) -> Iterator[Block]:
    """Read the cells to keep as blocks, in file order.

    Args:
        matrix: of a checked file.
        keep: (n,) cells wanted; None for all.
        scratch: folder for a transposed copy on disk when the matrix is stored by gene.

    Raises:
        DataError: a part cannot be read, or an index is out of range.
    """
    for block in _read_by_gene(matrix, keep, scratch) if matrix.kind == "csc" else _read_by_cell(matrix, keep):
        yield block if matrix.columns is None else replace(block, values=block.values[:, matrix.columns])


def _read_by_cell(matrix: Matrix, keep: NDArray[np.bool_] | None) -> Iterator[Block]:
    for start, stop in _spans(matrix):
        rows = _wanted(start, stop, keep)
        if rows.size:
            yield _tidy(rows, read_rows(matrix.path, matrix.facts, rows, dtype=None))


def read_cells(matrix: Matrix, rows: NDArray[np.int64]) -> sp.csr_matrix:
    """Return some cells (m, g) in the file's number type, in any order, repeats allowed, no explicit duplicates."""
    unique, back = np.unique(rows, return_inverse=True)
    values = _tidy(unique, read_rows(matrix.path, matrix.facts, unique, dtype=None)).values
    values = values if matrix.columns is None else values[:, matrix.columns]
    return values[back] if len(unique) < len(rows) or (np.diff(back) < 0).any() else values


def map_columns(part: sp.csr_matrix, columns: NDArray[np.int32] | None, width: int) -> sp.csr_matrix:
    """The same cells with their genes in other places; genes with place -1 are left out."""
    if columns is None:
        return part
    places = columns[part.indices]
    kept = places >= 0
    ends = np.concatenate([[0], np.cumsum(kept)])[part.indptr]
    mapped = sp.csr_matrix((part.data[kept], places[kept], ends), shape=(part.shape[0], width))
    mapped.sort_indices()
    return mapped


def _spans(matrix: Matrix) -> Iterator[tuple[int, int]]:
    """Yield where blocks start and stop: up to `BLOCK_CELLS` cells with about `BLOCK_VALUES` values, at least one cell."""
    n, g = matrix.facts.rows, matrix.facts.width
    starts = line_starts(matrix.path, matrix.facts) if matrix.kind == "csr" else None
    start = 0
    while start < n:
        if starts is None:
            cells = BLOCK_VALUES // max(g, 1)
        else:
            cells = int(np.searchsorted(starts, starts[start] + BLOCK_VALUES, side="right")) - 1 - start
        stop = min(start + min(max(cells, 1), BLOCK_CELLS), n)
        yield start, stop
        start = stop


def _read_by_gene(matrix: Matrix, keep: NDArray[np.bool_] | None, scratch: Path | None) -> Iterator[Block]:
    """Read a CSC matrix by way of buckets of cells on disk: one pass over the genes, then one bucket at a time."""
    n, g = matrix.facts.rows, matrix.facts.width
    n_buckets = min(max(1, math.ceil(matrix.n_stored / BLOCK_VALUES), math.ceil(n / BLOCK_CELLS)), MAX_BUCKETS, max(n, 1))
    width = max(1, math.ceil(n / n_buckets))
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".transposed-") as name:
        paths = [Path(name) / f"{i}" for i in range(math.ceil(n / width))]
        with open_h5(matrix.path) as file:
            entry = _fill_buckets(file, matrix, paths, width)
        for i, path in enumerate(paths):
            start, stop = i * width, min((i + 1) * width, n)
            rows = _wanted(start, stop, keep)
            if rows.size:
                entries = np.fromfile(path, entry)
                entries = entries[np.argsort(entries["row"], kind="stable")]  # by cell; the genes of a cell stay in order
                pointers = np.searchsorted(entries["row"], np.arange(start, stop + 1))
                parts = (entries["value"].copy(), entries["column"].copy(), pointers)
                values = sp.csr_matrix(parts, shape=(stop - start, g))
                yield _tidy(rows, values if len(rows) == stop - start else values[rows - start])
            path.unlink()


def _fill_buckets(file: h5py.File, matrix: Matrix, paths: list[Path], width: int) -> np.dtype:
    """Write each stored value to the bucket of its cell; return the type of an entry (cell, gene, value)."""
    group, pointers = file[matrix.facts.name], line_starts(matrix.path, matrix.facts)
    kind = plain_type(group["data"].dtype)
    entry = np.dtype([("row", np.int32), ("column", np.int32), ("value", kind)])
    with ExitStack() as stack:
        buckets = [stack.enter_context(path.open("wb")) for path in paths]
        for low in range(0, int(pointers[-1]), BLOCK_VALUES):
            high = min(low + BLOCK_VALUES, int(pointers[-1]))
            rows = group["indices"][low:high]
            check_positions(rows, matrix.shape[0], matrix.facts.name)
            entries = np.empty(high - low, entry)
            entries["row"], entries["value"] = rows, group["data"][low:high]
            entries["column"] = np.searchsorted(pointers, np.arange(low, high), side="right") - 1
            # the entries of a bucket side by side, so that each bucket is written once for each pass
            bucket = entries["row"] // width
            entries = entries[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=len(paths)))
            for i in np.unique(bucket):
                entries[ends[i - 1] if i else 0 : ends[i]].tofile(buckets[i])
    return entry


def _tidy(rows: NDArray[np.int64], values: np.ndarray | sp.csr_matrix) -> Block:
    """Return a block with zeros dropped, columns sorted and repeated entries added up."""
    if isinstance(values, np.ndarray):
        return Block(rows, sp.csr_matrix(values))
    stored, untidy = values.nnz, 0
    if not values.has_sorted_indices:
        untidy += stored
        values.sort_indices()
    values.sum_duplicates()
    values.eliminate_zeros()
    return Block(rows, values, untidy or stored - values.nnz)


def _wanted(start: int, stop: int, keep: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    rows = np.arange(start, stop)
    return rows if keep is None else rows[keep[start:stop]]
