"""Expression of a file as blocks of cells: CSR, CSC or dense, one block in memory at a time.

Notation: n cells, g genes of the file, m cells of a block. Memory follows `BLOCK_VALUES`, never n.
Files come here behind `data.safety.check_file`; what it checks by samples is checked here in full.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from state_engine.errors import ChallengeError

BLOCK_VALUES = 2_000_000
BLOCK_CELLS = 8192
MAX_BUCKETS = 512
CACHE_BYTES = 64 * 1024**2
REBUILD = "Write it again, with scipy.sparse.vstack or anndata.concat when it was put together from pieces."


@dataclass(frozen=True)
class Matrix:
    """What is known of an expression matrix without reading it.

    Args:
        path, key: file, and place in the file ("X", "layers/NAME").
        kind: storage.
        shape: (n, g).
        dtype: of the stored values.
        n_stored: stored values (n x g when dense).
    """

    path: Path
    key: str
    kind: Literal["csr", "csc", "dense"]
    shape: tuple[int, int]
    dtype: np.dtype
    n_stored: int


@dataclass(frozen=True)
class Block:
    """Cells that follow one another.

    Args:
        rows: (m,) positions in the file, ascending.
        values: (m, g) in the file's number type (at least 32 bits wide), no explicit duplicates, sorted.
        untidy: stored values that were zero, repeated or out of order, and are not any more.
    """

    rows: NDArray[np.int64]
    values: csr_matrix
    untidy: int = 0


def node(file: h5py.File | h5py.Group, key: str) -> h5py.Group | h5py.Dataset:
    """The group or data set at `key`.

    Raises:
        ChallengeError: it is not there.
    """
    if key not in file:
        raise ChallengeError(f"The file has no {key}.")
    return file[key]


def describe(file: h5py.File, key: str = "X") -> Matrix:
    """Storage, shape and number of stored values.

    Raises:
        ChallengeError: no such matrix, or it contradicts itself.
    """
    place, path = node(file, key), Path(file.filename)
    if isinstance(place, h5py.Dataset):
        if place.ndim != 2:
            raise ChallengeError(f"{key} has {place.ndim} dimensions, not two.")
        shape = (int(place.shape[0]), int(place.shape[1]))
        return Matrix(path, key, "dense", shape, _number_type(place, key), shape[0] * shape[1])
    encoding = str(place.attrs.get("encoding-type", place.attrs.get("h5sparse_format", "")))
    kind: Literal["csr", "csc"] = "csc" if encoding.startswith("csc") else "csr"
    sides = [int(v) for v in np.ravel(place.attrs.get("shape", place.attrs.get("h5sparse_shape", ())))]
    if not encoding.startswith(("csr", "csc")) or len(sides) != 2 or min(sides) < 0:
        raise ChallengeError(f"{key} is neither a matrix nor a sparse matrix.", f"It says it is '{encoding or 'nothing'}'.")
    shape = (sides[0], sides[1])
    values, indices, pointers = (_vector(place, name, key) for name in ("data", "indices", "indptr"))
    _check_pointers(pointers, values, indices, shape[0 if kind == "csr" else 1], key)
    return Matrix(path, key, kind, shape, _number_type(values, key), int(pointers[-1]) if pointers.shape[0] else 0)


def read_blocks(matrix: Matrix, keep: NDArray[np.bool_] | None = None, scratch: Path | None = None) -> Iterator[Block]:
    """Blocks of the cells to keep, in file order.

    Args:
        matrix: what `describe` said.
        keep: (n,) cells wanted; None for all.
        scratch: folder for a transposed copy on disk when the matrix is CSC.

    Raises:
        ChallengeError: a part cannot be read, or an index is out of range.
    """
    reader = {"csr": _read_csr, "csc": _read_csc, "dense": _read_dense}[matrix.kind]
    try:
        with h5py.File(matrix.path, "r", rdcc_nbytes=CACHE_BYTES) as file:
            yield from reader(file, matrix, keep, scratch)
    except OSError as error:
        first = str(error).splitlines()[0]
        raise ChallengeError(
            f"{matrix.key} cannot be read to its end.", f"{first}.", "The file is damaged: write it again."
        ) from error


def _read_dense(file: h5py.File, matrix: Matrix, keep: NDArray[np.bool_] | None, scratch: Path | None) -> Iterator[Block]:
    data, (n, g) = file[matrix.key], matrix.shape
    step = min(BLOCK_CELLS, max(1, BLOCK_VALUES // max(g, 1)))
    for start in range(0, n, step):
        rows = _wanted(start, min(start + step, n), keep)
        if rows.size:
            part = _wide(data[start : start + step][rows - start])
            mask = part != 0
            pointers = np.concatenate([[0], np.cumsum(mask.sum(1))])
            columns = np.nonzero(mask)[1].astype(np.int32)
            yield Block(rows, csr_matrix((part[mask], columns, pointers), shape=part.shape))


def _read_csr(file: h5py.File, matrix: Matrix, keep: NDArray[np.bool_] | None, scratch: Path | None) -> Iterator[Block]:
    group = file[matrix.key]
    pointers = group["indptr"][:].astype(np.int64)
    start, n = 0, matrix.shape[0]
    while start < n:
        stop = int(np.searchsorted(pointers, pointers[start] + BLOCK_VALUES, side="right")) - 1
        stop = min(max(stop, start + 1), start + BLOCK_CELLS, n)
        rows = _wanted(start, stop, keep)
        if rows.size:
            low, high = pointers[start], pointers[stop]
            values, columns = group["data"][low:high], group["indices"][low:high]
            yield _tidy(rows, _wide(values), columns, pointers[start : stop + 1] - low, matrix, rows - start)
        start = stop


def _read_csc(file: h5py.File, matrix: Matrix, keep: NDArray[np.bool_] | None, scratch: Path | None) -> Iterator[Block]:
    """By way of buckets of cells on disk: one pass over the genes, then one bucket at a time."""
    n = matrix.shape[0]
    n_buckets = min(max(1, math.ceil(matrix.n_stored / BLOCK_VALUES), math.ceil(n / BLOCK_CELLS)), MAX_BUCKETS, max(n, 1))
    width = max(1, math.ceil(n / n_buckets))
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".transposed-") as name:
        paths = [Path(name) / f"{i}" for i in range(math.ceil(n / width))]
        entry = _fill_buckets(file, matrix, paths, width)
        for i, path in enumerate(paths):
            start, stop = i * width, min((i + 1) * width, n)
            rows = _wanted(start, stop, keep)
            if rows.size:
                entries = np.fromfile(path, entry)
                entries = entries[np.argsort(entries["row"], kind="stable")]
                pointers = np.searchsorted(entries["row"], np.arange(start, stop + 1))
                yield _tidy(rows, entries["value"].copy(), entries["column"].copy(), pointers, matrix, rows - start)
            path.unlink()


def _fill_buckets(file: h5py.File, matrix: Matrix, paths: list[Path], width: int) -> np.dtype:
    group = file[matrix.key]
    pointers = group["indptr"][:].astype(np.int64)
    entry = np.dtype([("row", np.int32), ("column", np.int32), ("value", _wide(group["data"][:0]).dtype)])
    with ExitStack() as stack:
        buckets = [stack.enter_context(path.open("wb")) for path in paths]
        for low in range(0, int(pointers[-1]), BLOCK_VALUES):
            high = min(low + BLOCK_VALUES, int(pointers[-1]))
            rows = group["indices"][low:high]
            _check_range(rows, matrix.shape[0], matrix)
            entries = np.empty(high - low, entry)
            entries["row"], entries["value"] = rows, _wide(group["data"][low:high])
            entries["column"] = np.searchsorted(pointers, np.arange(low, high), side="right") - 1
            bucket = entries["row"] // width
            entries = entries[np.argsort(bucket, kind="stable")]
            ends = np.cumsum(np.bincount(bucket, minlength=len(paths)))
            for i in np.unique(bucket):
                entries[ends[i - 1] if i else 0 : ends[i]].tofile(buckets[i])
    return entry


def _tidy(
    rows: NDArray[np.int64],
    values: NDArray,
    columns: NDArray,
    pointers: NDArray,
    matrix: Matrix,
    inside: NDArray[np.int64],
) -> Block:
    """A block of CSR parts, with zeros dropped, columns sorted and repeated entries added up."""
    _check_range(columns, matrix.shape[1], matrix)
    width = matrix.shape[1]
    part = csr_matrix((values, columns.astype(np.int32, copy=False), pointers), shape=(len(pointers) - 1, width))
    if len(inside) < part.shape[0]:
        part = part[inside]
    stored, untidy = part.nnz, 0
    if not part.has_sorted_indices:
        untidy += stored
        part.sort_indices()
    part.sum_duplicates()
    part.eliminate_zeros()
    return Block(rows, part, untidy or stored - part.nnz)


def _wanted(start: int, stop: int, keep: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    rows = np.arange(start, stop)
    return rows if keep is None else rows[keep[start:stop]]


def _wide(values: NDArray) -> NDArray:
    """float32, float64 or an integer type: SciPy has no sparse float16 or bool."""
    return values.astype(np.float32) if values.dtype.kind == "b" or values.dtype == np.float16 else values


def _number_type(place: h5py.Dataset, key: str) -> np.dtype:
    if place.dtype.kind not in "fiub":
        raise ChallengeError(f"{key} does not hold numbers.", f"Its type is {place.dtype}.")
    return place.dtype


def _vector(group: h5py.Group, name: str, key: str) -> h5py.Dataset:
    place = node(group, name)
    if not isinstance(place, h5py.Dataset) or place.ndim != 1:
        raise ChallengeError(f"{key}/{name} is not a list of numbers.", "The sparse matrix is damaged.", REBUILD)
    return place


def _check_pointers(pointers: h5py.Dataset, values: h5py.Dataset, indices: h5py.Dataset, n_major: int, key: str) -> None:
    why = ""
    steps = pointers[:].astype(np.int64)
    if len(steps) != n_major + 1:
        why = f"indptr has {len(steps):,} entries, not {n_major + 1:,}."
    elif steps[0] != 0 or (np.diff(steps) < 0).any():
        why = "indptr does not start at 0, or goes back."
    elif values.shape != indices.shape:
        why = f"There are {values.shape[0]:,} values and {indices.shape[0]:,} indices."
    elif steps[-1] > values.shape[0]:
        why = f"indptr ends at {steps[-1]:,}, but only {values.shape[0]:,} values are stored."
    if why:
        raise ChallengeError(f"The sparse matrix {key} contradicts itself.", why, REBUILD)


def _check_range(columns: NDArray, width: int, matrix: Matrix) -> None:
    if columns.size and (columns.min() < 0 or columns.max() >= width):
        why = f"An index is {columns.min()} or {columns.max():,}; it must lie between 0 and {width - 1:,}."
        raise ChallengeError(f"The sparse matrix {matrix.key} contradicts itself.", why, REBUILD)
