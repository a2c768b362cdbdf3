"""A copy of an .h5ad with further columns of obs: what people or a model called the cells. The source is never written to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from state_engine.data.files.frames import write_column
from state_engine.data.files.hdf5 import EXPORT_AGAIN, column_names, index_column
from state_engine.errors import DataError, RequestError, UnreadableFileError
from state_engine.files import free_output, full_disk_told, replacing
from state_engine.plain import visible, writable
from state_engine.progress import OnProgress, Progress, silent

BLOCK = 16 << 20  # bytes copied between two looks at whether the job was stopped


def copy_with_columns(
    source: Path, output: Path, columns: Mapping[str, pd.Categorical | np.ndarray], on_progress: OnProgress = silent
) -> None:
    """Copy an .h5ad that was checked, and add columns to its obs; a column of the same name is replaced in the copy.

    Args:
        source: the file.
        output: the copy; it appears only when complete.
        columns: name -> values of all cells in file order, (n,) numbers, truth values, or a categorical of text.
        on_progress: is told how much was copied; may raise `JobCancelled`.

    Raises:
        RequestError: the output cannot be written, or a name cannot be that of a column.
        UnreadableFileError: obs is no data frame of as many cells.
        DataError: the disk is full.
    """
    free_output(output, source)
    for name in columns:
        check_name(name)
    with full_disk_told(output.parent, DataError), replacing(output) as beside:
        copy_file(source, beside, on_progress)
        with h5py.File(beside, "r+") as file:
            add_columns(file, columns)


def check_name(name: str) -> None:
    """Refuse a name that cannot be that of a column.

    Raises:
        RequestError: it is empty, has a "/", or is that of the row names.
    """
    if not name.strip() or "/" in name or name in (".", "..", "_index", "__categories") or not writable(name):
        raise RequestError(
            f"'{visible(name)}' cannot be the name of a column.", "A slash parts groups of the file.", "Give another name."
        )


def copy_file(source: Path, target: Path, on_progress: OnProgress = silent) -> None:
    """Copy the bytes of a file, and tell how far it is."""
    total, done = source.stat().st_size, 0
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(BLOCK):
            new.write(block)
            done += len(block)
            on_progress(Progress("Copying the data set", done, total, unit="bytes"))
        new.flush()
        os.fsync(new.fileno())


def add_columns(file: h5py.File, columns: Mapping[str, pd.Categorical | np.ndarray]) -> tuple[str, ...]:
    """Write columns of obs into an open file, and return the names of those that were replaced.

    Raises:
        UnreadableFileError: obs is no data frame of as many cells. RequestError: a name is that of the cells' names.
    """
    frame = file.get("obs")
    index = index_column(frame) if isinstance(frame, h5py.Group) else None
    if frame is None or index is None:
        raise UnreadableFileError("The file has no table of cells to add a column to.", "Its obs is no data frame.", EXPORT_AGAIN)
    cells = len(frame[index])
    names = list(column_names(frame))
    replaced = tuple(name for name in columns if name in names)
    for name, values in columns.items():
        if len(values) != cells:
            raise UnreadableFileError(
                f"The file has {cells:,} cells.", f"The column '{name}' has {len(values):,}.", "Open it again."
            )
        if name == index:
            raise RequestError(
                f"'{name}' cannot be the name of a column.", "It is that of the cells' names.", "Give another name."
            )
        if name in frame:
            del frame[name]
        write_column(frame, name, values)
        names += [name] if name not in names else []
    frame.attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())
    return replaced
