"""Files that are whole or not there: written beside, flushed to disk, then renamed. Knows nothing of what is in them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
