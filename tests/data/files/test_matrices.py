"""Rows of matrices as files store them."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.files import matrices
from state_engine.data.files.safety import check_file
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


def test_scattered_rows_are_read_in_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = sp.random(400, 30, 0.3, "csr", dtype=np.float32, random_state=0)
    anndata.AnnData(values).write_h5ad(tmp_path / "a.h5ad")
    facts = next(m for m in check_file(tmp_path / "a.h5ad").matrices if m.name == "X")
    rows = np.sort(np.random.default_rng(0).choice(400, 90, replace=False))
    whole = matrices.read_rows(tmp_path / "a.h5ad", facts, rows)
    np.testing.assert_array_equal(whole.toarray(), values[rows].toarray())
    longest: list[int] = []
    ranges = matrices._ranges

    def noted(starts: np.ndarray, ends: np.ndarray, close: int, most: int | None = None) -> list[tuple[int, int]]:
        found = ranges(starts, ends, close, most)
        longest.append(max(int(ends[behind - 1] - starts[first]) for first, behind in found))
        return found

    monkeypatch.setattr(matrices, "_ranges", noted)
    monkeypatch.setattr(matrices, "BLOCK", 200)
    np.testing.assert_array_equal(matrices.read_rows(tmp_path / "a.h5ad", facts, rows).toarray(), whole.toarray())
    assert longest[0] < 200 + 30
