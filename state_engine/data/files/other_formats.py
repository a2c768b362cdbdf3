"""Files that are no .h5ad but hold the same: made into one. Zarr stores, 10x Genomics matrices, the RNA of a MuData file, a packed .h5ad.

Source: the layouts that AnnData, Cell Ranger (2 to 9) and MuData write. Values are copied as they are stored, never held whole where the
layout is the same (10x .h5, .h5mu, .gz, zarr); a text matrix is read into memory.
Boundary: foreign bytes in, an .h5ad out, which is checked like any other when it is opened. Run it in a child: `library.other_formats`.
"""

from __future__ import annotations

import gzip
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Literal

import h5py
import numpy as np
import pandas as pd

from state_engine.config import GB, Settings
from state_engine.data.files.file_kind import HDF5, MOST_NAMES, first_unpacked
from state_engine.data.files.frames import write_empty
from state_engine.data.files.hdf5 import encoding, open_h5, read_text
from state_engine.data.files.safety import MAX_GENES, check_hdf5
from state_engine.data.files.text import read_rows
from state_engine.data.files.unpacking import BLOCK, Unpacking
from state_engine.data.files.zarr_store import check_store
from state_engine.errors import EmptyDataError, UnreadableFileError, UnsafeFileError, listed

Format = Literal["zarr", "10x .h5", "10x matrix folder", "MuData", "gzip"]
ZARR_ROOT: Final = (".zgroup", "zarr.json")
MATRIX: Final = ("matrix.mtx", "matrix.mtx.gz")
MOST_MEMBERS: Final = 200_000  # of a zip
LEAST_LINE: Final = 4  # bytes of an entry of a text matrix: "1 1\n"


def format_of(path: Path) -> Format | None:
    """Return which other format a file or folder has, by its first bytes and names; None for .h5ad and all that is not converted."""
    if path.is_dir():
        return _of_names({item.name for item in islice(path.iterdir(), MOST_NAMES)})
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x1f\x8b"):
        return "gzip" if first_unpacked(path).startswith(HDF5) else None
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return _of_names({PurePosixPath(name).name for name in islice(archive.namelist(), MOST_NAMES)})
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return None
    return _of_hdf5(path) if head.startswith(HDF5) else None


def _of_names(names: set[str]) -> Format | None:
    if names & set(MATRIX):
        return "10x matrix folder"
    return "zarr" if names & set(ZARR_ROOT) else None


def _of_hdf5(path: Path) -> Format | None:
    try:
        with open_h5(path) as file:
            if encoding(file) == "MuData" or ("mod" in file and "X" not in file):
                return "MuData"
            # links are not followed: nothing of the file was checked yet
            plain = {name for name in islice(file, 100) if isinstance(file.get(name, getlink=True), h5py.HardLink)}
            groups = [file[name] for name in plain if file.get(name, getclass=True) is h5py.Group]
            tenx = any({"barcodes", "indptr", "data"} <= set(group) for group in groups)
            return "10x .h5" if tenx and not {"obs", "var"} & plain else None
    except UnreadableFileError:
        return None


def convert(path: Path, output: Path, settings: Settings, name: str = "") -> None:
    """Write an .h5ad with the cells of a file or folder in another format.

    Args:
        path: what `format_of` knows.
        output: a file that is not there, in a folder for what is needed for a while too.
        name: how the user calls it.

    Raises:
        UnreadableFileError, UnsafeFileError, EmptyDataError: see the checks of each format.
    """
    name, kind = name or path.name, format_of(path)
    if kind is None:
        raise UnreadableFileError(f"{name} has no format that is converted.", "", "Choose an .h5ad file.")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".converting-", ignore_cleanup_errors=True) as scratch:
        if path.is_file() and kind in ("zarr", "10x matrix folder"):
            path = _unzipped(path, Path(scratch), settings, name, ZARR_ROOT if kind == "zarr" else MATRIX)
        _CONVERT[kind](path, output, settings, name)


def _gzip(path: Path, output: Path, settings: Settings, name: str) -> None:
    with output.open("wb") as target:
        _gunzip(path, target, Unpacking(name, path.stat().st_size, output.parent, settings.max_file_bytes), name)


def _gunzip(path: Path, target: BinaryIO, meter: Unpacking, name: str) -> None:
    """Unpack a gzip file within bounds.

    Raises:
        UnreadableFileError: it is cut off or damaged.
    """
    try:
        with gzip.open(path) as source:
            while piece := source.read(BLOCK):
                meter.write(piece, target)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableFileError(f"{name} cannot be unpacked.", f"{str(error)[:200]}.", "Download it again.") from error


