"""Metrics of called genes by hand; a small constant added to zeros calls nothing; what does not exist is left out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.metrics.called import called_values, condition_values, rank_tests_of
from state_engine.metrics.profile import TARGET

YES, NO = True, False


def test_by_hand() -> None:
    own, own_fold = np.array([YES, YES, YES, NO, NO]), np.array([3.0, -1.0, 0.5, 2.0, 0.0])
    real, real_fold = np.array([YES, NO, YES, YES, NO]), np.array([1.0, 0.2, -2.0, 3.0, 0.1])
    found = condition_values(own, own_fold, real, real_fold)
    assert found["de_wilcoxon_overlap"] == 2 / 3  # 0, 1, 2 against 3, 2, 0
    assert found["de_wilcoxon_precision"] == 2 / 3
    assert found["de_wilcoxon_sig_recall"] == 2 / 3  # 0 and 2 of 0, 2, 3
    assert found["de_wilcoxon_direction_match"] == 2 / 3  # 2 goes the other way
    assert found["de_called"] == 1
    assert found["de_wilcoxon_lfc_spearman"] == pytest.approx(0.5)  # 3, 0.5, 2 against 1, -2, 3: ranks 3, 1, 2 and 2, 1, 3
    assert found["de_wilcoxon_pr_auc"] == pytest.approx((1 + 1 + 3 / 4) / 3)  # by |fold|: 0, 3, 1, 2, 4


def test_what_does_not_exist() -> None:
    none, some, fold = np.zeros(3, bool), np.array([YES, NO, NO]), np.array([1.0, 0.5, -0.5])
    found = condition_values(some, fold, none, fold)
    assert found["de_wilcoxon_precision"] == 0  # all that was called is wrong
    for name in ("overlap", "sig_recall", "direction_match", "lfc_spearman", "pr_auc"):
        assert np.isnan(found[f"de_wilcoxon_{name}"]), name
    assert np.isnan(found["de_called"])
    assert condition_values(none, fold, some, fold)["de_wilcoxon_precision"] == 0
    assert condition_values(none, fold, some, fold)["de_wilcoxon_overlap"] == 0


def cells(values: dict[str, np.ndarray]) -> ad.AnnData:
    labels = np.repeat([*values], [len(v) for v in values.values()])
    obs = pd.DataFrame({TARGET: pd.Categorical(labels)}, index=pd.RangeIndex(len(labels)).astype(str))
    x = np.vstack([*values.values()]).astype(np.float32)
    return ad.AnnData(sp.csr_matrix(x), obs, pd.DataFrame(index=[f"G{i}" for i in range(x.shape[1])]))


def test_a_small_constant_calls_nothing() -> None:
    """Of genes that most cells lack, a shift of 0.01 makes every cell another: no such gene may be called."""
    rng = np.random.default_rng(0)
    control = np.where(rng.random((80, 30)) < 0.1, 2.0, 0.0)
    shifted = control + 0.01
    real = shifted.copy()
    real[:, :5] += 2
    measured, predicted = (
        rank_tests_of(cells({"c": control, "p": real, "q": control}), "c"),
        rank_tests_of(cells({"c": control, "p": shifted}), "c"),
    )
    found = called_values(predicted, measured)
    assert found["de_called"] == {"p": 0} and found["de_wilcoxon_overlap"] == {"p": 0}
    assert "q" not in found["de_wilcoxon_precision"]
