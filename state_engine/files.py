"""Files that are whole or not there: written beside, flushed to disk, then renamed. Knows nothing of what is in them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from state_engine.errors import RequestError

PART_PREFIX = ".part-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well and removed when it does not.

    The temporary name keeps the suffix, since some writers choose or append one ("x.npz").
    """
    temporary = path.with_name(f"{PART_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def free_output(output: Path, *inputs: Path | str) -> None:
    """Make sure, before any work, that a file can be written: its folder is made, and it is neither a folder nor an input.

    Args:
        output: the file to write.
        inputs: files, and folders of which no file may be written over.

    Raises:
        RequestError: it cannot be written there.
    """
    if output.is_dir():
        raise RequestError(f"{output} is a folder.", "The result is one file.", "Give the file a name in that folder.")
    for given in map(Path, inputs):
        same = output.exists() and given.exists() and output.samefile(given)
        if same or output.resolve() == given.resolve() or (given.is_dir() and output.resolve().is_relative_to(given.resolve())):
            raise RequestError(
                f"{output.name} would be written over an input.",
                f"It is read as, or lies in, {given.name}.",
                "Give another name.",
            )
    _make_folder(output.parent)


def free_folder(folder: Path) -> None:
    """Make sure, before any work, that files can be written into a folder; it is made when it is not there.

    Raises:
        RequestError: there is a file of that name, or the folder cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file.", "The results go into a folder.", "Give another name.")
    _make_folder(folder)


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make sure of a folder as `free_folder` does; take it away again when the work ends badly and nothing is in it."""
    new = not folder.exists()
    free_folder(folder)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty: what was completed stays
                folder.rmdir()
        raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"The folder {folder} cannot be made.", f"{error.strerror or error}.", "Choose another folder."
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`; a reader sees the old or the new content, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON.

    Raises:
        TypeError: a value JSON does not know. ValueError: a number that is not finite.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def remove_parts(folder: Path) -> int:
    """Remove what a killed process left half-written in `folder` (not below it). Returns how many files went."""
    parts = list(folder.glob(f"{PART_PREFIX}*"))
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in `folder` and below; links are not followed."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(base) / name).lstat().st_size
            except FileNotFoundError:  # a temporary file that was renamed meanwhile
                continue
    return total


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
