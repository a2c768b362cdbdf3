"""Metrics are scikit-learn's; what the bootstrap computes from counts is the same on the cells drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from state_engine.heads.metrics import CLASSIFICATION, REGRESSION, Area, counted, point_values, reliability, samples, scores

RNG = np.random.default_rng(0)


def probabilities(m: int, k: int) -> np.ndarray:
    values = RNG.random((m, k)).round(2)  # ties
    return values / values.sum(1, keepdims=True)


CASES = [
    ("classification", RNG.integers(0, 4, 120), probabilities(120, 4)),
    ("classification", np.r_[0, 0, 0, RNG.integers(1, 3, 57)], probabilities(60, 3)),
    ("multi-label", RNG.integers(0, 2, (90, 3)), RNG.random((90, 3))),
    ("regression", RNG.normal(size=80), RNG.normal(size=80)),
]


@pytest.mark.parametrize(("task", "truth", "called"), CASES)
def test_counts_give_what_scikit_learn_gives_on_the_cells_drawn(task: str, truth: np.ndarray, called: np.ndarray) -> None:
    measure = counted(task, truth, called)  # type: ignore[arg-type]
    names = REGRESSION if task == "regression" else CLASSIFICATION
    for counts in (np.ones(len(truth)), *samples(truth if task == "classification" else np.zeros(len(truth), int), 5, RNG)):
        rows = np.repeat(np.arange(len(truth)), counts.astype(int))
        expected = point_values(task, truth[rows], called[rows])  # type: ignore[arg-type]
        np.testing.assert_allclose(measure(counts), [expected[n] for n in names], rtol=1e-9)


def test_an_area_without_one_of_both_is_none() -> None:
    assert np.isnan(Area(np.array([True, True]), np.array([0.1, 0.2]))(np.ones(2)))
    assert Area(np.array([False, True]), np.array([0.5, 0.5]))(np.ones(2)) == 0.5


def test_every_sample_has_every_label() -> None:
    strata = np.array([0] * 50 + [1])
    assert all(counts[50] == 1 and counts.sum() == 51 for counts in samples(strata, 20, RNG))


def test_intervals_hold_the_value_and_narrow_with_cells() -> None:
    wide, narrow = [], []
    for m, into in ((40, wide), (4000, narrow)):
        truth = np.random.default_rng(1).integers(0, 2, m)
        right = np.random.default_rng(2).random(m) < 0.8
        called = np.eye(2)[np.where(right, truth, 1 - truth)]
        found = scores("classification", truth, called, 200, 7)
        assert all(s.low is not None and s.value is not None and s.low <= s.value <= s.high for s in found)  # type: ignore[operator]
        assert found == scores("classification", truth, called, 200, 7)
        into.append(found[0].high - found[0].low)  # type: ignore[operator]
    assert narrow[0] < wide[0] / 4


def test_a_label_that_is_never_called_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = point_values("classification", np.array([0, 0, 1, 2]), np.eye(3)[[0, 0, 0, 0]])
    assert found["accuracy"] == 0.5 and found["precision"] == pytest.approx(0.5 / 3)


def test_reliability_is_counted_as_by_hand() -> None:
    confidence, right = np.array([0.95, 0.97, 1.0, 0.55]), np.array([True, True, False, False])
    bins, gap = reliability(confidence, right)
    assert [(b.lower, b.cells) for b in bins] == [(0.5, 1), (0.9, 3)]
    assert bins[1].accuracy == pytest.approx(2 / 3)
    assert gap == pytest.approx((0.55 + 3 * (2.92 / 3 - 2 / 3)) / 4)
