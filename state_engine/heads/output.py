"""Annotated cells as a file: a copy of the data set with further columns of obs, and a record of the head that called them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import pandas as pd

from state_engine.checkpoints.head_card import HeadCard
from state_engine.data.dataset import Dataset
from state_engine.data.files.added_columns import add_columns, copy_file
from state_engine.data.files.frames import write_text
from state_engine.data.files.hdf5 import index_column, open_h5
from state_engine.errors import RequestError
from state_engine.files import room_for
from state_engine.progress import OnProgress, silent
from state_engine.versions import package_versions

HEADS: Final = "state_explorer_heads"  # of uns: a JSON object in a string


def check_columns(dataset: Dataset, columns: Iterable[str]) -> None:
    """Refuse columns of which one is that of the cells' names, before anything is computed.

    Raises:
        RequestError: it would take the names' place.
    """
    with open_h5(dataset.path) as file:
        index = index_column(file["obs"])
    if index is not None and index in set(columns):
        raise RequestError(
            f"The names of the cells of {dataset.path.name} are in '{index}'.", "What a head calls cells is written under that name.",
            "Give the table's index another name, and save the file again.",
        )  # fmt: skip


def write_annotated(
    dataset: Dataset,
    path: Path,
    columns: Mapping[str, pd.Categorical | np.ndarray],
    card: HeadCard,
    unsure: tuple[float, str],
    on_progress: OnProgress = silent,
) -> tuple[str, ...]:
    """Write a copy of a data set with columns of obs.

    Args:
        dataset: the cells.
        path: the copy; the caller renames it when it is complete.
        columns: name -> categorical or numbers, a value for each cell.
        card: of what called them.
        unsure: the probability below which a cell is called a word, and that word.
        on_progress: told how much was copied; may raise `JobCancelled`.

    Returns:
        Sentences about columns that were replaced.
    """
    room_for(path.parent, dataset.file.nbytes)
    copy_file(dataset.path, path, on_progress)
    with h5py.File(path, "r+") as file:
        replaced = add_columns(file, columns)
        uns = file.require_group("uns")
        uns.attrs.setdefault("encoding-type", "dict")
        uns.attrs.setdefault("encoding-version", "0.1.0")
        record = {"id": card.id, "name": card.name, "weights": card.weights_hash, "threshold": unsure[0], "unknown": unsure[1],
                  "columns": list(columns), "vectors": card.source.words, "versions": package_versions()}  # fmt: skip
        write_text(uns, HEADS, json.dumps(record))
    return tuple(f"The column '{name}' of the file was replaced." for name in replaced)
