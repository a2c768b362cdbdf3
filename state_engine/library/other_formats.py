"""The one door for data sets that are no .h5ad: what can be converted becomes an .h5ad of the library's own, in a child without rights.

The input stays as it is. The copy lies beside the uploads, under a name made from the place, the size and the time of the input, so that
the same input is converted once. What is no other format goes through untouched, to be opened, or refused with a sentence, as usual.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from state_engine.config import Settings, load_settings
from state_engine.data.files.other_formats import convert, format_of
from state_engine.errors import DataError, UnsafeFileError
from state_engine.files import full_disk_told, replacing
from state_engine.library.foreign import OPENING, SLOWEST, call, limits_for
from state_engine.sandbox import Limits
from state_engine.sandbox.limits import MB

SUFFIXES: Final = (".h5ad", ".h5", ".h5mu", ".gz", ".zip")  # of files; folders are zarr stores and 10x matrices
IN_MEMORY: Final = 12  # bytes of memory for each byte of a file that is read whole
BY_BLOCKS: Final = ("X", "layers", "obsm", "obsp", "varm", "varp")  # of a zarr store: copied without being held
MOST_FILES: Final = 2_000_000


def as_h5ad(path: Path | str, settings: Settings | None = None, name: str = "") -> Path:
    """Return where a data set lies as .h5ad: the path itself, or that of a copy which is made when it is not there yet.

    Args:
        path: a file or folder.
        name: how the user calls it, for messages; default: the name of the path.

    Raises:
        DataError: it has a format that is converted, and is damaged, unsafe or too large.
    """
    path, settings = Path(path), settings or load_settings()
    if path.suffix == ".h5ad" or not path.exists():
        return path
    if call(format_of, path, path=path, name=name) is None:
        return path
    settings.uploads.mkdir(parents=True, exist_ok=True)
    shown = re.sub(r"[^A-Za-z0-9._-]+", "_", path.resolve().name)[:80]
    target = settings.uploads / f"{shown}.{_identity(path.resolve())}.h5ad"
    if not target.exists():
        write_h5ad(path, target, settings, name)
    return target


def write_h5ad(path: Path, target: Path, settings: Settings, name: str = "") -> bool:
    """Write a data set in another format as .h5ad, which appears only when complete. Returns False, and writes nothing, when it is none.

    Raises:
        DataError: see `as_h5ad`.
    """
    if call(format_of, path, path=path, name=name) is None:
        return False
    size, held = _sizes(path)
    limits = Limits(
        seconds=OPENING.seconds + 4 * size / SLOWEST,
        memory_mb=limits_for(path).memory_mb + IN_MEMORY * held // MB,
        written_mb=settings.max_file_bytes // MB + 1,
    )
    with replacing(target) as beside, full_disk_told(target.parent, DataError):
        call(convert, path, beside, settings, name or path.name, path=path, name=name, limits=limits, writes=(target.parent,))
    return True


def _sizes(path: Path) -> tuple[int, int]:
    """Return the bytes of a file or folder, and those of them that may have to be held at once."""
    if path.is_file():
        return path.stat().st_size, path.stat().st_size
    size = sum(n for n, _ in _files(path))
    places = [path / part / name for part in (".", "raw") for name in BY_BLOCKS]
    blocks = sum(n for place in places if place.is_dir() and not place.is_symlink() for n, _ in _files(place))
    return size, size - blocks


def _identity(path: Path) -> str:
    """Return a name for what lies at a place now: another one when it was changed."""
    found = [(path.stat().st_size, path.stat().st_mtime_ns)] if path.is_file() else list(_files(path))
    newest, size = max((when for _, when in found), default=0), sum(n for n, _ in found)
    return hashlib.sha256(f"{path}\n{len(found)} {size} {newest}".encode()).hexdigest()[:12]


def _files(folder: Path) -> list[tuple[int, int]]:
    """Return size and time of each file of a folder; links are not followed."""
    found = []
    for place, _, names in os.walk(folder, followlinks=False):
        for name in names:
            facts = Path(place, name).lstat()
            found.append((facts.st_size, facts.st_mtime_ns))
        if len(found) > MOST_FILES:
            raise UnsafeFileError(f"{folder.name} has too many files.", f"Up to {MOST_FILES:,} are read.", "Choose one data set.")
    return found
