"""One gene of all cells at once: the expression of a data set a second time on disk, ordered by gene within blocks of cells.

A file of cells by rows must be read whole for one gene. Here each block of cells is turned round once, in memory, and appended, so the file is
written in one pass; a gene is then one slice for each block (20 of a million cells with 1,000 values each).

Layout (HDF5): `data` (s,) uint16 for counts, else float32, and `indices` (s,) uint32, the cell within its block, both lzf; `pointers`
(k, g + 1) where each gene of each block starts; `starts` (k + 1,) the first cell of each block; `factors` (n,) float32, what counts of a
cell are multiplied by before the log1p.

Notation: n cells, g genes, s stored values, k blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from state_engine.data.dataset import Dataset
from state_engine.data.expression import depth_factors
from state_engine.data.files.hdf5 import open_h5
from state_engine.errors import GeneError, RepresentationError, RequestError, listed, may_be, near_each
from state_engine.files import replacing, room_for
from state_engine.plain import csv_for_people
from state_engine.progress import OnProgress, Progress, silent

VERSION: Final = 1
BLOCK_VALUES: Final = 25_000_000  # stored values that are turned round in memory at once
CHUNK: Final = 1 << 14  # values that are packed together: a gene that few cells express costs little
MOST_COUNT: Final = np.iinfo(np.uint16).max


def write_columns(dataset: Dataset, path: Path, on_progress: OnProgress = silent) -> None:
    """Write the expression of a data set by gene; the file appears only when complete.

    Args:
        dataset: with expression whose scale is known.
        path: the file.
        on_progress: told of cells; may raise `JobCancelled`.

    Raises:
        RepresentationError, ScaleError: there is no such expression. RequestError: the disk has no room for it.
    """
    if dataset.expression is None:
        raise RepresentationError(f"{dataset.path.name} has no expression.", "It has no X and no layers.", "Choose another file.")
    counts = dataset.scale.require() == "counts"
    room_for(path.parent, size_limit(dataset))
    kinds = (np.dtype(np.uint16), np.dtype(np.float32))[0 if counts else 1 :]
    with replacing(path) as beside:
        for kind in kinds:
            with h5py.File(beside, "w") as file:
                if _write(dataset, file, kind, on_progress):
                    return


def size_limit(dataset: Dataset) -> int:
    """Return the bytes that the file of a data set has at most, uncompressed."""
    facts = dataset.representation(str(dataset.expression))
    return 8 * facts.stored + 8 * facts.rows + (1 << 20)


def _write(dataset: Dataset, file: h5py.File, kind: np.dtype, on_progress: OnProgress) -> bool:
    """Write all blocks; return False where a value does not fit the number type."""
    expression, counts, n = str(dataset.expression), dataset.scale.scale == "counts", dataset.n_cells
    packed = {"chunks": (CHUNK,), "maxshape": (None,), "compression": "lzf", "shuffle": True}
    data = file.create_dataset("data", (0,), kind, **packed)
    indices = file.create_dataset("indices", (0,), np.uint32, **packed)
    factors = np.ones(n, np.float32)
    waiting: list[sp.csr_matrix] = []
    pointers: list[NDArray[np.int64]] = []
    starts, held, done = [0], 0, 0
    for rows, values in dataset.iter_blocks(expression):
        if counts:
            factors[rows] = depth_factors(values)
        waiting.append(sp.csr_matrix(values))
        held, done = held + waiting[-1].nnz, done + len(rows)
        if held < BLOCK_VALUES and done < n:
            continue
        block = sp.vstack(waiting, format="csr").tocsc() if len(waiting) > 1 else waiting[0].tocsc()
        block.sort_indices()
        if kind.kind == "u" and not _counts_fit(block.data):
            return False
        first = len(data)
        for place, part in ((data, block.data), (indices, block.indices)):
            place.resize((first + block.nnz,))
            place[first:] = part.astype(place.dtype)
        pointers.append(first + block.indptr.astype(np.int64))
        starts.append(done)
        waiting, held = [], 0
        on_progress(Progress("Ordering values by gene", done, n))
    file["pointers"], file["starts"], file["factors"] = np.stack(pointers), np.array(starts), factors
    file.attrs.update({"version": VERSION, "counts": counts, "dense": dataset.representation(expression).layout == "dense"})
    return True


def _counts_fit(values: NDArray[np.floating]) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() <= MOST_COUNT and (values == np.rint(values)).all())


def read_column(path: Path, gene: int, rows: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
    """Return the log1p expression of a gene, by its place, in all cells (n,), or in some.

    Raises:
        GeneError: there is no such gene.
        UnreadableFileError: the file is damaged.
    """
    with open_h5(path) as file:
        pointers, starts, n = file["pointers"], file["starts"][...], len(file["factors"])
        if not 0 <= gene < pointers.shape[1] - 1:
            raise GeneError(f"There is no gene {gene:,}.", f"There are {pointers.shape[1] - 1:,}.")
        found = np.zeros(n, np.float32)
        for first, (low, high) in zip(starts[:-1].tolist(), pointers[:, gene : gene + 2].tolist(), strict=True):
            if high > low:
                found[first + file["indices"][low:high].astype(np.int64)] = file["data"][low:high]
        if file.attrs["counts"]:
            # as `expression.normalise`: of sparse cells only what is stored, so that a cell without a depth keeps its zeros
            at = slice(None) if file.attrs["dense"] else np.flatnonzero(found)
            found[at] = np.log1p(found[at] * file["factors"][...][at])
    return found if rows is None else found[rows]


def write_genes(dataset: Dataset, columns: Path, genes: tuple[str, ...], output: Path) -> None:
    """Write the log1p expression of some genes in all cells.

    Args:
        dataset: that the values are of.
        columns: of it, see `write_columns`.
        genes: names.
        output: .npy (genes x cells) or .csv (a row for each cell).

    Raises:
        GeneError: the data set has no such gene. RequestError: the output has another ending.
    """
    if output.suffix not in (".npy", ".csv"):
        raise RequestError(f"{output.name} is no name for values of genes.", "It must end in .npy or .csv.")
    if unknown := [gene for gene in genes if gene not in dataset.genes.names]:
        near = may_be(near_each(unknown, dataset.genes.names))
        raise GeneError(
            f"The data set has no gene {listed(unknown)}.", f"It has, for example, {listed(dataset.genes.names[:3])}.", near
        )
    with replacing(output) as beside:
        values = np.stack([read_column(columns, dataset.genes.names.index(gene)) for gene in genes])
        if output.suffix == ".npy":
            np.save(beside, values)
        else:
            table = pd.DataFrame(values.T, columns=list(genes), index=pd.Index(dataset.obs_names, name="cell"))
            beside.write_text(csv_for_people(table, "cell"), encoding="utf-8")
