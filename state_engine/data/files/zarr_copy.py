"""AnnData from zarr to HDF5 and back: matrices block by block, tables and what is small by AnnData's own readers.

Source: AnnData's on-disk format, which is the same in both: groups, arrays, `encoding-type`. Memory: one block, and the tables of obs, var and uns.
Boundary: a foreign store comes here behind `zarr_store.check_store`, a foreign file behind `safety.check_file`.

Notation: a leaf is an array of numbers that is copied as it is; all else is an element for AnnData.
"""

from __future__ import annotations

import math
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np

from state_engine.data.files.hdf5 import open_h5
from state_engine.errors import RequestError
from state_engine.files import free_output, full_disk_told, part_beside, remove_parts, replacing, room_for
from state_engine.progress import OnProgress, Progress, silent

ZarrFormat = Literal[2, 3]
STORE: Final = "result.zarr.zip"  # in the folder of a run
BLOCK_BYTES: Final = 64 << 20  # unpacked bytes in memory at once
CHUNK_BYTES: Final = 256 << 10  # of a data set in an HDF5 file: some cells are read from anywhere in it
FILE_BYTES: Final = 4 << 20  # of a chunk in a zarr store, which is a file of its own
WORTH_CHUNKS: Final = 1 << 20  # bytes from which a matrix is stored in compressed chunks
CHUNKS_A_SHARD: Final = 32
SHARED_PLACES: Final = ("layers", "obsm", "varm", "obsp", "varp")
SPARSE: Final = ("csr_matrix", "csc_matrix")
PARTS: Final = ("data", "indices", "indptr")
NUMBERS: Final = "biuf"


def zarr_to_h5ad(folder: Path, output: Path, on_progress: OnProgress = silent) -> None:
    """Write an .h5ad with what a zarr store holds.

    Raises:
        Exception: whatever zarr, its codecs and AnnData raise for a damaged store.
    """
    import zarr

    # what is consolidated at the top may say other than the arrays that were looked at
    source = zarr.open_group(zarr.storage.LocalStore(folder, read_only=True), mode="r", use_consolidated=False)
    with h5py.File(output, "w") as target:
        _copy_all(source, target, _Hdf5(), on_progress)


def h5ad_to_zarr(
    path: Path, folder: Path, zarr_format: ZarrFormat = 2, shards: bool = False, on_progress: OnProgress = silent
) -> None:
    """Write a zarr store with what an .h5ad holds.

    Args:
        path: a file that was made here, or checked.
        folder: the store; see `new_store` for one that appears only when complete.
        zarr_format: 2, which every AnnData reads, or 3.
        shards: whether chunks of a matrix lie together in larger files; version 3 alone has these.
        on_progress: told of values copied.
    """
    import zarr

    with open_h5(path) as source, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*autosharding.*")  # of AnnData, for the next version; chunks are chosen here
        target = zarr.open_group(zarr.storage.LocalStore(folder), mode="w", zarr_format=zarr_format)
        _copy_all(source, target, _Zarr(shards and zarr_format == 3), on_progress)


def free_store(folder: Path) -> None:
    """Make sure, before any work, that a store can be made.

    Raises:
        RequestError: something of that name is there: a folder is never written over; or its place cannot be written to.
    """
    if folder.exists() or folder.is_symlink():
        raise RequestError(
            f"{folder} exists.", "A zarr store is a folder, and none is written over.", "Move it, or give another name."
        )
    free_output(folder)


@contextmanager
def new_store(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside a store to be, which gets its name when the block ends well and goes when it does not.

    Raises:
        RequestError: something of that name is there: a folder is never written over.
    """
    free_store(folder)
    remove_parts(folder.parent, folder.name)
    with part_beside(folder) as beside:
        yield beside
        free_store(folder)  # another may have taken the name meanwhile
        beside.rename(folder)


def write_store(path: Path, folder: Path, on_progress: OnProgress = silent) -> None:
    """Write an .h5ad that was made here as a zarr store, which appears only when complete.

    Raises:
        RequestError: something of that name is there, or the disk has no room for it.
    """
    with new_store(folder) as beside, full_disk_told(folder.parent, RequestError):
        room_for(folder.parent, path.stat().st_size)
        h5ad_to_zarr(path, beside, on_progress=on_progress)


def write_zip(path: Path, output: Path, on_progress: OnProgress = silent) -> None:
    """Write an .h5ad that was made here as a zipped zarr store, which `as_h5ad` reads, and AnnData by zarr's ZipStore."""
    room_for(output.parent, 2 * path.stat().st_size)
    with (
        full_disk_told(output.parent, RequestError),
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".zarr-") as scratch,
        replacing(output) as beside,
    ):
        store = Path(scratch) / "store"
        h5ad_to_zarr(path, store, on_progress=on_progress)
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:  # chunks are compressed already
            for place in sorted(p for p in store.rglob("*") if p.is_file()):
                archive.write(place, place.relative_to(store))


class _Hdf5:
    """Makes the arrays of an HDF5 file."""

    def array(self, group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        if math.prod(shape) * dtype.itemsize < WORTH_CHUNKS:
            return group.create_dataset(name, shape=shape, dtype=dtype)
        chunks = _chunks(shape, dtype, CHUNK_BYTES)
        return group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunks, compression="lzf", shuffle=True)


