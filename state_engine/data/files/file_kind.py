"""What a file is by its first bytes, and whether an HDF5 file is all there.

Source: the HDF5 file format specification, section "superblock" (versions 0 to 3), and the magic numbers of common formats.
Boundary: bytes only; HDF5 itself is not asked to open anything.
"""

from __future__ import annotations

import zlib
from itertools import islice
from pathlib import Path

from state_engine.config import gib
from state_engine.errors import EmptyDataError, UnreadableFileError, UnsafeFileError, listed

HDF5 = b"\x89HDF\r\n\x1a\n"
UNPACK = "Unpack it first."
ZARR = {".zgroup", "zarr.json", ".zattrs"}
ZARR_COMMAND = "Convert it: anndata.io.read_zarr('{}').write_h5ad('cells.h5ad')."
IN_PYTHON = " In Python, open_dataset(as_h5ad(path)) with state_engine.library.other_formats.as_h5ad converts and opens it."
MOST_NAMES = 10_000  # of a folder
EXPORT = "Export the data as .h5ad (AnnData)."
# first bytes -> (what it is, what to do)
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed", "Unpack it first (gunzip); an .rds file must be converted in R."),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"BZh", "bzip2-compressed", UNPACK),
    (b"\xfd7zXZ\x00", "xz-compressed", UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (b"PAR1", "a Parquet table", EXPORT),
    (b"%%MatrixMarket", "a Matrix Market file", "Convert it: scanpy.read_10x_mtx(folder).write_h5ad(...)."),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "Fetch the data with 'git lfs pull'."),
    (b"\x80\x04", "a Python pickle", EXPORT),
)


def check_signature(path: Path, max_bytes: int) -> int:
    """Size of an HDF5 file that is all there.

    Raises:
        UnreadableFileError: not there, not a file, another format, or cut off.
        EmptyDataError: it has no bytes.
        UnsafeFileError: larger than `max_bytes`.
    """
    if path.is_dir():
        raise _folder(path)
    if not path.is_file():
        raise UnreadableFileError(f"{path.name} is not there.", f"Looked for {path}.", "Choose an .h5ad file.")
    try:
        size = path.stat().st_size
        head = _superblock(path)
    except PermissionError as error:
        raise UnreadableFileError(f"{path.name} may not be read.", "The server has no permission to read it.") from error
    if size == 0:
        raise EmptyDataError(f"{path.name} is empty.", "It has 0 bytes.", "The upload or download did not work; try it again.")
    if size > max_bytes:
        raise UnsafeFileError(
            f"{path.name} is too large.",
            f"It has {gib(size)}; the limit of this installation is {gib(max_bytes)}.",
            "Take fewer cells or genes, or raise STATE_EXPLORER_MAX_FILE_GB.",
        )
    if head is None:
        raise _another_format(path)
    needed = _declared_end(*head)
    if needed is not None and size < needed:
        raise UnreadableFileError(
            f"{path.name} is cut off.",
            f"It has {size:,} bytes; its header says {needed:,}.",
            "The upload or download stopped early: do it again.",
        )
    return size


def _superblock(path: Path) -> tuple[int, bytes] | None:
    """Offset and bytes of the HDF5 superblock, which may lie at 0, 512, 1024, 2048, ...; None when there is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while offset < size:
            file.seek(offset)
            block = file.read(96)
            if block.startswith(HDF5):
                return offset, block
            offset = offset * 2 or 512
    return None


def _declared_end(offset: int, block: bytes) -> int | None:
    """Where the superblock says that the file ends, in bytes; None when it cannot be said."""
    if len(block) < 16:
        return offset + 96  # cut off inside the superblock
    version = block[8]
    width, first = (block[13], 24 if version == 0 else 28) if version < 2 else (block[9], 12)
    end = block[first + 2 * width : first + 3 * width]
    if version > 3 or width not in (2, 4, 8):
        return None
    return int.from_bytes(end, "little") if len(end) == width else offset + 96


def _folder(path: Path) -> UnreadableFileError:
    """Return what a folder is by the files in it."""
    there = {item.name for item in islice(path.iterdir(), MOST_NAMES)}
    if there & ZARR:
        what, fix = "a zarr store", ZARR_COMMAND.format(path.name) + IN_PYTHON
    elif there & {"matrix.mtx", "matrix.mtx.gz"}:
        what = "a 10x matrix folder"
        fix = f"Convert it: scanpy.read_10x_mtx('{path.name}').write_h5ad('cells.h5ad').{IN_PYTHON}"
    else:
        return UnreadableFileError(f"{path.name} is a folder, not a file.", f"Looked for {path}.", "Choose an .h5ad file.")
    return UnreadableFileError(f"{path.name} is {what}, a folder, not an .h5ad file.", f"It holds: {listed(sorted(there))}.", fix)


def _another_format(path: Path) -> UnreadableFileError:
    with path.open("rb") as file:
        head = file.read(2048)
    what, fix = _describe(head)
    if head.startswith(b"\x1f\x8b"):
        inside = first_unpacked(path)
        if inside.startswith(HDF5):
            what, fix = "a gzip-compressed HDF5 file", f"Unpack it first: gunzip {path.name}"
        elif inside[:2] in (b"X\n", b"A\n") or inside[:4] in (b"RDX2", b"RDX3", b"RDA2", b"RDA3"):
            what = "an R object (.rds)"
            fix = f"Convert it in R: sceasy::convertFormat(readRDS('{path.name}'), 'seurat', 'anndata', outFile = 'cells.h5ad')."
    elif head.startswith(b"PK") and _holds_zarr(path):
        what, fix = (
            "a zipped zarr store",
            f"Unpack it, then {ZARR_COMMAND.format(path.stem)[0].lower()}{ZARR_COMMAND.format(path.stem)[1:]}",
        )
    return UnreadableFileError(f"{path.name} is not an .h5ad file.", f"It looks like {what}.", fix)


def first_unpacked(path: Path) -> bytes:
    """Return the first bytes of a gzip-compressed file, unpacked; nothing where it is damaged."""
    with path.open("rb") as file:
        try:
            return zlib.decompressobj(wbits=31).decompress(file.read(4096), 16)
        except zlib.error:
            return b""


def _holds_zarr(path: Path) -> bool:
    """Whether a zip archive is a zarr store, by its last kilobytes, where the names of its files are."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (256 << 10)))
        names = file.read()
    return any(name.encode() in names for name in ZARR)


def _describe(head: bytes) -> tuple[str, str]:
    for magic, what, fix in _MAGIC:
        if head.startswith(magic):
            return f"{what} file" if what.endswith("compressed") else what, fix
    if len(set(head)) == 1:
        return f"a file of one repeated byte ({head[0]})", "The upload or download did not work; try it again."
    try:
        words = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return "binary data of an unknown kind", EXPORT
        words = head[: error.start].decode("utf-8")
    if "\x00" in words:
        return "binary data of an unknown kind", EXPORT
    if words.lstrip().lower().startswith(("<!doctype", "<html", "<?xml")):
        return "a web page, not the data", "The download link gave a page; log in or use the direct link."
    if words.lstrip().startswith(("{", "[")):
        return "JSON text", EXPORT
    first = words.splitlines()[0] if words.splitlines() else ""
    for separator, name in (("\t", "a table of tab-separated text"), (",", "a table of comma-separated text (CSV)")):
        if separator in first:
            return name, "Convert it: anndata.io.read_csv(path).write_h5ad(...); cells must be rows."
    return "text", EXPORT
