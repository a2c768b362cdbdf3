"""The features of the cells of a training, read once and gathered by row as mini-batches ask for them.

Small ones lie in memory, dense. Expression beyond that is kept sparse, embeddings stay dense, and either goes to files beside
the run when it is larger than the memory that is allowed: the system then keeps in memory what is used.

Boundary: row numbers in, float32 out; numpy only. Rows of all files are numbered one after the other, in the order they are given.

Notation: n cells, g features, s stored values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import scipy.sparse as sp

from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, as_log1p, value_check
from state_engine.data.files.matrices import dense
from state_engine.errors import ConfigError
from state_engine.progress import OnProgress, Progress, silent

GB = 1024**3
DENSE_PART = 0.25  # of the memory that is allowed: up to here expression is kept dense, which is the quickest to gather
BLOCK = 1024
Part = tuple[Dataset, FeatureSource, np.ndarray]


class CellFeatures(Protocol):
    """Features of n cells."""

    width: int
    where: str
    """For the record: "memory, dense", "file, sparse"."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return rows in any order, repeats allowed: (m,) -> (m, g) float32, an array of its own."""


class DenseFeatures:
    """Features as one array (n, g), in memory or mapped from a file."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.width = int(values.shape[1])
        self.where = f"{_place(values)}, dense"

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """See `CellFeatures`."""
        return np.take(self.values, rows, axis=0)


class SparseFeatures:
    """Features as CSR: data (s,), columns (s,) int32, pointers (n + 1,) int64."""

    def __init__(self, data: np.ndarray, columns: np.ndarray, pointers: np.ndarray, width: int) -> None:
        self.data, self.columns, self.pointers, self.width = data, columns, pointers, width
        self.where = f"{_place(data)}, sparse"

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """See `CellFeatures`."""
        # place of each value in the arrays: the start of its row there, plus its number within the row
        starts = self.pointers[rows]
        ends = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(self.pointers[rows + 1] - starts, out=ends[1:])
        at = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], np.diff(ends))
        picked = sp.csr_matrix((self.data[at], self.columns[at], ends), shape=(len(rows), self.width))
        return np.asarray(picked.toarray())


def read_cell_features(
    parts: Sequence[Part], folder: Path, memory: float, on_progress: OnProgress = silent, stage: str = "Reading cells"
) -> CellFeatures:
    """Read the features of the cells of a training.

    Args:
        parts: (data set, how its features are made, its rows (m,)); equally wide.
        folder: for files, when they do not fit in memory; made when needed.
        memory: bytes that may be used.
        on_progress: told once per block; may raise `JobCancelled`.
        stage: what to call it.

    Raises:
        ConfigError: the parts differ in width.
        RepresentationError: a value is not finite, such as those of an empty cell's embedding.
        ScaleError: expression is negative.
    """
    width, n = _shared_width(parts), sum(len(rows) for _, _, rows in parts)
    blocks = _blocks(parts, n, on_progress, stage)
    sparse = all(source.columns is not None or not source.representation.startswith("obsm/") for _, source, _ in parts)
    # 4 bytes for a float32, dense; 8 for a stored value with its int32 column, of which a row has as many as the file's on average
    whole = 4 * n * width
    if whole <= memory * (DENSE_PART if sparse else 1):
        return DenseFeatures(_dense_in_memory(blocks, n, width))
    if not sparse:
        folder.mkdir(parents=True, exist_ok=True)
        return DenseFeatures(_dense_in_file(blocks, n, width, folder / f"{stage}.f32"))
    stored = 0.0
    for dataset, source, rows in parts:
        facts = dataset.representation(source.representation)
        stored += 8 * len(rows) * min(facts.stored / max(facts.rows, 1), _width(dataset, source))
    return _sparse(blocks, n, width, None if stored <= memory else folder, stage)


def _shared_width(parts: Sequence[Part]) -> int:
    """Return the width that all parts have."""
    widths = {_width(dataset, source) for dataset, source, _ in parts}
    if len(widths) != 1:
        raise ConfigError(f"The files have features of different widths: {', '.join(map(str, sorted(widths)))}.")
    return widths.pop()


def _width(dataset: Dataset, source: FeatureSource) -> int:
    return len(source.columns) if source.columns is not None else dataset.representation(source.representation).width


def _blocks(parts: Sequence[Part], n: int, on_progress: OnProgress, stage: str) -> Iterator[np.ndarray | sp.csr_matrix]:
    """Yield the features block after block, sparse where the file is, and report how far it is."""
    done = 0
    on_progress(Progress(stage, done, n))
    for dataset, source, rows in parts:
        # one NaN would make every weight NaN at the first step that reads it; all cells are looked at, so that all are named
        check = value_check(dataset, source)
        for at, values in dataset.iter_blocks(source.representation, rows, BLOCK):
            check.add(at, values)
            if not check.found:
                made = as_log1p(values, source)
                yield made if source.columns is None else made[:, list(source.columns)]
            done += len(at)
            on_progress(Progress(stage, done, n))
        check.require_usable()


def _dense_in_memory(blocks: Iterator[np.ndarray | sp.csr_matrix], n: int, width: int) -> np.ndarray:
    values, at = np.empty((n, width), dtype=np.float32), 0
    for block in blocks:
        values[at : at + block.shape[0]] = dense(block)
        at += block.shape[0]
    return values


def _dense_in_file(blocks: Iterator[np.ndarray | sp.csr_matrix], n: int, width: int, path: Path) -> np.ndarray:
    with path.open("wb") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(dense(block), dtype=np.float32).data)
    # mapped to be read only: the system keeps the rows that are used, and lets go of them when memory is short
    return np.memmap(path, dtype=np.float32, mode="r", shape=(n, width))


def _sparse(blocks: Iterator[np.ndarray | sp.csr_matrix], n: int, width: int, folder: Path | None, stage: str) -> SparseFeatures:
    # pointers of 64 bits: a large screen stores more values than 32 bits can count, though never as many columns
    pointers, at = np.zeros(n + 1, dtype=np.int64), 0
    keep = _InMemory() if folder is None else _InFiles(folder, stage)
    with keep:
        for block in blocks:
            rows = sp.csr_matrix(block)
            keep.add(rows.data.astype(np.float32, copy=False), rows.indices.astype(np.int32, copy=False))
            pointers[at + 1 : at + 1 + rows.shape[0]] = pointers[at] + rows.indptr[1:]
            at += rows.shape[0]
    data, columns = keep.arrays()
    return SparseFeatures(data, columns, pointers, width)


class _InMemory:
    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def add(self, data: np.ndarray, columns: np.ndarray) -> None:
        self.parts.append((data, columns))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([d for d, _ in self.parts]), np.concatenate([c for _, c in self.parts])


class _InFiles:
    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = folder / f"{stage}.data", folder / f"{stage}.columns"
        self.files: list[BinaryIO] = []

    def __enter__(self) -> None:
        self.files = [path.open("wb") for path in self.paths]

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()

    def add(self, data: np.ndarray, columns: np.ndarray) -> None:
        for file, values in zip(self.files, (data, columns), strict=True):
            file.write(np.ascontiguousarray(values).data)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        data, columns = self.paths
        if not data.stat().st_size:  # an empty file cannot be mapped
            return np.zeros(0, np.float32), np.zeros(0, np.int32)
        return np.memmap(data, dtype=np.float32, mode="r"), np.memmap(columns, dtype=np.int32, mode="r")


def _place(values: np.ndarray) -> str:
    return "file" if isinstance(values, np.memmap) else "memory"
