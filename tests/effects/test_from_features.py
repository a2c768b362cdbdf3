"""Effects by regression on perturbation features: of the context where it can be, and never from what is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.effects.from_features import LEAST, FromFeatures
from state_engine.effects.table import EffectTable, fit_ridge
from state_engine.effects.transfer import Likeness, shared_effects

G, P = 30, 3


def screen(seed: int = 0) -> tuple[EffectTable, dict[str, np.ndarray], np.ndarray]:
    """Ten perturbations whose effects in A are linear in their features, and in B nothing but noise; and the map."""
    rng = np.random.default_rng(seed)
    vectors = {f"p{i}": rng.normal(size=P) for i in range(12)}
    linear = rng.normal(size=(P, G))
    pairs = [(f"p{i}", c) for i in range(10) for c in ("A", "B")]
    effects = [vectors[p] @ linear if c == "A" else rng.normal(size=G) for p, c in pairs]
    controls = {c: np.ones(G) for c in "ABC"}
    return EffectTable.of_pairs(pairs, [50] * 20, effects, controls, (), G), vectors, linear


def test_the_regression_is_that_of_the_context_and_leaves_the_asked_one_out() -> None:
    table, vectors, linear = screen()
    told = FromFeatures(table, vectors)
    new = told.effect("p11", "A")
    assert np.corrcoef(new, vectors["p11"] @ linear)[0, 1] > 0.99
    labels, effects = table.by_perturbation("A")
    assert labels == tuple(f"p{i}" for i in range(10))
    rest = [i for i, label in enumerate(labels) if label != "p3"]
    # the penalty is chosen with all of them, the fit is without it
    whole = fit_ridge(labels, np.array([vectors[p] for p in labels]), effects)
    x, y = np.array([vectors[labels[i]] for i in rest]), effects[rest].astype(float)
    unit = np.square(np.array([vectors[p] for p in labels]) - np.mean([vectors[p] for p in labels], axis=0)).sum() / 10
    centred = x - x.mean(axis=0)
    slope = np.linalg.solve(centred.T @ centred + whole.penalty * unit * np.eye(P), centred.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(told.effect("p3", "A"), (vectors["p3"] - x.mean(axis=0)) @ slope + y.mean(axis=0), atol=1e-4)


def test_a_context_without_effects_has_the_regression_on_means_over_contexts() -> None:
    table, vectors, _ = screen()
    told = FromFeatures(table, vectors)
    labels, effects = table.by_perturbation()
    expected = fit_ridge(labels, np.array([vectors[p] for p in labels]), effects).predict(vectors["p11"][None])[0]
    np.testing.assert_allclose(told.effect("p11", "C"), expected, atol=1e-5)
    assert told.effect("unknown", "A") is None
    few = FromFeatures(table, {p: v for p, v in vectors.items() if p in ("p0", "p1", "p11")})
    assert len(few.vectors) < LEAST and few.effect("p11", "A") is None


def test_a_perturbation_that_no_other_context_knows_is_told_by_its_features_and_the_common_effect() -> None:
    table, vectors, _ = screen()
    told = FromFeatures(table, vectors)
    found = shared_effects(Likeness(table), "p11", "A", told)
    assert found.new and found.parts() == ("common", "features") and found.transfer is None
    assert shared_effects(Likeness(table), "p1", "A", told).parts() == ("mean", "common", "features")
    assert shared_effects(Likeness(table), "p11", "A").parts() == ("common",)
    np.testing.assert_array_equal(found.features, told.effect("p11", "A"))
    assert found.common == pytest.approx(table.mean_of_context("A"))
