"""Values of a data set that a page shows, read by path: what a child process does for a page.

Each function opens the file for itself, because a child shares nothing with who asks.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from state_engine.config import Settings
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.expression import normalise
from state_engine.data.files.hdf5 import column_names, open_h5
from state_engine.data.files.matrices import dense

SAMPLE = 500  # cells that tell which gene varies most


def gene_values(path: Path, choices: Choices, settings: Settings, gene: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the log1p expression of a gene, by its place, in some cells, (n,)."""
    data = open_dataset(path, choices, settings)
    parts = []
    for _, block in data.iter_blocks(str(data.expression), rows):
        values = normalise(block) if data.scale.scale == "counts" else block
        parts.append(dense(values[:, [gene]]).ravel())
    return np.concatenate(parts).astype(np.float32)


def most_variable(path: Path, choices: Choices, settings: Settings) -> int:
    """Return the number of the gene whose log1p expression varies most in a sample of cells."""
    data = open_dataset(path, choices, settings)
    rows = np.sort(np.random.default_rng(0).choice(data.n_cells, min(SAMPLE, data.n_cells), replace=False))
    values = data.read_stored(str(data.expression), rows)
    values = dense(normalise(values) if data.scale.scale == "counts" else values)
    return int(values.var(axis=0).argmax())


def matrix(path: Path, choices: Choices, settings: Settings, representation: str) -> NDArray[np.float32]:
    """Return all rows of a matrix, (n, width)."""
    data = open_dataset(path, choices, settings)
    return data.read(representation, np.arange(data.n_cells))


def number_columns(path: Path, choices: Choices, settings: Settings) -> tuple[str, ...]:
    """Return the columns of obs that hold numbers, in the order of the file; the choices do not matter."""
    with open_h5(path) as file:
        obs = file["obs"]
        plain = [name for name in column_names(obs) if isinstance(obs[name], h5py.Dataset) and obs[name].dtype.kind in "fiu"]
        return tuple(name for name in plain if "categories" not in obs[name].attrs)  # codes of labels, as AnnData 0.7 wrote them


def cell_names(path: Path, choices: Choices, settings: Settings) -> NDArray[np.object_]:
    """Return the barcodes, (n,) strings."""
    return open_dataset(path, choices, settings).obs_names
