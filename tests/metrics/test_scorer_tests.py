"""The p-values that cell-eval2 gets are those that pdex would give it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

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
