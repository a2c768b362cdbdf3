"""The analysis on measured cells (interferon-beta in blood cells): a "model" that predicts the mean effect of the other cell types."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis import effects as ef
from state_engine.effects.apply import apply_effect
from state_engine.effects.baselines import mean_of_other_contexts
from state_engine.effects.means import Means, means_by_condition
from state_engine.prediction.result import Result, open_result
from tests.prediction.make_result import write_result

CONTEXT, CONTROL, STIMULATED = "CD4T", "control", "stimulated"


@pytest.fixture(scope="module")
def measured(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Means]:
    adata = anndata.read_h5ad(real_data / "kang_ifnb.h5ad")
    counts = adata.X.toarray().astype(np.float32)
    x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)[:, np.argsort(-counts.mean(axis=0))[:1500]]
    genes = [f"G{i}" for i in range(1500)]
    labels, contexts = adata.obs["condition"].astype(str).to_numpy(), adata.obs["cell_type"].astype(str).to_numpy()
    pairs = sorted({*zip(labels.tolist(), contexts.tolist(), strict=True)}, key=lambda pair: (pair[1], pair[0]))
    codes = np.array([pairs.index(pair) for pair in zip(labels.tolist(), contexts.tolist(), strict=True)])
    means = means_by_condition([(np.arange(len(x)), x)], codes, tuple(pairs), CONTROL, tuple(genes))
    effect = mean_of_other_contexts(means.effects(), [(STIMULATED, CONTEXT)])[STIMULATED, CONTEXT].effect
    control, truth = (x[(contexts == CONTEXT) & (labels == label)] for label in (CONTROL, STIMULATED))
    predicted = apply_effect(control, effect)
    kinds = (keys.PREDICTED, keys.PREDICTED_CONTROL, keys.OBSERVED_CONTROL, keys.OBSERVED)
    obs = pd.concat(
        [
            pd.DataFrame({"perturbation": p, "context": CONTEXT, "kind": kind, "basal_cell": [str(i) for i in range(n)] if pair else ""},
                         index=[f"{kind} {i}" for i in range(n)])
            for kind, p, n, pair in zip(kinds, (STIMULATED, CONTROL) * 2, (*[len(control)] * 3, len(truth)), (1, 1, 0, 0), strict=True)
        ]
    )  # fmt: skip
    obs.loc[obs["kind"] == keys.OBSERVED, "perturbation"] = STIMULATED
    obs.loc[obs["kind"] == keys.OBSERVED_CONTROL, "perturbation"] = CONTROL
    values = np.vstack([predicted, control, control, truth])
    path = write_result(tmp_path_factory.mktemp("real") / "result.h5ad", values, values, obs)
    return open_result(path), means


def test_a_model_that_is_the_mean_baseline_scores_like_it(measured: tuple[Result, Means]) -> None:
    result, means = measured
    comparison = ef.compare(result, STIMULATED, CONTEXT, means)
    scores = {score.method: score for score in comparison.scores}
    model, baseline = scores["corrected"], scores["mean of other contexts"]
    assert baseline.n_conditions == 6 and "No other perturbation" in scores["mean of other perturbations"].reason
    for name in ("pearson", "spearman", "mae", "direction", "overlap"):
        assert getattr(model, name) == pytest.approx(getattr(baseline, name), abs=2e-3), name
    assert scores["no change"].mae > baseline.mae


def test_the_detection_floor_keeps_small_shifts_of_zeros_from_being_called(measured: tuple[Result, Means]) -> None:
    result, _ = measured
    truth = de.differential(result, STIMULATED, CONTEXT, "observed control", "observed")
    without = de.differential(result, STIMULATED, CONTEXT, "observed control", "observed", floor=0)
    np.testing.assert_array_equal(truth["p_value"], without["p_value"])  # no measured value lies under the floor
    called = de.differential(result, STIMULATED, CONTEXT)["fdr"] < 0.05
    naive = de.differential(result, STIMULATED, CONTEXT, floor=0)["fdr"] < 0.05
    real = truth["fdr"] < 0.05
    hits, naive_hits = (called & real).sum(), (naive & real).sum()
    assert hits / called.sum() > 2 * naive_hits / naive.sum()  # 0.58 of the calls are right instead of 0.25
    assert hits > 0.75 * naive_hits  # 111 instead of 140
