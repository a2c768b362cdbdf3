"""Whether cells that a head calls are cells that it was fitted on: what it calls those says nothing of what it calls others.

The file is compared by its hash, cells by their names, so that a copy of the file, a part of it and a prediction from it are noticed too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from state_engine import keys
from state_engine.checkpoints.head_card import HeadCard
from state_engine.checkpoints.head_store import fitted_cells
from state_engine.data.dataset import Dataset
from state_engine.data.files.columns import read_column
from state_engine.data.files.hdf5 import column_names, open_h5
from state_engine.plain import agreed, part_of


def codes_of(names: Iterable[object]) -> NDArray[np.int64]:
    """Return a code for each name, (n,): the first eight bytes of a hash, the same everywhere."""
    digests = (hashlib.blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def fitted_on(folder: Path, dataset: Dataset) -> int | None:
    """Return how many cells have the names of cells that a head was fitted on; of a prediction, how many are, or start from, such cells.

    None where the head does not say which cells they were.

    Raises:
        CheckpointError: what it says is damaged.
    """
    cells = fitted_cells(folder)
    if cells is None:
        return None
    with open_h5(dataset.path) as file:
        predicted = keys.BASAL_CELL in column_names(file["obs"])
        names = read_column(file["obs"], keys.BASAL_CELL, dataset.n_cells) if predicted else dataset.obs_names
    return int(np.isin(codes_of(names), cells.numpy()).sum())


def seen_remarks(card: HeadCard, dataset: Dataset, seen: int | None) -> list[str]:
    """Return what to know before calls are taken for a test of the head, in sentences."""
    said = []
    if card.data_hash and card.data_hash == dataset.hash():
        said.append("The head was fitted on cells of this very file: what it calls them is no test of it.")
    n = seen or 0
    of = part_of(n, dataset.n_cells, "cell")
    if seen and keys.KIND in dataset.columns:
        said.append(
            f"{of} {agreed(n, 'is, or was', 'are, or were')} predicted from, cells with the names of those that the head was fitted on: it calls "
            "them better than cells that are new to it, and how it calls the measured ones is no test of it."
        )
    elif seen:
        said.append(
            f"{of} {agreed(n, 'has', 'have')} the names of cells that the head was fitted on: where they are the same cells, "
            "what it calls them is no test of it."
        )
    return said
