"""The matrices of an AnnData file (X, layers, obsm) on disk: what they are, whether they are consistent, and reading some rows.

Source: AnnData's on-disk format, with the sparse layout of files before 0.7 (`h5sparse_*`).
Boundary: rows go in, values come out; no labels, no gene names, no scale.

Notation: n rows (cells), g columns (genes or features), s stored values of a sparse matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import scipy.sparse as sp

from state_engine.data.files.hdf5 import column_names, encoding, open_h5, text
from state_engine.errors import RepresentationError, UnsafeFileError

Layout = Literal["csr", "csc", "dense", "frame"]
NUMBERS = "biuf"
FLOAT32 = np.dtype(np.float32)
BLOCK = 4_000_000  # stored values read at once
COMPLETE = 50_000_000  # up to this many stored values every index is checked when a file is opened
CLOSE = 20_000  # values between two wanted rows that are cheaper to read than to skip


@dataclass(frozen=True)
class MatrixFacts:
    """A matrix as its file declares it.

    Args:
        name: "X", "layers/NAME" or "obsm/NAME".
        layout: csr, csc, dense, or frame (a data frame in obsm, one data set a column).
        rows, width: n and g.
        dtype: of the values on disk.
        stored: values on disk: s, or n x g.
        nbytes: bytes of the declared arrays, uncompressed.
    """

    name: str
    layout: Layout
    rows: int
    width: int
    dtype: str
    stored: int
    nbytes: int

    @property
    def sparse(self) -> bool:
        """Stored as CSR or CSC."""
        return self.layout in ("csr", "csc")


def matrix_facts(item: h5py.Group | h5py.Dataset, name: str) -> MatrixFacts:
    """What the file declares about a matrix, without reading its values.

    Raises:
        RepresentationError: it is not a matrix of numbers that can be read by rows.
        UnsafeFileError: its parts contradict one another.
    """
    if isinstance(item, h5py.Dataset):
        return _dense_facts(item, name)
    layout = sparse_layout(item)
    if layout:
        return _sparse_facts(item, name, layout)
    if encoding(item) == "dataframe":
        return _frame_facts(item, name)
    raise RepresentationError(f"{name} cannot be read.", f"It is stored as '{encoding(item) or 'a group'}', not as a matrix.")


def sparse_layout(group: h5py.Group) -> Literal["csr", "csc"] | None:
    """CSR or CSC, in the words of any AnnData version; None when the group is no sparse matrix."""
    word = encoding(group) or text(group.attrs.get("h5sparse_format", ""))
    if word in ("csr", "csr_matrix"):
        return "csr"
    return "csc" if word in ("csc", "csc_matrix") else None


def _dense_facts(item: h5py.Dataset, name: str) -> MatrixFacts:
    if item.dtype.kind not in NUMBERS:
        raise RepresentationError(f"{name} holds no numbers.", f"Its values are of type '{item.dtype}'.")
    if len(item.shape) != 2:
        raise RepresentationError(f"{name} is not a matrix.", f"It has {len(item.shape)} dimensions.")
    n, g = (int(v) for v in item.shape)
    return MatrixFacts(name, "dense", n, g, str(item.dtype), n * g, n * g * item.dtype.itemsize)


def _frame_facts(item: h5py.Group, name: str) -> MatrixFacts:
    columns = [item[c] for c in column_names(item)]
    plain = [c for c in columns if isinstance(c, h5py.Dataset) and c.dtype.kind in NUMBERS and len(c.shape) == 1]
    if not columns or len(plain) < len(columns):
        raise RepresentationError(f"{name} cannot be read as numbers.", "It is a table with columns that are not numeric.")
    lengths = {int(c.shape[0]) for c in plain}
    if len(lengths) > 1:
        raise UnsafeFileError(
            f"{name} contradicts itself.", f"Its columns have lengths {sorted(lengths)}.", "Export the file again."
        )
    n = lengths.pop()
    nbytes = sum(int(c.shape[0]) * c.dtype.itemsize for c in plain)
    return MatrixFacts(name, "frame", n, len(plain), str(np.result_type(*(c.dtype for c in plain))), n * len(plain), nbytes)


def _sparse_facts(item: h5py.Group, name: str, layout: Literal["csr", "csc"]) -> MatrixFacts:
    parts = {}
    for part in ("data", "indices", "indptr"):
        found = item.get(part)
        if not isinstance(found, h5py.Dataset) or len(found.shape) != 1:
            raise _contradiction(name, f"It is a sparse matrix without a usable '{part}'.")
        if found.dtype.kind not in (NUMBERS if part == "data" else "iu"):
            raise _contradiction(name, f"Its '{part}' holds values of type '{found.dtype}', not numbers.")
        parts[part] = found
    shape = np.asarray(item.attrs.get("shape", item.attrs.get("h5sparse_shape", ())))
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or (shape < 0).any():
        raise _contradiction(name, "It is a sparse matrix without a shape.")
    n, g = (int(v) for v in shape)
    s, lines = int(parts["data"].shape[0]), n if layout == "csr" else g
    if int(parts["indices"].shape[0]) != s:
        raise _contradiction(name, f"It stores {s:,} values but {int(parts['indices'].shape[0]):,} positions.")
    if int(parts["indptr"].shape[0]) != lines + 1:
        raise _contradiction(
            name, f"Its index has {int(parts['indptr'].shape[0]):,} entries; {lines:,} {_lines(layout)} need {lines + 1:,}."
        )
    nbytes = sum(int(p.shape[0]) * p.dtype.itemsize for p in parts.values())
    return MatrixFacts(name, layout, n, g, str(parts["data"].dtype), s, nbytes)


def _lines(layout: str) -> str:
    return "cells" if layout == "csr" else "genes"


def _contradiction(name: str, why: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"The matrix {name} contradicts itself.", why, "Export the file again with anndata; this copy must not be trusted."
    )


def check_sparse(group: h5py.Group, facts: MatrixFacts) -> None:
    """Check that a sparse matrix's indices fit its shape.

    The index of lines (`indptr`) is checked completely. Positions (`indices`) are checked completely up to `COMPLETE` stored
    values, beyond that in blocks spread evenly over the file; whatever is read later is checked when it is read, so nothing
    unchecked is ever used. Memory: one block.

    Raises:
        UnsafeFileError: the index does not start at 0, goes backwards or does not end at the number of values, or a position is
            out of range.
    """
    last = 0
    pointers = group["indptr"]
    for start in range(0, int(pointers.shape[0]), BLOCK):
        block = pointers[start : start + BLOCK].astype(np.int64)
        if start == 0 and block[0] != 0:
            raise _contradiction(facts.name, f"Its index starts at {block[0]:,}, not at 0.")
        if block[0] < last or (np.diff(block) < 0).any():
            raise _contradiction(facts.name, "Its index goes backwards.")
        last = int(block[-1])
    if last != facts.stored:
        raise _contradiction(facts.name, f"Its index ends at {last:,}, but {facts.stored:,} values are stored.")
    limit = facts.width if facts.layout == "csr" else facts.rows
    begins = np.arange(0, facts.stored, BLOCK)
    if facts.stored > COMPLETE:
        begins = begins[np.linspace(0, len(begins) - 1, COMPLETE // BLOCK).astype(int)]
    for start in begins.tolist():
        check_positions(group["indices"][start : start + BLOCK], limit, facts.name)


def check_positions(positions: np.ndarray, limit: int, name: str) -> None:
    """Check that positions of stored values lie in a matrix.

    Raises:
        UnsafeFileError: names the first that does not.
    """
    if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= limit):
        bad = int(positions.min()) if int(positions.min()) < 0 else int(positions.max())
        raise _contradiction(name, f"A stored value claims position {bad:,} of {limit:,}.")


def plain_type(dtype: np.dtype) -> np.dtype:
    """Return the number type in which values of a file are kept as they are: SciPy has no sparse float16 or bool."""
    return np.dtype(np.float32) if dtype.kind == "b" or dtype == np.float16 else dtype.newbyteorder("=")


def read_rows(path: Path, facts: MatrixFacts, rows: np.ndarray, dtype: np.dtype | None = FLOAT32) -> np.ndarray | sp.csr_matrix:
    """Return rows of a matrix, in any order, repeats allowed.

    Args:
        path: a file that `check_file` accepted.
        facts: the matrix.
        rows: (m,) integers, 0 <= row < n.
        dtype: of the answer; None for values as they are stored: in the number type of the file (see `plain_type`), repeated
            positions apart.

    Returns:
        (m, g): a CSR matrix when the file stores a sparse one, else an array. A matrix stored by column (csc) costs a
        pass over all its values.

    Raises:
        RepresentationError: a row that is not there.
        UnreadableFileError, UnsafeFileError: damage found while reading.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= facts.rows):
        raise RepresentationError(f"{facts.name} has {facts.rows:,} rows.", f"Rows {rows.min()} to {rows.max()} were asked for.")
    wanted, back = np.unique(rows, return_inverse=True)
    # a number beyond float32 must not become infinite in silence
    with open_h5(path) as file, np.errstate(over="raise"):
        item = file[facts.name]
        kind = plain_type(np.dtype(facts.dtype)) if dtype is None else dtype
        if facts.layout == "csr":
            values = _read_csr(item, facts, wanted, line_starts(path, facts), kind)
            if dtype is not None:
                # a position may be stored several times (files put together from pieces): its value is the sum, before anybody
                # takes a logarithm
                values.sum_duplicates()
        elif facts.layout == "csc":
            values = _read_csc(item, facts, wanted, kind)
        elif facts.layout == "dense":
            values = _read_dense(item, facts, wanted, kind)
        else:
            values = np.stack([item[c][...][wanted] for c in column_names(item)], axis=1).astype(kind)
    in_order = len(wanted) == len(rows) and bool((back == np.arange(len(rows))).all())
    return values if in_order else values[back]


