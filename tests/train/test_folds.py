"""Contexts that are left out in turn to calibrate a training, and how long the further trainings are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from state_engine.train.folds import calibrating_places, fold_steps, left_out_places
from tests.train.small import make_data, opened


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return opened(make_data(tmp_path_factory.mktemp("data")))


def test_with_many_perturbations_few_contexts_are_enough_to_calibrate(split):
    assert len(left_out_places(split, min_cells=2)) == 4  # all there are: one is held out
    assert len(left_out_places(split, min_cells=2, fewest=2)) == 2
    assert len(left_out_places(split, min_cells=2, fewest=2, enough=30)) == 3


def test_a_further_training_is_shorter():
    assert [fold_steps(n) for n in (1, 300, 6000, 400_000)] == [1, 200, 1500, 1500]


def test_left_out_contexts_say_nothing_of_blocks_in_trained_ones(split):
    assert calibrating_places(split, 2) == left_out_places(split, min_cells=2)  # B is tested whole
    plan = split.plan
    assert calibrating_places(replace(split, plan=replace(plan, zeroshot=())), 2) == []  # of NK one perturbation
    assert len(calibrating_places(replace(split, plan=replace(plan, zeroshot=(), fewshot=())), 2)) == 4
