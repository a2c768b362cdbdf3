"""Moments, Welch's test, weights and weighted scores against scipy and written-out numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from state_engine.metrics.moments import Moments, welch
from state_engine.metrics.own import MeanCells, Pair, Reference, own_value, own_values
from state_engine.metrics.retrieval import best_amplitude, retrieval
from state_engine.metrics.weighted import effect_weights, weighted_mse, weighted_pearson, weighted_r2

RNG = np.random.default_rng(3)
GROUP, REST = RNG.gamma(2, 1, (30, 12)), RNG.gamma(2, 1.2, (80, 12))
X, Y, AVERAGE, CONTROL = (RNG.normal(2, 1, 12) for _ in range(4))
T = welch(Moments.of(GROUP), Moments.of(REST))[0]
WEIGHTS = effect_weights(T)


def test_welch_is_that_of_scipy_and_sums_add_up() -> None:
    t, p = welch(Moments.of(GROUP[:11]) + Moments.of(GROUP[11:]), Moments.of(REST))
    expected = ttest_ind(GROUP, REST, equal_var=False)
    np.testing.assert_allclose(t, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(p, expected.pvalue, rtol=1e-7)
    both = Moments.of(np.vstack([GROUP, REST])) - Moments.of(GROUP)
    np.testing.assert_allclose(both.variance, REST.var(axis=0, ddof=1), rtol=1e-9)
    assert both.n == len(REST)


def test_a_gene_that_varies_nowhere_says_nothing() -> None:
    t, p = welch(Moments.of(np.ones((5, 1))), Moments.of(np.full((5, 1), 3.0)))
    assert t.tolist() == [0] and p.tolist() == [1]


def test_weighted_scores_written_out() -> None:
    size = np.abs(T)
    w = ((size - size.min()) / (size.max() - size.min())) ** 2
    w = w / w.sum()
    np.testing.assert_allclose(WEIGHTS, w)
    assert weighted_mse(Y, X, WEIGHTS) == pytest.approx(sum(w[g] * (Y[g] - X[g]) ** 2 for g in range(12)))
    a, b = Y - CONTROL, X - CONTROL
    covariance = np.cov(np.stack([a, b]), aweights=w, bias=True)
    assert weighted_pearson(a, b, WEIGHTS) == pytest.approx(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    explained = 1 - (w * (Y - X) ** 2).sum() / (w * (AVERAGE - X) ** 2).sum()
    assert weighted_r2(Y, X, AVERAGE, WEIGHTS) == pytest.approx(explained)
    assert effect_weights(np.full(4, 2.0)).tolist() == [0.25] * 4


def test_the_average_scores_nothing_and_the_truth_everything() -> None:
    reference = Reference(AVERAGE, WEIGHTS)
    same = Pair(AVERAGE, X, AVERAGE - CONTROL, X - CONTROL, reference)
    assert own_value("weighted_r2", same) == 0 and np.isnan(own_value("pearson_mean", same))
    truth = Pair(X, X, X - CONTROL, X - CONTROL, reference)
    assert own_value("weighted_r2", truth) == 1 and own_value("pearson_mean", truth) == pytest.approx(1)
    assert own_value("weighted_mse", truth) == 0 and own_value("expr_mae", truth) == 0
    systema = np.corrcoef(Y - AVERAGE, X - AVERAGE)[0, 1]
    assert own_value("pearson_mean", Pair(Y, X, Y - CONTROL, X - CONTROL, reference)) == pytest.approx(systema)
    assert np.isnan(own_value("weighted_mse", Pair(Y, X, Y, X)))  # nothing to hold it against


def test_slope_is_the_factor_that_fits_best() -> None:
    effect = X - CONTROL
    assert own_value("slope", Pair(X, X, effect / 4, effect)) == pytest.approx(4)
    assert np.isnan(own_value("slope", Pair(X, X, np.zeros(12), effect)))


def test_retrieval_ties_count_half_and_the_own_gene_does_not() -> None:
    genes = ("A", "B", "C")
    measured = {"A": np.array([-9.0, 1, 0]), "x": np.array([0.0, 0, 1]), "y": np.array([0.0, 1, 0])}
    alike = dict.fromkeys(measured, np.zeros(3))
    # without its own gene, A is (1, 0), as far from nothing as x and y are
    assert retrieval({"A": alike["A"]}, measured, genes, "l1") == {"A": 0.5}
    assert retrieval(measured, measured, genes, "l2")["x"] == 1
    assert retrieval({"x": 5 * measured["x"]}, measured, genes, "cosine") == {"x": 1.0}
    assert retrieval({"x": measured["x"]}, {"x": measured["x"]}, genes, "l1") == {}


def test_effects_that_are_only_too_small_are_found_by_their_best_amplitude() -> None:
    measured = {f"p{i}": RNG.normal(0, 1, 40) for i in range(8)}
    small = {p: effect / 4 + RNG.normal(0, 0.02, 40) for p, effect in measured.items()}
    genes = tuple(f"g{i}" for i in range(40))
    found = best_amplitude(small, measured, genes)
    assert found is not None and found[1] == 1.0
    exact = best_amplitude(measured, measured, genes)
    assert exact == (1.0, 1.0)


def test_metrics_of_a_context() -> None:
    cells = MeanCells(
        {"x": Y}, {"x": X, "y": AVERAGE}, (CONTROL, CONTROL), tuple("abcdefghijkl"), {"x": Reference(AVERAGE, WEIGHTS)}
    )
    assert own_values("weighted_mse", cells, CONTROL) == {"x": pytest.approx(float(WEIGHTS @ (Y - X) ** 2))}
    nearer = np.linalg.norm(Y - X) < np.linalg.norm(Y - AVERAGE)
    assert own_values("centroid_accuracy", cells, CONTROL) == {"x": float(nearer)}
    with pytest.raises(KeyError):
        own_value("anything", Pair(Y, X, Y, X))