def dense(values: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """Values as an array, whichever way they were stored."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.toarray())


def line_starts(path: Path, facts: MatrixFacts) -> np.ndarray:
    """Return where each line of a sparse matrix starts among its stored values, (lines + 1,) int64; kept between reads."""
    return _pointers(path, facts.name, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _pointers(path: Path, name: str, modified: int) -> np.ndarray:
    """The index of lines of a sparse matrix, kept between reads of the same file; `modified` makes a changed file another one."""
    with open_h5(path) as file:
        pointers = file[name]["indptr"][...].astype(np.int64)
    pointers.flags.writeable = False
    return pointers


def _ranges(starts: np.ndarray, ends: np.ndarray, close: int, most: int | None = None) -> list[tuple[int, int]]:
    """Group sorted, disjoint intervals whose gaps are at most `close`: pairs (first, behind last) of interval numbers.

    Args:
        most: about the longest stretch of a group, since all of it is read at once; None for any.
    """
    apart = starts[1:] - ends[:-1] > close
    if most is not None:
        apart |= starts[1:] // most != starts[:-1] // most
    cuts = np.flatnonzero(apart) + 1
    edges = [0, *cuts.tolist(), len(starts)]
    return list(pairwise(edges)) if len(starts) else []


def _read_csr(group: h5py.Group, facts: MatrixFacts, wanted: np.ndarray, pointers: np.ndarray, dtype: np.dtype) -> sp.csr_matrix:
    starts, ends = pointers[wanted], pointers[wanted + 1]
    lengths = ends - starts
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.empty(indptr[-1], dtype=np.int32 if facts.width < 2**31 else np.int64)
    data = np.empty(indptr[-1], dtype=dtype)
    for first, behind in _ranges(starts, ends, CLOSE, BLOCK):
        low, high = int(starts[first]), int(ends[behind - 1])
        to = slice(indptr[first], indptr[behind])
        if to.stop - to.start == high - low:
            indices[to], data[to] = group["indices"][low:high], group["data"][low:high]
        elif to.stop > to.start:
            shift = np.repeat(starts[first:behind] - low - (indptr[first:behind] - indptr[first]), lengths[first:behind])
            keep = shift + np.arange(to.stop - to.start)
            indices[to], data[to] = group["indices"][low:high][keep], group["data"][low:high][keep]
    check_positions(indices, facts.width, facts.name)
    return sp.csr_matrix((data, indices, indptr), shape=(len(wanted), facts.width))


def _read_csc(group: h5py.Group, facts: MatrixFacts, wanted: np.ndarray, dtype: np.dtype) -> sp.csr_matrix:
    pointers = group["indptr"][...].astype(np.int64)
    place = np.full(facts.rows, -1, dtype=np.int32)
    place[wanted] = np.arange(len(wanted), dtype=np.int32)
    rows, columns, values = [], [], []
    for start in range(0, facts.stored, BLOCK):
        stop = min(start + BLOCK, facts.stored)
        positions = group["indices"][start:stop]
        check_positions(positions, facts.rows, facts.name)
        at = place[positions]
        keep = np.flatnonzero(at >= 0)
        rows.append(at[keep])
        columns.append((np.searchsorted(pointers, start + keep, side="right") - 1).astype(np.int32))
        values.append(group["data"][start:stop][keep].astype(dtype))
    if not rows:
        return sp.csr_matrix((len(wanted), facts.width), dtype=dtype)
    triples = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_matrix(triples, shape=(len(wanted), facts.width))


def _read_dense(item: h5py.Dataset, facts: MatrixFacts, wanted: np.ndarray, dtype: np.dtype) -> np.ndarray:
    out = np.empty((len(wanted), facts.width), dtype=dtype)
    # rows of one chunk are decompressed together anyway
    close = max((item.chunks or (1,))[0], CLOSE // max(facts.width, 1))
    for first, behind in _ranges(wanted, wanted + 1, close):
        low, high = int(wanted[first]), int(wanted[behind - 1]) + 1
        step = max(1, BLOCK // max(facts.width, 1))
        for start in range(low, high, step):
            stop = min(start + step, high)
            a, b = np.searchsorted(wanted, [start, stop])
            if b > a:
                out[a:b] = item[start:stop][wanted[a:b] - start]
    return out
