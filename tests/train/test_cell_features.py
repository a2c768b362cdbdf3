"""Features gathered from memory or files, dense or sparse, are those of the data set."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import FeatureSource, read_features
from state_engine.errors import JobCancelled
from state_engine.train.cell_features import read_cell_features
from tests.train.small import make_data

COLUMNS = FeatureSource("X", (5, 0, 1200, 7), normalise=True)
WHOLE = FeatureSource("X", None, normalise=True)
PCA = FeatureSource("obsm/X_pca")
PLENTY = 1e9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    data = anndata.read_h5ad(make_data(folder))
    data.obsm["X_pca"] = np.random.default_rng(0).normal(size=(data.n_obs, 6)).astype(np.float32)
    data.write_h5ad(folder / "with.h5ad")
    return open_dataset(folder / "with.h5ad")


@pytest.mark.parametrize(
    ("source", "memory", "where"),
    [
        (COLUMNS, PLENTY, "memory, dense"),
        (COLUMNS, 16 * 100, "file, sparse"),
        (WHOLE, 4e6, "memory, sparse"),
        (PCA, PLENTY, "memory, dense"),
        (PCA, 100, "file, dense"),
    ],
)
def test_rows_are_those_of_the_data_set(dataset, tmp_path, source, memory, where):
    rows = np.sort(np.random.default_rng(1).choice(dataset.n_cells, 300, replace=False))
    features = read_cell_features([(dataset, source, rows)], tmp_path / "cache", memory)
    wanted = np.array([0, 299, 17, 17, 4])
    assert features.where == where
    got = features.gather(wanted)
    assert got.dtype == np.float32 and got.shape == (5, features.width)
    assert (got == read_features(dataset, source, rows[wanted])).all()
    assert (tmp_path / "cache").exists() == where.startswith("file")


def test_it_may_be_cancelled_while_reading(dataset, tmp_path):
    def cancel(progress):
        if progress.done:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        read_cell_features([(dataset, PCA, np.arange(400))], tmp_path, 100, cancel)


def test_cells_without_any_value_can_be_gathered(tmp_path):
    empty = anndata.read_h5ad(make_data(tmp_path))[:20].copy()
    empty.X = empty.X.toarray()
    empty.X[:, :3] = 0
    empty.write_h5ad(tmp_path / "e.h5ad")
    features = read_cell_features(
        [(open_dataset(tmp_path / "e.h5ad"), FeatureSource("X", (0, 1, 2)), np.arange(20))], tmp_path, 1
    )
    assert features.where == "memory, sparse"  # nothing to map
    assert not features.gather(np.array([3, 1])).any()
