"""Opening an HDF5 file to read, with errors in plain words, and the few words of AnnData's on-disk format that all readers share.

Source: the format description of AnnData 0.7 to 0.12. Boundary: this module decides nothing about what a file means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from state_engine.errors import UnreadableFileError

# what h5py raises on damaged bytes: which of them depends on where the damage lies
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, ArithmeticError, AttributeError)


@contextmanager
def open_h5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        UnreadableFileError: HDF5 cannot read it, when opening or later inside the block.
    """
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except FileNotFoundError as error:
        raise UnreadableFileError(
            f"{path.name} is not there.", f"No file at {path}.", "Choose it again; it may have been moved or deleted."
        ) from error
    except PermissionError as error:
        raise UnreadableFileError(f"{path.name} may not be read.", "The server has no permission to read it.") from error
    except DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> UnreadableFileError:
    """The message for bytes that HDF5 or AnnData could not make sense of."""
    return UnreadableFileError(
        f"{path.name} is damaged.",
        f"Reading it stopped with: {' '.join(str(error).split())[:300]}.",
        "Download or export it again; if that does not help, write it anew with anndata.",
    )


def encoding(item: Any) -> str:
    """The `encoding-type` of a group or data set; "" when it has none (files before AnnData 0.8)."""
    return text(item.attrs.get("encoding-type", ""))


def text(value: Any) -> str:
    """An attribute as a string; bytes are decoded, anything that is no text gives ""."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def index_column(frame: h5py.Group) -> str | None:
    """The name of the column that holds a data frame's row names; None when it has none."""
    for name in (text(frame.attrs.get("_index", "")), "_index", "index"):
        if name and name in frame:
            return name
    return None


def column_names(frame: h5py.Group) -> tuple[str, ...]:
    """The columns of a data frame in their order, without the row names and without AnnData's own helpers."""
    index = index_column(frame)
    ordered = [text(c) for c in frame.attrs.get("column-order", ())]
    rest = sorted(c for c in frame if c not in ordered)
    return tuple(c for c in [*ordered, *rest] if c in frame and c not in (index, "__categories"))
