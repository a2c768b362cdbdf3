"""The result reader against anndata and hand-worked numbers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.errors import GeneError, RequestError, RunError
from state_engine.prediction.result import Result, open_result
from tests.prediction.make_result import make_result, write_result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_result(tmp_path / "result.h5ad")


@pytest.fixture
def result(path: Path) -> Result:
    return open_result(path)


def test_labels_and_values_are_those_that_anndata_reads(result: Result, path: Path) -> None:
    adata = anndata.read_h5ad(path)
    assert result.genes == tuple(adata.var_names) and list(result.obs.index) == list(adata.obs_names)
    for column in adata.obs:
        expected = adata.obs[column]
        pd.testing.assert_series_equal(
            result.obs[column], expected, check_names=False, check_index_type=False, check_categorical=False
        )
    assert result.manifest == {"seed": 7}
    rows = np.array([200, 3, 3, 4, 60, 1])
    np.testing.assert_array_equal(result.read(rows), adata.X[rows])
    np.testing.assert_array_equal(result.read(rows, layer="raw"), adata.layers["raw"][rows])
    np.testing.assert_array_equal(result.read(rows, ["G7", "G2"]), adata.X[rows][:, [7, 2]])
    np.testing.assert_array_equal(result.gene("G5"), adata.X[:, 5])
    np.testing.assert_array_equal(result.gene("G5", "raw"), adata.layers["raw"][:, 5])


def test_genes_of_one_name_are_read_by_place(path: Path) -> None:
    adata = anndata.read_h5ad(path)
    adata.var_names = ["G0", "TBCE", "TBCE", *adata.var_names[3:]]
    adata.write_h5ad(path)
    result = open_result(path)
    assert result.genes[:4] == ("G0", "TBCE", "TBCE (gene 2)", "G3")
    rows = np.arange(result.n_cells)
    for place, name in ((1, "TBCE"), (2, "TBCE (gene 2)")):
        np.testing.assert_array_equal(result.read(rows, [name])[:, 0], adata.X[:, place])


def test_a_calibrated_prediction_is_there_or_it_is_not(tmp_path: Path, result: Result) -> None:
    assert not result.has_calibrated and not result.is_calibrated("drugA", "B") and result.layers() == ("corrected", "raw")
    made = open_result(make_result(tmp_path / "c.h5ad", calibrated=True))
    assert made.layers() == made.layers("drugA", "B") == ("corrected", "raw", "calibrated")
    assert not made.is_calibrated("drugB", "T") and made.layers("drugB", "T") == ("corrected", "raw")
    assert not made.is_calibrated("drugC", "B")
    rows = made.rows(keys.PREDICTED, "B", "drugA")
    halfway = (made.mean(rows) + made.mean(made.paired_controls(rows))) / 2
    np.testing.assert_allclose(made.mean(rows, "calibrated"), halfway, atol=1e-5)


def test_masks_combine_labels(result: Result) -> None:
    assert len(result.rows(keys.PREDICTED, "B", "drugA")) == 30
    assert len(result.rows(keys.OBSERVED_CONTROL, "T")) == 50
    assert result.mask().all() and not result.mask(context="nowhere").any()
    assert result.conditions() == [("drugA", "B"), ("drugB", "B"), ("drugA", "T"), ("drugB", "T")]


def test_means_by_hand(tmp_path: Path) -> None:
    x = np.array([[0.0, np.log(2)], [2.0, np.log(4)], [5.0, 0.0]])
    obs = pd.DataFrame({"perturbation": "p", "context": "c", "kind": "predicted", "basal_cell": ""}, index=["a", "b", "c"])
    result = open_result(write_result(tmp_path / "r.h5ad", x, x + 1, obs))
    np.testing.assert_allclose(result.mean(np.array([0, 1])), [1.0, (np.log(2) + np.log(4)) / 2], rtol=1e-6)
    np.testing.assert_allclose(result.mean(np.array([0, 1]), natural=True), [(np.e**2 - 1) / 2, (1 + 3) / 2], rtol=1e-6)
    np.testing.assert_allclose(result.mean(np.array([2]), "raw"), [6.0, 1.0], rtol=1e-6)
    with pytest.raises(RequestError, match="no cells to average"):
        result.mean(np.array([], int))


def test_each_prediction_finds_the_control_of_its_own_basal_cell(result: Result) -> None:
    rows = result.rows(keys.PREDICTED, "T", "drugB")[::-1]
    paired = result.paired_controls(rows)
    assert (result.obs["kind"].iloc[paired] == keys.PREDICTED_CONTROL).all()
    assert list(result.obs["basal_cell"].iloc[paired]) == list(result.obs["basal_cell"].iloc[rows])


def test_a_basal_cell_drawn_twice_is_paired_draw_by_draw(tmp_path: Path) -> None:
    kinds = ["predicted"] * 3 + ["predicted control"] * 3
    obs = pd.DataFrame({"perturbation": ["p"] * 3 + ["c"] * 3, "context": "x", "kind": kinds, "basal_cell": ["a", "b", "a"] * 2})
    obs.index = pd.Index([str(i) for i in range(6)])
    result = open_result(write_result(tmp_path / "r.h5ad", np.zeros((6, 2)), np.zeros((6, 2)), obs))
    np.testing.assert_array_equal(result.paired_controls(np.array([0, 1, 2])), [3, 4, 5])


def test_missing_pairs_are_an_error_with_numbers(tmp_path: Path) -> None:
    obs = pd.DataFrame({"perturbation": "p", "context": "x", "kind": "predicted", "basal_cell": ["a", "b"]}, index=["1", "2"])
    result = open_result(write_result(tmp_path / "r.h5ad", np.zeros((2, 2)), np.zeros((2, 2)), obs))
    with pytest.raises(RequestError, match="2 of 2 predicted cells"):
        result.paired_controls(np.array([0, 1]))


def test_an_embedding_only_result_has_features_and_no_genes(tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "r.h5ad", embedding="X_state", decoder=False))
    assert result.embedding == "X_state" and result.embedding_width == 40 and not result.has_expression
    assert result.features(np.array([1, 0])).shape == (2, 40)
    np.testing.assert_allclose(result.features(np.array([1]), "raw"), result.features(np.array([1])) + 0.2, atol=1e-6)
    with pytest.raises(GeneError, match="no gene decoder"):
        result.gene("G1")


def test_errors_say_what_is_wrong(result: Result, tmp_path: Path) -> None:
    with pytest.raises(GeneError, match=r"'FOO' is not in the result. It has 40 genes"):
        result.gene("FOO")
    with pytest.raises(RunError, match=r"There is no file .*none\.h5ad\. It should be the result of a prediction"):
        open_result(tmp_path / "none.h5ad")
    (tmp_path / "cut.h5ad").write_bytes(result.path.read_bytes()[:500])
    with pytest.raises(RunError, match="truncated"):
        open_result(tmp_path / "cut.h5ad")
    with h5py.File(result.path, "r+") as file:
        del file["X"]
    with pytest.raises(RunError, match="has no 'X'"):
        open_result(result.path)


def test_one_gene_of_a_large_result_costs_less_than_all_genes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((20_000, 2_000), dtype=np.float32)
    obs = pd.DataFrame({"perturbation": "p", "context": "c", "kind": "predicted"}, index=[str(i) for i in range(20_000)])
    result = open_result(_large(tmp_path, x, obs))
    rows = np.arange(len(obs))
    np.testing.assert_array_equal(result.gene("G77"), x[:, 77])
    one, every = (min(_timed(read) for _ in range(3)) for read in (lambda: result.gene("G77"), lambda: result.features(rows)))
    assert one < every / 2


def _large(folder: Path, x: np.ndarray, obs: pd.DataFrame) -> Path:
    path = write_result(folder / "large.h5ad", x[:, :1], x[:, :1], obs)
    with h5py.File(path, "r+") as file:
        del file["X"], file["var/_index"]
        file.create_dataset("X", data=x, chunks=(256, 2000))
        file["var"].create_dataset("_index", data=[f"G{i}" for i in range(2000)])
    return path


def _timed(read: Callable[[], object]) -> float:
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


def test_importing_the_reader_loads_nothing_heavy() -> None:
    heavy = ("torch", "anndata", "scanpy", "umap", "numba", "scipy")
    code = f"import sys, state_engine.prediction.result; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
