"""Rows of matrices as files store them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from tests.data.good_files import cells, write


def test_positions_that_are_stored_twice_are_added_up(tmp_path: Path) -> None:
    path = write(cells(), tmp_path / "twice.h5ad")
    whole = open_dataset(path, settings=Settings(home=tmp_path)).read("X", np.arange(60))
    with h5py.File(path, "r+") as file:
        group = file["X"]
        data, indices, indptr = (group[part][...] for part in ("data", "indices", "indptr"))
        for part in ("data", "indices", "indptr"):
            del group[part]
        group["data"] = np.repeat(data / 2, 2)  # each value in two halves
        group["indices"], group["indptr"] = np.repeat(indices, 2)[::1], indptr * 2
    dataset = open_dataset(path, settings=Settings(home=tmp_path))
    stored = dataset.read_stored("X", np.arange(60))
    assert np.array_equal(dataset.read("X", np.arange(60)), whole)
    assert not isinstance(stored, np.ndarray) and stored.nnz == np.count_nonzero(whole)
    assert dataset.scale.scale == "counts" and "presence" not in " ".join(dataset.scale.evidence)
