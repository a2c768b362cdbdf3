"""The p-values that cell-eval2 gets are those that pdex would give it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.metrics import scorer_tests
from state_engine.metrics.scorer_tests import own_rank_tests, p_values


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 1, 60), (150, 60)).astype(np.float32)
    counts[:50, :20] *= 2
    counts[50:100] = counts[50:100].mean(axis=0)  # all alike, as a mean baseline is
    obs = pd.DataFrame({"target": np.repeat(["up", "alike", "control"], 50)}, pd.RangeIndex(150).astype(str))
    return ad.AnnData(sp.csr_matrix(np.log1p(counts)), obs, pd.DataFrame(index=[f"G{i}" for i in range(60)]))


def test_p_values_are_those_of_pdex(cells: ad.AnnData) -> None:
    from cell_eval2 import de_compute

    theirs = de_compute._de_pdex_pvalues(cells, groupby="target", reference="control", threads=1).sort(["target", "feature"])
    ours = p_values(cells, groupby="target", reference="control", threads=1).sort(["target", "feature"])
    assert ours["target"].to_list() == theirs["target"].to_list() and ours["feature"].to_list() == theirs["feature"].to_list()
    for column in ("p_value", "p_adj"):
        mine, other = ours[column].to_numpy(), theirs[column].to_numpy()
        assert ((mine < 0.05) == (other < 0.05)).all() and (mine < 0.05).sum() > 10
        np.testing.assert_allclose(np.log10(np.maximum(mine, 1e-300)), np.log10(np.maximum(other, 1e-300)), atol=1e-3)


def test_pdex_is_put_back() -> None:
    from cell_eval2 import de_compute

    before = de_compute._de_pdex_pvalues
    with pytest.raises(KeyError), own_rank_tests():
        assert de_compute._de_pdex_pvalues is p_values
        raise KeyError
    assert de_compute._de_pdex_pvalues is before


@pytest.mark.parametrize("stored", ["sparse", "dense"])
@pytest.mark.parametrize("mean_calc", ["geometric", "arithmetic"])
@pytest.mark.parametrize("target_sum", [1e6, None])
def test_the_table_is_cell_eval2s_to_the_bit(cells: ad.AnnData, stored: str, mean_calc: str, target_sum: float | None) -> None:
    """Fold changes come from means of natural values that are read a group, and in a dense group some genes, at a time."""
    from cell_eval2 import de_compute

    cells = cells.copy()
    if stored == "dense":
        cells.X = cells.X.toarray()
    asked = {
        "backend": "pdex",
        "groupby": "target",
        "reference": "control",
        "mean_calc": mean_calc,
        "epsilon": 1e-9,
        "threads": 1,
    }
    more = {"input_type": "lognorm", "target_sum": target_sum, "filter_gene_min_cpm_cell": 5.0}
    with own_rank_tests():
        lean = de_compute._to_linear(cells, "lognorm", target_sum)
        ours = de_compute.compute_de(cells, **asked, **more)
    usual = de_compute._to_linear(cells, "lognorm", target_sum)
    np.testing.assert_allclose(lean.X.sum(axis=1), np.asarray(usual.X.sum(axis=1)).ravel(), rtol=1e-6)
    theirs = de_compute.compute_de(cells, **asked, **more)
    keys = ["target", "feature"]
    assert ours.sort(keys)["log2_fold_change"].to_list() == theirs.sort(keys)["log2_fold_change"].to_list()


def test_a_dense_group_is_taken_some_genes_at_a_time(monkeypatch: pytest.MonkeyPatch, cells: ad.AnnData) -> None:
    from cell_eval2 import de_compute

    monkeypatch.setattr(scorer_tests, "COLUMNS", 7)
    dense = ad.AnnData(cells.X.toarray(), cells.obs, cells.var)
    order, bounds = np.argsort(cells.obs["target"].to_numpy(str), kind="stable"), np.array([0, 50, 100, 150])
    theirs = de_compute._grouped_means(de_compute._to_linear(dense, "lognorm").X, order, bounds, 3, log_space=True)
    with own_rank_tests():
        linear = de_compute._to_linear(dense, "lognorm")
        assert linear.X.log is dense.X  # no copy of the cells
        np.testing.assert_array_equal(de_compute._grouped_means(linear.X, order, bounds, 3, log_space=True), theirs)


def test_the_hash_is_cell_eval2s(monkeypatch: pytest.MonkeyPatch, cells: ad.AnnData) -> None:
    from cell_eval2 import cache

    monkeypatch.setattr(scorer_tests, "BLOCK_VALUES", 100)
    theirs = [cache._hash_X(x) for x in (cells.X, cells.X.toarray())]
    with own_rank_tests():
        assert [cache._hash_X(x) for x in (cells.X, cells.X.toarray())] == theirs