class _Zarr:
    """Makes the arrays of a zarr store."""

    def __init__(self, shards: bool) -> None:
        self.shards = shards

    def array(self, group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        size = CHUNK_BYTES if self.shards else FILE_BYTES
        chunks = tuple(min(c, max(n, 1)) for c, n in zip(_chunks(shape, dtype, size), shape, strict=True))
        more = {}
        if self.shards and math.prod(shape) * dtype.itemsize >= WORTH_CHUNKS:
            more["shards"] = (chunks[0] * CHUNKS_A_SHARD, *chunks[1:])
        return group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, **more)


def _copy_all(source: Any, target: Any, made: _Hdf5 | _Zarr, on_progress: OnProgress) -> None:
    target.attrs["encoding-type"] = str(source.attrs.get("encoding-type", "anndata"))
    target.attrs["encoding-version"] = str(source.attrs.get("encoding-version", "0.1.0"))
    for name in sorted(source):
        if name not in (*SHARED_PLACES, "raw") or not _is_group(source[name]):
            _copy(source[name], target, name, made, on_progress)
            continue
        group = _group_like(source[name], target, name)
        for child in sorted(source[name]):
            _copy(source[name][child], group, child, made, on_progress)


def _group_like(source: Any, target: Any, name: str) -> Any:
    made = target.create_group(name)
    kind = str(source.attrs.get("encoding-type", "raw" if name == "raw" else "dict"))
    made.attrs["encoding-type"], made.attrs["encoding-version"] = kind, str(source.attrs.get("encoding-version", "0.1.0"))
    return made


def _copy(item: Any, target: Any, name: str, made: _Hdf5 | _Zarr, on_progress: OnProgress) -> None:
    """Copy one element: numbers block by block, anything else through AnnData."""
    if _is_leaf(item):
        _copy_array(item, target, name, made, on_progress)
    elif _is_group(item) and item.attrs.get("encoding-type") in SPARSE and all(p in item and _is_leaf(item[p]) for p in PARTS):
        group = target.create_group(name)
        for key in ("encoding-type", "encoding-version"):
            group.attrs[key] = str(item.attrs.get(key, "0.1.0"))
        shape = [int(n) for n in item.attrs["shape"]]
        group.attrs["shape"] = np.array(shape) if isinstance(made, _Hdf5) else shape
        for part in PARTS:
            _copy_array(item[part], group, part, made, on_progress, mark=False)
    else:
        from anndata.io import read_elem, write_elem

        write_elem(target, name, read_elem(item))


def _copy_array(item: Any, target: Any, name: str, made: _Hdf5 | _Zarr, on_progress: OnProgress, mark: bool = True) -> None:
    shape, dtype = tuple(int(n) for n in item.shape), np.dtype(item.dtype).newbyteorder("=")
    place = made.array(target, name, shape, dtype)
    # what is packed together is read once, or, where shards are written, written once
    pieces = getattr(place, "shards", None) or (item if isinstance(made, _Hdf5) else place).chunks or (1,) * len(shape)
    done, total, stage = 0, math.prod(shape), f"Copying {target.name}/{name}".replace("//", "/").replace(" /", " ")
    for part in _blocks(shape, dtype, pieces):
        place[part] = item[part]
        done += math.prod(s.stop - s.start for s in part)
        on_progress(Progress(stage, done, total))
    if mark:
        place.attrs["encoding-type"], place.attrs["encoding-version"] = "array", "0.2.0"


def _is_group(item: Any) -> bool:
    return hasattr(item, "create_group")


def _is_leaf(item: Any) -> bool:
    """Return whether an item is an array of plain numbers with at least one dimension."""
    if _is_group(item) or not len(item.shape):
        return False
    kind = item.attrs.get("encoding-type", "array")
    return isinstance(item.dtype, np.dtype) and item.dtype.kind in NUMBERS and kind in ("array", "")


def _chunks(shape: Sequence[int], dtype: np.dtype, size: int) -> tuple[int, ...]:
    """Return chunks of about so many bytes that hold whole rows where one fits."""
    values = max(1, size // dtype.itemsize)
    width = max(1, math.prod(shape[1:]))
    if len(shape) == 1 or width <= values:
        return (max(1, min(shape[0], values // width)), *(max(1, n) for n in shape[1:]))
    return (1, min(shape[1], values), *(1 for _ in shape[2:]))


def _blocks(shape: tuple[int, ...], dtype: np.dtype, pieces: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield parts of an array that are whole pieces and together about `BLOCK_BYTES`, the last axis first."""
    steps = [min(p, max(n, 1)) for p, n in zip(pieces, shape, strict=True)]
    room = BLOCK_BYTES // dtype.itemsize
    for axis in reversed(range(len(shape))):
        others = math.prod(steps) // steps[axis]
        fit = max(room // max(others, 1), steps[axis]) // steps[axis] * steps[axis]
        steps[axis] = min(max(fit, steps[axis]), max(shape[axis], 1))
    ranges = [[slice(a, min(a + step, n)) for a in range(0, n, step)] for n, step in zip(shape, steps, strict=True)]
    yield from product(*ranges)
