"""Weights by bounded least squares: against scipy's solver, by hand at the bounds, and what one condition alone decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from state_engine.effects.mixture import PRIOR, Condition, Mixture, fit_mixture, mixed_mean
from state_engine.errors import ConfigError


def condition(paired, mean, observed, control=None) -> Condition:
    parts = [np.asarray(v, dtype=float) for v in (paired, mean, observed)]
    return Condition("T", "TNF", *parts, np.zeros(len(parts[0])) if control is None else np.asarray(control, float), 10)


def random_conditions(paired: float, mean: float, k: int = 6, noise: float = 0.0, seed: int = 0) -> list[Condition]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(k):
        a, b = rng.normal(size=40), rng.normal(size=40)
        made.append(condition(a, b, paired * a + mean * b + noise * rng.normal(size=40)))
    return made


@pytest.mark.parametrize("truth", [(0.3, 0.6), (0.0, 1.0), (1.0, 0.0), (0.8, 0.8)])
def test_weights_that_are_in_the_effects_are_found(truth):
    fit = fit_mixture(random_conditions(*truth), worth=0, together=2)
    assert (fit.paired, fit.mean) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("truth", [(0.4, 0.5), (1.7, 0.2), (-0.5, 0.6), (1.5, -0.4), (1.3, 1.4), (-1, -1)])
def test_the_minimum_in_the_box_is_that_of_scipy(truth):
    from scipy.optimize import lsq_linear

    conditions = random_conditions(*truth, noise=1.0, seed=3)
    x = np.concatenate([np.stack([c.paired, c.mean], axis=1) for c in conditions])
    y = np.concatenate([c.observed for c in conditions])
    pull = np.sqrt(0.5 * np.square(y).sum() / len(conditions))
    expected = lsq_linear(
        np.vstack([x, pull * np.eye(2)]), np.concatenate([y, pull * np.array(PRIOR)]), bounds=(0, 1), tol=1e-12
    ).x
    fit = fit_mixture(conditions, worth=0.5, together=2)
    assert (fit.paired, fit.mean) == pytest.approx(tuple(expected), abs=1e-5)


def test_the_prior_weighs_as_a_part_of_a_condition():
    """One condition that says (1, 0), a prior of (0, 1) worth as much as it: half and half."""
    one = condition([1, 0], [0, 1], [1, 0])
    fit = fit_mixture([one], prior=(0, 1), worth=1.0)
    assert (fit.paired, fit.mean) == pytest.approx((0.5, 0.5))
    many = fit_mixture([one] * 9, prior=(0, 1), worth=1.0)
    assert (many.paired, many.mean) == pytest.approx((0.9, 0.1))


def test_effects_that_cannot_be_told_apart_share_the_weight():
    same = np.arange(1.0, 6.0)
    fit = fit_mixture([condition(same, same, same)])
    assert fit.paired - fit.mean == pytest.approx(PRIOR[0] - PRIOR[1])  # the prior decides what the data do not
    assert fit.paired + fit.mean == pytest.approx((1 * 2 + sum(PRIOR)) / 3)


@pytest.mark.parametrize("truth", [(0.7, 0.8, 0.3), (0.2, 0.3, 0.9), (1.5, -0.4, 0.2), (-1, 2, -0.3), (0.9, 0.1, 2.0)])
def test_the_minimum_with_a_bounded_sum_is_that_of_scipy(truth):
    from scipy.optimize import minimize

    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 50))
    y = np.array(truth) @ x + rng.normal(size=50)
    one = Condition("T", "TNF", x[0], x[1], y, np.zeros(50), 10, x[2])
    fit = fit_mixture([one], worth=0.3, parts=("paired", "mean", "common"))

    def loss(w: np.ndarray) -> float:
        return float(np.square(y - w @ x).sum() + 0.3 * (y @ y) * np.square(w - 0.8 / 3).sum())

    sums = {"type": "ineq", "fun": lambda w: 1 - w[0] - w[1]}
    expected = minimize(loss, [0.2, 0.2, 0.2], bounds=[(0, 1)] * 3, constraints=[sums], method="SLSQP", options={"ftol": 1e-13})
    assert (fit.paired, fit.mean, fit.common) == pytest.approx(tuple(expected.x), abs=1e-4)
    assert fit.paired + fit.mean <= 1 + 1e-9


def test_parts_that_may_not_be_used_get_nothing():
    fit = fit_mixture(random_conditions(0.5, 0.5), worth=0, parts=("paired",))
    assert fit.mean == 0 and fit.common == 0 and fit.paired == pytest.approx(0.5, abs=0.15)


def test_without_effects_there_are_no_weights():
    with pytest.raises(ConfigError, match="no condition"):
        fit_mixture([])
    with pytest.raises(ConfigError, match="any effect"):
        fit_mixture([condition([0, 0], [0, 0], [1, 1])])


def test_the_mean_cell_is_not_negative_unless_it_may_be():
    one = condition([-1, 2], [-1, 0], [0, 0], control=[0.5, 1])
    assert mixed_mean(one, Mixture(0.5, 0.5), nonnegative=True).tolist() == [0, 2]
    assert mixed_mean(one, Mixture(0.5, 0.5), nonnegative=False).tolist() == [-0.5, 2]


def test_a_correction_is_added_whole_and_the_weights_fit_what_it_leaves() -> None:
    rng = np.random.default_rng(0)
    made = []
    for one in random_conditions(0.3, 0.6):
        noise = rng.normal(size=40)
        made.append(replace(one, observed=one.observed + noise, correction=noise))
    fit = fit_mixture(made, worth=0, correction=1.0)
    assert (fit.paired, fit.mean, fit.correction) == pytest.approx((0.3, 0.6, 1.0))
    np.testing.assert_allclose(mixed_mean(made[0], fit, nonnegative=False), made[0].observed, atol=1e-9)
    without = fit_mixture(made, worth=0)
    assert without.correction == 0 and abs(without.paired - 0.3) + abs(without.mean - 0.6) > 0.01
