"""A sparse .h5ad, byte for byte as AnnData writes one, without ever holding the matrix.

Values and column indices go to two temporary files (`Spool`) as cells arrive; when all have arrived the HDF5 file is
written from them in the order AnnData uses: data, indices, indptr. HDF5 places chunks in the order they are written, so pieces that
end on chunk borders give the file that one big write gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from state_engine.data.files.columns import Coded
from state_engine.progress import OnProgress, Progress, silent

SLAB_BYTES = 8 * 1024**2
MOST_INT32 = 2**31 - 1
KINDS = {"data": np.dtype(np.float32), "indices": np.dtype(np.int32)}


class Spool:
    """Cells of a CSR matrix on their way to a file: float32 values and int32 columns on disk, cell sizes in memory (8 bytes a cell).

    Args:
        folder: where the two temporary files go.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = {name: folder / f"{name}.raw" for name in KINDS}
        self.sizes: list[NDArray[np.int64]] = []
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Spool:
        self._files = {name: path.open("wb") for name, path in self.paths.items()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()

    def add(self, part: csr_matrix) -> None:
        """Take (m, genes) float32 cells."""
        for name, values in (("data", part.data), ("indices", part.indices)):
            self._files[name].write(np.ascontiguousarray(values, KINDS[name]).data)
        self.sizes.append(np.diff(part.indptr).astype(np.int64))

    def pointers(self) -> NDArray[np.int64]:
        """(n + 1,) start of each cell."""
        return np.concatenate([[0], np.cumsum(np.concatenate([*self.sizes, np.empty(0, np.int64)]))])

    def read(self, name: str, size: int) -> Iterator[NDArray]:
        """The values or columns again, `size` at a time; the temporary file is deleted behind the last."""
        with self.paths[name].open("rb") as file:
            while len(piece := np.fromfile(file, KINDS[name], size)):
                yield piece
        self.paths[name].unlink()


def write_h5ad(
    path: Path, spool: Spool, genes: tuple[str, ...], columns: dict[str, Coded], on_progress: OnProgress = silent
) -> None:
    """Write an AnnData file with X, label columns in obs, gene names in var, and nothing else.

    Args:
        path: file to make.
        spool: the cells, all of them; used up.
        genes: names of the columns of X.
        columns: obs columns by name.
        on_progress: told of values written.
    """
    pointers = spool.pointers()
    n, total = len(pointers) - 1, int(pointers[-1])
    # SciPy wants both index arrays of one type: `vcc prep` stops at int64 indptr with int32 indices
    index = np.dtype(np.int64 if total > MOST_INT32 else np.int32)
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        group = file.create_group("X")
        group.attrs["shape"] = (n, len(genes))
        for done, name in enumerate(KINDS):
            kind = index if name == "indices" else KINDS[name]
            _write_vector(group, spool, name, kind, (total, done * total), on_progress)
        group.create_dataset("indptr", data=pointers.astype(index), maxshape=(None,))
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        obs = {
            key: pd.Categorical.from_codes(labels.codes, pd.Index(labels.names, dtype=object)) for key, labels in columns.items()
        }
        write_elem(file, "obs", pd.DataFrame(obs, index=np.arange(n).astype(str)))
        write_elem(file, "var", pd.DataFrame(index=np.array(genes, object)))
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            write_elem(file, name, {})


def _write_vector(
    group: h5py.Group, spool: Spool, name: str, kind: np.dtype, span: tuple[int, int], on_progress: OnProgress
) -> None:
    """One spooled vector. Its handle is closed on return, which puts its last chunks in front of the next vector.

    Args:
        span: length of the vector, and what was done before it, for `on_progress`.
    """
    total, done = span
    place = group.create_dataset(name, shape=(total,), dtype=kind, maxshape=(None,))
    chunk = place.chunks[0]
    start = 0
    for piece in spool.read(name, max(1, SLAB_BYTES // 4 // chunk) * chunk):
        place[start : start + len(piece)] = piece
        start += len(piece)
        on_progress(Progress("Writing the matrix", done + start, 2 * total))
