"""Weights of a context's own: found where one context is unlike the others, not where all are alike, and used for what is predicted there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from state_engine.checkpoints.card import Calibration
from state_engine.effects.mixture import Condition
from state_engine.plain import from_plain, to_plain
from state_engine.train.calibration import fit_calibration
from state_engine.train.report import own_lines

GENES = 80


def conditions(alike: bool, seed: int = 0, new: bool = False) -> list[Condition]:
    """Blocks of three contexts: the effect is the common one; in the last the network's own, unless all are alike."""
    rng = np.random.default_rng(seed)
    made = []
    for context in ("a", "b", "last"):
        for i in range(4):
            paired, mean, common = rng.normal(size=(3, GENES))
            truth = paired if context == "last" and not alike else common
            observed = truth + rng.normal(0, 0.2, GENES)
            control = np.full(GENES, 9.0)
            made.append(Condition(context, f"p{i}", paired, None if new else mean, observed, control, 50, common))
    return made


def fitted(given: list[Condition]) -> Calibration:
    found = fit_calibration(given, expression=True)
    assert found is not None
    return found


@pytest.mark.parametrize("new", [False, True], ids=["blocks", "perturbations"])
def test_a_context_unlike_the_others_has_weights_of_its_own(new: bool) -> None:
    found = fitted(conditions(alike=False, new=new))
    last, other = found.of_context("last"), found.of_context("a")
    assert last.paired > 0.7 and last.common < 0.2 and last.chosen == "mixture" and "4 conditions" in last.why
    assert other.common > 0.7 and other.paired < 0.3
    own = found.own["last"]
    assert own.error < 0.5 * own.common_error and own.conditions == 4
    assert found.of_context("never trained") is found  # what is not known there has the common weights
    assert [line for line in own_lines(found) if line.strip().startswith("last has weights of its own")]


def test_contexts_that_are_alike_share_their_weights() -> None:
    found = fitted(conditions(alike=True))
    common = found.common
    for context in ("a", "b", "last"):
        assert found.of_context(context).common == pytest.approx(common, abs=0.1)


def test_own_weights_are_those_of_the_formula_where_a_part_is_not_bounded() -> None:
    given = conditions(alike=False)
    found = fitted(given)
    one = [c for c in given if c.context == "last"]
    prior = np.array(found.fitted or found.weights(("paired", "mean", "common", "features")))[:3]
    x = [np.stack([c.paired, c.mean, c.common]) for c in one]
    gram, target = sum(a @ a.T for a in x), sum(a @ c.observed for a, c in zip(x, one, strict=True))
    pull = 0.5 * np.mean([c.observed @ c.observed for c in one])
    free = np.linalg.solve(gram + pull * np.eye(3), target + pull * prior)
    assert (free > 0).all() and free[:2].sum() < 1
    np.testing.assert_allclose(found.own["last"].weights[:3], free, rtol=1e-6)


def test_one_condition_is_not_enough_and_contexts_left_out_whole_have_none() -> None:
    given = conditions(alike=False)
    single = [c for c in given if c.context != "last" or c.perturbation == "p0"]
    assert "last" not in fitted(single).own
    whole = [replace(c, common=None) for c in given]
    assert fitted(whole).kind == "contexts" and not fitted(whole).own


def test_weights_where_a_part_is_missing_are_the_contexts_own() -> None:
    found = fitted(conditions(alike=False))
    unknown = found.of_context("last").weights(("mean", "common"))  # a label that the network does not know
    assert unknown[0] == 0 and unknown[2] < 0.3  # the common effect says nothing there
    assert found.of_context("a").weights(("mean", "common"))[2] > 0.7


def test_a_card_keeps_them() -> None:
    found = fitted(conditions(alike=False))
    assert from_plain(Calibration, to_plain(found)) == found
    before = {name: value for name, value in to_plain(found).items() if name != "own"}
    assert from_plain(Calibration, before).own == {}