def _mudata(path: Path, output: Path, settings: Settings, name: str) -> None:
    check_hdf5(path, settings)
    with open_h5(path) as file, h5py.File(output, "w") as new:
        modalities = file.get("mod")
        names = list(modalities) if isinstance(modalities, h5py.Group) else []
        rna = "rna" if "rna" in names else names[0] if len(names) == 1 else ""
        if not rna:
            raise UnreadableFileError(
                f"{name} has no modality 'rna'.",
                f"It has: {listed(names, 12) or 'none'}.",
                "Save the one with the expression: mudata.read_h5mu(...)['NAME'].write_h5ad(...).",
            )
        new.attrs.update({key: file["mod"][rna].attrs[key] for key in ("encoding-type", "encoding-version")
                          if key in file["mod"][rna].attrs})  # fmt: skip
        for part in file["mod"][rna]:
            file.copy(f"mod/{rna}/{part}", new, part)


def _tenx_h5(path: Path, output: Path, settings: Settings, name: str) -> None:
    check_hdf5(path, settings)
    with open_h5(path) as file, h5py.File(output, "w") as new:
        groups = [key for key in file if isinstance(file[key], h5py.Group) and {"barcodes", "indptr"} <= set(file[key])]
        if len(groups) > 1:
            raise UnreadableFileError(
                f"{name} has matrices of {len(groups)} genomes.",
                f"They are: {listed(groups)}.",
                "Choose one: scanpy.read_10x_h5(..., genome='NAME').write_h5ad(...).",
            )
        group = file[groups[0]]
        genes, cells = (int(n) for n in np.ravel(group["shape"][:2]))
        if isinstance(group.get("features"), h5py.Group):  # Cell Ranger 3 and later
            parts = group["features"]
            columns = {"name": "name", "gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
        else:
            parts, columns = group, {"name": "gene_names", "gene_ids": "genes"}
        var = {key: read_text(parts[source], source) for key, source in columns.items() if source in parts}
        _write_labels(new, name, read_text(group["barcodes"], "barcodes"), var, (cells, genes))
        x = new.create_group("X")
        x.attrs["encoding-type"], x.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        x.attrs["shape"] = np.array([cells, genes])
        # genes x cells by columns, as 10x stores it, is cells x genes by rows
        for part in ("data", "indices", "indptr"):
            file.copy(group[part], x, part)


def _write_labels(new: h5py.File, name: str, barcodes: np.ndarray, var: dict[str, np.ndarray], shape: tuple[int, int]) -> None:
    """Write obs and var; columns of text as categoricals, of which there may be as many as genes."""
    names = var.pop("name", var.get("gene_ids"))
    lengths = {len(values) for values in var.values()} | {len(names) if names is not None else -1}
    if (len(barcodes), lengths) != (shape[0], {shape[1]}):
        raise UnreadableFileError(
            f"{name} contradicts itself.",
            f"Its matrix has {shape[0]:,} cells and {shape[1]:,} genes, its labels {len(barcodes):,} cells.",
            "Download or export it again.",
        )
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    columns = {key: pd.Categorical(values.astype(str)) for key, values in var.items()}
    write_empty(new, obs, pd.DataFrame(columns, index=pd.Index(names, dtype=object)))


def _tenx_folder(path: Path, output: Path, settings: Settings, name: str) -> None:
    import scipy.io
    import scipy.sparse as sp

    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".converting-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        matrix = _plain(path, ("matrix.mtx",), scratch, settings, name)
        features = read_rows(_plain(path, ("features.tsv", "genes.tsv"), scratch, settings, name), "\t")
        barcodes = read_rows(_plain(path, ("barcodes.tsv",), scratch, settings, name), "\t")
        shape = _check_header(matrix, settings, name)
        try:
            values = sp.csr_matrix(scipy.io.mmread(matrix).T, dtype=np.float32)
        except (ValueError, OverflowError, TypeError) as error:
            raise UnreadableFileError(
                f"{name} is damaged.", f"{matrix.name}: {str(error)[:200]}.", "Download it again."
            ) from error
    short = min((len(row) for row in features), default=0)
    var = {key: np.array([row[at] for row in features], dtype=object)
           for at, key in ((0, "gene_ids"), (1, "name"), (2, "feature_types")) if at < short}  # fmt: skip
    with h5py.File(output, "w") as new:
        cells = np.array([row[0] if row else "" for row in barcodes], dtype=object)
        _write_labels(new, name, cells, var, (shape[1], shape[0]))
        x = new.create_group("X")
        x.attrs["encoding-type"], x.attrs["encoding-version"], x.attrs["shape"] = "csr_matrix", "0.1.0", np.array(values.shape)
        for part in ("data", "indices", "indptr"):
            x.create_dataset(part, data=getattr(values, part), compression="gzip", compression_opts=1)


def _plain(path: Path, names: tuple[str, ...], scratch: Path, settings: Settings, name: str) -> Path:
    """Return one of the files of a 10x folder, unpacked where it is packed.

    Raises:
        UnreadableFileError: there is none of these names. UnsafeFileError: it is a link, or unpacks to too much.
    """
    for plain in names:
        for place in (path / plain, path / f"{plain}.gz"):
            if place.is_symlink():
                raise UnsafeFileError(
                    f"{name} leads out of its folder.", f"{place.name} is a link.", "Copy the files themselves."
                )
            if not place.is_file():
                continue
            if place.suffix != ".gz":
                return place
            with (scratch / plain).open("wb") as target:
                _gunzip(place, target, Unpacking(name, place.stat().st_size, scratch, settings.max_file_bytes), name)
            return scratch / plain
    raise UnreadableFileError(f"{name} has no {' and no '.join(names)}.", "A 10x matrix has three files.", "Copy them all.")


def _check_header(matrix: Path, settings: Settings, name: str) -> tuple[int, int]:
    """Return genes and cells of a text matrix, refused where it declares more than it can hold: memory is taken for what it declares."""
    with matrix.open("rb") as file:
        first = file.readline(1 << 16)
        line = first
        while line.startswith(b"%"):
            line = file.readline(1 << 16)
    words = line.split()
    if not first.startswith(b"%%MatrixMarket matrix coordinate") or len(words) != 3 or not all(w.isdigit() for w in words):
        raise UnreadableFileError(
            f"{name} has no matrix of counts in {matrix.name}.", f"It begins: {first[:60]!r}.", "Export it again."
        )
    genes, cells, entries = (int(word) for word in words)
    if not genes or not cells:
        raise EmptyDataError(f"{name} has no {'cells' if genes else 'genes'}.", f"It declares {cells:,} x {genes:,}.")
    size = matrix.stat().st_size
    if cells > settings.max_cells or genes > MAX_GENES or entries * LEAST_LINE > size + LEAST_LINE:
        raise UnsafeFileError(
            f"{name} declares {cells:,} cells, {genes:,} genes and {entries:,} values in {size / GB:,.3f} GB.",
            f"Up to {settings.max_cells:,} cells and {MAX_GENES:,} genes are read, and each value has a line.",
            "Download or export it again.",
        )
    return genes, cells


def _zarr(path: Path, output: Path, settings: Settings, name: str) -> None:
    check_store(path, settings, name)
    from state_engine.data.files.zarr_copy import zarr_to_h5ad

    try:
        zarr_to_h5ad(path, output)
    except (MemoryError, UnsafeFileError):
        raise
    except Exception as error:  # zarr and its codecs raise whatever they raise
        why = f"Reading it stopped with {type(error).__name__}: {' '.join(str(error).split())[:200]}."
        raise UnreadableFileError(
            f"{name} cannot be read as AnnData.", why, "Write it again with anndata's write_h5ad."
        ) from error


def _unzipped(path: Path, folder: Path, settings: Settings, name: str, roots: tuple[str, ...]) -> Path:
    """Unpack a zip within bounds, and return the folder in it that holds one of these names highest up."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            meter = Unpacking(name, path.stat().st_size, folder, settings.max_file_bytes)
            meter.expect(sum(member.file_size for member in members))
            if len(members) > MOST_MEMBERS:
                raise UnsafeFileError(
                    f"{name} has {len(members):,} files.", f"Up to {MOST_MEMBERS:,} are unpacked.", "Unpack it."
                )
            for member in members:
                place = folder / _member_path(member, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, place.open("wb") as target:
                    while piece := source.read(BLOCK):
                        meter.write(piece, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UnreadableFileError(f"{name} cannot be unpacked.", f"{str(error)[:200]}.", "Download it again.") from error
    found = sorted((p for root in roots for p in folder.rglob(root)), key=lambda p: len(p.parts))
    return found[0].parent


def _member_path(member: zipfile.ZipInfo, name: str) -> PurePosixPath:
    place = PurePosixPath(member.filename)
    unsafe = place.is_absolute() or ".." in place.parts or "\\" in member.orig_filename or ":" in member.filename
    if unsafe or stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG) or member.flag_bits & 1:
        raise UnsafeFileError(
            f"{name} holds {member.filename[:80]!r}.", "It is a link, encrypted, or leads out of the zip.", "Make it again."
        )
    return place


_CONVERT: Final[dict[Format, Callable[[Path, Path, Settings, str], None]]] = {
    "gzip": _gzip,
    "MuData": _mudata,
    "10x .h5": _tenx_h5,
    "10x matrix folder": _tenx_folder,
    "zarr": _zarr,
}
