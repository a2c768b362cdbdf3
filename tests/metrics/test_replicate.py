"""Skill, BDS and DRF: by hand, and that they say nothing where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from state_engine.metrics.moments import Moments, welch
from state_engine.metrics.replicate import discrimination, interpolated_duplicate, skill

NAMES = ("mine", "expr_mae", "no change")
RNG = np.random.default_rng(1)


def test_the_replicate_has_skill_1_and_the_baseline_0() -> None:
    baseline, replicate = RNG.uniform(1, 2, 20), RNG.uniform(0, 0.5, 20)
    own = skill(NAMES, replicate, baseline, replicate)
    assert own is not None and (own.value, own.low, own.high, own.n) == pytest.approx((1, 1, 1, 20)) and own.better
    other = skill(NAMES, baseline, baseline, replicate)
    assert other is not None and (other.value, other.low, other.high) == pytest.approx((0, 0, 0))
    assert not other.better and not other.worse
    half = skill(NAMES, (baseline + replicate) / 2, baseline, replicate)
    assert half is not None and half.value == pytest.approx(0.5)


def test_better_only_where_the_interval_says_so() -> None:
    baseline, replicate = np.ones(30), np.zeros(30)
    noisy = 1 + RNG.normal(0, 1, 30)
    found = skill(NAMES, noisy, baseline, replicate)
    assert found is not None and found.low < 0 < found.high and not found.better
    worse = skill(NAMES, np.full(30, 1.5), baseline, replicate)
    assert worse is not None and worse.worse and worse.value == -0.5


def test_nothing_to_measure_with() -> None:
    assert skill(NAMES, np.ones(4), np.ones(4), np.ones(4)) is None
    assert skill(NAMES, np.full(4, np.nan), np.ones(4), np.zeros(4)) is None
    assert discrimination("m", "", np.full(3, np.nan), np.ones(3), 0.0, False) is None


def test_bds_and_drf_by_hand() -> None:
    # errors: the replicate halves the first, loses the second, and beats the third entirely
    found = discrimination("expr_mae", "T", np.array([0.5, 2.0, 0.0]), np.array([1.0, 1.0, 2.0]), 0.0, False)
    assert found is not None and (found.bds, found.n) == (pytest.approx(2 / 3), 3)
    assert found.drf == pytest.approx(0.5, abs=1e-5) and not found.tells  # the median of 0.5, -1 and 1
    # correlations: more is better, 1 is perfect
    high = discrimination("delta_pearson", "", np.array([0.9, 0.8]), np.array([0.5, 0.6]), 1.0, True)
    assert high is not None and high.bds == 1 and high.drf == pytest.approx((0.8 + 0.5) / 2, abs=1e-5) and high.tells


def test_the_duplicate_keeps_genes_that_respond_and_leaves_the_noise_of_others_out() -> None:
    rest = RNG.normal(1, 0.5, (400, 50))
    replicate = RNG.normal(1, 0.5, (40, 50))
    replicate[:, 0] += 3
    own, others = Moments.of(replicate), Moments.of(rest)
    average = rest.mean(axis=0)
    found = interpolated_duplicate(own, others, average)
    assert found[0] == pytest.approx(replicate[:, 0].mean())
    alpha = 1 - false_discovery_control(welch(own, others)[1])
    np.testing.assert_allclose(found, alpha * replicate.mean(axis=0) + (1 - alpha) * average)
    assert np.abs(found - average)[1:].mean() < np.abs(replicate.mean(axis=0) - average)[1:].mean()
