"""Baselines by hand: means that leave out what is asked for, and ridge beside scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.effects.baselines import additive, nearest_neighbours
from state_engine.effects.table import PENALTIES, EffectTable, fit_ridge
from state_engine.errors import CheckpointError, ConfigError

ROWS = [("A", "T", [1.0, 0.0]), ("A", "B", [3.0, 0.0]), ("A", "NK", [5.0, 2.0]), ("C", "T", [-1.0, 4.0]), ("D", "B", [0.0, 6.0])]
CONTROLS = {"T": [1.0, 1.0], "B": [2.0, 2.0], "NK": [3.0, 3.0]}


def table_of(rows=ROWS, controls=CONTROLS, **changes) -> EffectTable:
    given = {
        "perturbations": tuple(p for p, _, _ in rows),
        "contexts": tuple(c for _, c, _ in rows),
        "cells": np.arange(1, len(rows) + 1),
        "effects": np.array([e for _, _, e in rows], dtype=np.float32),
        "controls": {c: np.array(v, dtype=np.float32) for c, v in controls.items()},
    }
    return EffectTable(**{**given, **changes})


def test_the_mean_of_other_contexts_leaves_the_asked_one_out():
    table = table_of()
    assert table.mean_of_perturbation("A", "T").tolist() == [4.0, 1.0]
    assert table.mean_of_perturbation("A", "Mono").tolist() == [3.0, pytest.approx(2 / 3)]
    assert table.mean_of_perturbation("C", "T") is None  # measured in this context only
    assert table.mean_of_perturbation("unheard of", "T") is None
    assert table.other_contexts("A", "T") == ("B", "NK")
    assert table.other_contexts("unheard of", "T") == ()


def test_the_mean_of_a_context_leaves_the_asked_perturbation_out():
    table = table_of()
    assert table.mean_of_context("T").tolist() == [0.0, 2.0]
    assert table.mean_of_context("T", "A").tolist() == [-1.0, 4.0]
    assert table.mean_of_context("T", "D").tolist() == [0.0, 2.0]  # it was not among them
    assert table.mean_of_context("NK", "A") is None
    assert table.mean_of_context("Mono") is None


def test_effects_by_pair_and_by_perturbation():
    table = table_of()
    assert table.effect("A", "B").tolist() == [3.0, 0.0]
    assert table.effect("C", "B") is None
    labels, means = table.by_perturbation()
    assert labels == ("A", "C", "D")
    assert means.tolist() == [[3.0, pytest.approx(2 / 3)], [-1.0, 4.0], [0.0, 6.0]]


def test_a_table_without_rows_knows_nothing():
    table = table_of(rows=[], effects=np.zeros((0, 2), np.float32))
    assert table.mean_of_perturbation("A", "T") is None
    assert table.mean_of_context("T") is None
    assert table.by_perturbation()[1].shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contexts": ("T", "B")}, "5 labels|labels for effects"),
        ({"cells": np.ones(2)}, "labels for effects"),
        ({"perturbations": ("A", "A", "A", "A", "D"), "contexts": ("T", "B", "NK", "T", "B")}, "twice"),
        ({"controls": {"T": np.zeros(2)}}, "no control for B, NK"),
        ({"controls": {c: np.zeros(3) for c in CONTROLS}}, "width"),
        ({"features": ("g1",)}, "1 names for 2 features"),
        ({"effects": np.full((5, 2), np.nan, np.float32)}, "not finite"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        table_of(**changes)


def ridge_data(k: int = 12, p: int = 5, g: int = 7):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(k, p)) + 4
    y = x @ rng.normal(size=(p, g)) + rng.normal(size=(k, g)) + 2
    return tuple(f"P{i}" for i in range(k)), x, y


def test_ridge_is_that_of_scikit_learn_with_the_same_penalty():
    from sklearn.linear_model import Ridge as Reference

    labels, x, y = ridge_data()
    ours = fit_ridge(labels, x, y)
    unit = float(np.square(x - x.mean(axis=0)).sum()) / len(x)
    theirs = Reference(alpha=ours.penalty * unit).fit(x, y)
    new = np.random.default_rng(4).normal(size=(3, x.shape[1]))
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new), atol=1e-4)
    assert ours.penalty == min(ours.errors, key=lambda penalty: ours.errors[penalty])
    assert set(ours.errors) == set(PENALTIES)


def test_left_out_effects_are_those_of_fits_without_the_row():
    from sklearn.linear_model import Ridge as Reference

    labels, x, y = ridge_data()
    ours = fit_ridge(labels, x, y)
    unit = float(np.square(x - x.mean(axis=0)).sum()) / len(x)
    for i, label in enumerate(labels):
        others = np.arange(len(x)) != i
        alone = Reference(alpha=ours.penalty * unit).fit(x[others], y[others]).predict(x[i : i + 1])[0]
        np.testing.assert_allclose(ours.effect(label, x[i]), alone, atol=1e-4)


def test_an_effect_of_its_own_plays_no_part_in_what_ridge_says_of_a_perturbation():
    labels, x, y = ridge_data()
    first = fit_ridge(labels, x, y)
    moved = y.copy()
    moved[0] += 0.01  # small enough that the same penalty is chosen
    again = fit_ridge(labels, x, moved)
    assert again.penalty == first.penalty
    np.testing.assert_allclose(again.effect("P0", x[0]), first.effect("P0", x[0]), atol=1e-5)
    assert np.abs(again.effect("P1", x[1]) - first.effect("P1", x[1])).max() > 1e-4


def test_features_that_say_nothing_give_the_mean_effect():
    labels, x, y = ridge_data()
    ours = fit_ridge(labels, np.ones_like(x), y)
    np.testing.assert_allclose(ours.predict(np.ones((1, x.shape[1])))[0], y.mean(axis=0), atol=1e-5)


def test_two_perturbations_are_too_few_for_ridge():
    with pytest.raises(ConfigError, match="three different"):
        fit_ridge(("A", "B"), np.ones((2, 3)), np.ones((2, 4)))


# ---- baselines of effects alone ----


def grid() -> EffectTable:
    """Three perturbations and two combinations in two contexts; C is measured in B only."""
    effects = {
        ("A", "B"): (1, 0, 0, 0), ("A", "T"): (2, 0, 0, 1), ("D", "B"): (0, 1, 0, 0), ("D", "T"): (0, 3, 0, 0),
        ("C", "B"): (0, 0, 1, 0), ("A+D", "T"): (9, 9, 9, 9),
    }  # fmt: skip
    controls = {c: np.zeros(4, np.float32) for c in ("B", "T")}
    return EffectTable.of_pairs(
        list(effects), [5] * 6, [np.array(e, np.float32) for e in effects.values()], controls, tuple("abcd"), 4
    )


def test_combinations_are_the_sum_of_their_parts() -> None:
    found = additive(grid(), [("A+D", "T"), ("A+C", "T"), ("A+Z", "T"), ("A", "T")])
    assert found["A+D", "T"].effect.tolist() == [2, 3, 0, 1]  # its own measured effect plays no part
    assert found["A+C", "T"].effect.tolist() == [2, 0, 1, 1]  # C as in the other context
    assert set(found) == {("A+D", "T"), ("A+C", "T")}


def test_neighbours_are_found_in_other_contexts_and_speak_for_this_one() -> None:
    found = nearest_neighbours(grid(), [("A", "T"), ("C", "T"), ("C", "B"), ("new", "T")], k=1)
    # in B, the only perturbation that T has beside A is D
    assert found["A", "T"].effect.tolist() == [0, 3, 0, 0] and found["A", "T"].behind == 1
    assert ("C", "B") not in found and ("new", "T") not in found
    both = nearest_neighbours(grid(), [("C", "T")], k=2)["C", "T"]
    assert both.effect.tolist() == [1, 1.5, 0, 0.5] and both.behind == 2
