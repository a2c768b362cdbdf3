"""Opening an HDF5 file to read, with errors in plain words, and the few words of AnnData's on-disk format that all readers share.

Source: the format description of AnnData 0.7 to 0.12. Boundary: this module decides nothing about what a file means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from state_engine.errors import UnreadableFileError, UnsafeFileError

EXPORT_AGAIN: Final = "Export the file again with anndata; this copy must not be trusted."
MOST_TEXT: Final = 16 << 20  # characters of a column of text, and for each row
TEXT_EACH: Final = 256

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
    except BlockingIOError as error:
        raise UnreadableFileError(
            f"{path.name} is open in another program, which may write to it.",
            "HDF5 cannot lock it, for example because a notebook has it open with backed='r+'.",
            "Close it there (adata.file.close()), or give a copy of the file.",
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
    """Return the columns of a data frame in their order, without the row names and without AnnData's own helpers.

    A name with '/' lies in groups of its parts, as AnnData before 0.13 writes it: it is a column, and its groups are none.
    """
    there = dict.fromkeys(frame)
    order = dict.fromkeys(text(c) for c in np.ravel(frame.attrs.get("column-order", ())).tolist())
    nested = {c for c in order if c not in there and _lies_in_groups(frame, c)}
    helpers = {index_column(frame), "__categories", *(c.split("/")[0] for c in nested)}
    rest = sorted(there.keys() - order.keys())
    return tuple(c for c in [*order, *rest] if c in nested or (c in there and c not in helpers))


def _lies_in_groups(frame: h5py.Group, name: str) -> bool:
    """Return whether a name with '/' leads to an object of this data frame; an absolute path leads out of it."""
    return "/" in name and all(part not in ("", ".", "__categories") for part in name.split("/")) and name in frame


def follow(item: h5py.Dataset, attribute: str) -> h5py.Dataset:
    """Return the data set of categories that an attribute refers to, as AnnData 0.7 wrote it. The only place where a reference is opened.

    Raises:
        UnsafeFileError: the reference leads anywhere but to a named data set of this file that keeps its own values.
    """
    target = item.file[item.attrs[attribute]]
    named = isinstance(target, h5py.Dataset) and "/__categories/" in (target.name or "")
    if not named or target.external or target.is_virtual:
        raise UnsafeFileError(
            f"'{item.name}' refers to values outside the usual place.",
            "Its categories are no data set of this file.",
            EXPORT_AGAIN,
        )
    return target


def read_text(item: h5py.Dataset, name: str) -> np.ndarray:
    """Return a data set of strings, (n,) of Python strings, in blocks and within a budget.

    What a file declares for text of variable length is 8 bytes each, whatever they point to; so the sizes are taken from what came.

    Raises:
        UnsafeFileError: the strings are far longer than names are.
    """
    n, block, used, done = len(item), 16, 0, 0
    most = MOST_TEXT + n * TEXT_EACH
    found = np.empty(n, dtype=object)
    while done < n:
        values = item[done : done + block]
        part = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
        found[done : done + len(part)] = part
        used += sum(map(len, part))
        done += len(part)
        if used > most:
            raise UnsafeFileError(
                f"The strings of '{name}' are too long.", f"The first {done:,} of {n:,} have {used:,} characters.", EXPORT_AGAIN
            )
        # the next block may hold about as much as is left, were all its strings as long as the longest so far
        longest = max(map(len, part), default=1) + 1
        block = int(min(max(most // (8 * longest), 1), 4 * block, 100_000))
    return found
