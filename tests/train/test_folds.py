"""Contexts that are left out in turn to calibrate a training, and how long the further trainings are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from state_engine.data.splits.apply import TEST, TRAIN, UNUSED, VAL
from state_engine.effects.transfer import LEAST_COMMON
from state_engine.train.folds import (
    blocks_split,
    calibrating_blocks,
    calibrating_places,
    fold_steps,
    left_out_blocks,
    left_out_places,
)
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


def test_blocks_that_are_left_out_go_on_being_taught_around_them(split):
    blocks = left_out_blocks(split, 1, 2)
    assert len(blocks) >= 4 and blocks == left_out_blocks(split, 1, 2) != left_out_blocks(split, 2, 2)
    fold = blocks_split(split, blocks)
    before, after = split.sources[0], fold.sources[0]
    labels, contexts = before.dataset.perturbation_labels(), before.dataset.context_labels()
    held = {(c, p) for _, c, p in blocks}
    for context, label in held:
        rows = (labels == label) & (contexts == context)
        assert (after.parts[rows & (before.parts == TRAIN)] == VAL).all()
        others = {p for p in set(labels[(contexts == context) & (after.parts == TRAIN)]) if p != split.control}
        assert len(others) >= LEAST_COMMON and split.control in labels[(contexts == context) & (after.parts == TRAIN)]
        assert ((labels == label) & (after.parts == TRAIN)).any()  # another context still trains it
    assert not (after.parts == TEST).any() and (after.parts[before.parts > TRAIN] == UNUSED).all()


def test_only_where_blocks_may_be_asked_for_are_they_weighed(split):
    plan = split.plan
    assert calibrating_blocks(split, 42, 2) == left_out_blocks(split, 42, 2)  # of NK one perturbation is tested
    whole_only = replace(split, plan=replace(plan, fewshot=()))
    assert calibrating_blocks(whole_only, 42, 2) == []
    assert left_out_blocks(split, 42, 10**6) == []
