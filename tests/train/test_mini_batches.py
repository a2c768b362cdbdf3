"""Mini-batches depend on seed and step alone and pass over all groups."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.train.cell_features import DenseFeatures
from state_engine.train.cells import Group, TrainingCells
from state_engine.train.mini_batches import SetRows, SetSchedule, draw, gather, validation_rows

GROUPS = (
    Group(0, "A", np.arange(40), np.arange(40)),
    Group(1, "A", np.arange(40, 43), np.arange(40)),
    Group(2, "A", np.arange(43, 55), np.arange(40)),
)


def schedule(seed: int = 0) -> SetSchedule:
    return SetSchedule(GROUPS, 10, 4, seed)


def sets_of(rows: SetRows, of: str) -> list[np.ndarray]:
    """Rows of each set."""
    return np.split(getattr(rows, of), np.cumsum(rows.sizes)[:-1])


def test_a_step_depends_on_the_seed_and_its_number_alone():
    one, other = schedule(), schedule()
    for step in (7, 0, 3):  # in any order
        first = one.rows(step)
        again = other.rows(step)
        assert (first.basal == again.basal).all() and (first.observed == again.observed).all()
    assert one.rows(3).basal.tolist() != one.rows(4).basal.tolist()
    assert one.rows(3).basal.tolist() != schedule(1).rows(3).basal.tolist()


def test_shares_are_the_parts_of_the_step():
    whole, parts = schedule().rows(2), [schedule().rows(2, slice(i, i + 2)) for i in (0, 2)]
    for name in ("sizes", "perturbations", "basal", "observed"):
        assert np.concatenate([getattr(p, name) for p in parts]).tolist() == getattr(whole, name).tolist()


def test_a_pass_takes_every_group_as_often_as_it_fills_sets():
    made = SetSchedule(GROUPS, 10, 1, 0)
    assert len(made.turns) / made.drawn == 4 + 1 + 2
    for number in range(3):
        labels = [int(made.rows(number * 7 + k).perturbations[0]) for k in range(7)]
        assert sorted(labels) == [0, 0, 0, 0, 1, 2, 2]


def test_a_set_repeats_cells_only_when_the_group_is_too_small():
    rng = np.random.default_rng(0)
    assert len(set(draw(np.arange(40), 10, rng))) == 10
    small = draw(np.arange(3), 10, rng)
    assert set(small) == {0, 1, 2} and len(small) == 10


def test_small_groups_give_small_sets_or_are_filled_up():
    rows, full = schedule().rows(0), SetSchedule(GROUPS, 10, 4, 0, fill=True).rows(0)
    assert full.sizes.tolist() == [10] * 4 and (full.perturbations == rows.perturbations).all()
    wanted = {0: 10, 1: 3, 2: 10}
    assert rows.sizes.tolist() == [wanted[p] for p in rows.perturbations.tolist()]
    every = [s for step in range(7) for s in sets_of(schedule().rows(step), "observed")]
    assert {len(set(s)) == len(s) for s in every} == {True} and min(len(s) for s in every) == 3


def test_sets_have_cells_and_controls_of_one_group():
    rows = schedule().rows(0)
    for basal, observed, label in zip(sets_of(rows, "basal"), sets_of(rows, "observed"), rows.perturbations, strict=True):
        assert set(observed) <= set(GROUPS[label].cells) and set(basal) <= set(GROUPS[label].controls)


def test_paired_sets_have_the_same_basal_cells_under_both_labels():
    made = SetSchedule(GROUPS, 10, 4, 0, paired=True)
    rows = made.rows(3)
    basal, observed = sets_of(rows, "basal"), sets_of(rows, "observed")
    assert all((a == b).all() for a, b in zip(basal[0::2], basal[1::2], strict=True)) and (rows.perturbations[1::2] == 0).all()
    assert (rows.perturbations[0::2] > 0).all() and all((o < 40).all() for o in observed[1::2])
    assert all((o >= 40).all() for o in observed[0::2])
    assert len(made.turns) / made.drawn == 1.5


TWO = (
    Group(1, "A", np.arange(100, 900), np.arange(50)),
    Group(1, "B", np.arange(900, 920), np.arange(50, 90)),
    Group(2, "B", np.arange(920, 940), np.arange(50, 90)),
)


def test_contexts_can_be_drawn_alike():
    made = SetSchedule(TWO, 10, 4, 0, balance="contexts")
    firsts = np.concatenate([made.rows(k).basal[::10] for k in range(100)])
    assert 0.4 < (firsts < 50).mean() < 0.6
    cells = SetSchedule(TWO, 10, 4, 0)
    assert np.mean([cells.rows(k).basal[::10] < 50 for k in range(100)]) > 0.9


def test_sets_are_mixed_with_cells_of_the_same_perturbation():
    rows = [SetSchedule(TWO, 10, 4, 0, mix=0.5).rows(k) for k in range(50)]
    shares = np.concatenate([r.share for r in rows])
    assert 0.3 < (shares == 0).mean() < 0.7 and 0 < shares.max() <= 1
    other = np.concatenate([r.other_observed for r in rows])
    labels = np.concatenate([np.repeat(r.perturbations, r.sizes) for r in rows])
    assert set(np.unique(other[labels == 2])) <= set(range(920, 940))
    assert {int(x >= 900) for x in other[labels == 1]} == {0, 1}


def test_mixed_cells_are_weighted_sums():
    values = np.random.default_rng(0).random((940, 3)).astype(np.float32)
    cells = TrainingCells(DenseFeatures(values), None, ("c", "p", "q"), (), (), (), np.full(940, -1), {})
    rows = SetSchedule(TWO, 10, 4, 0, paired=True, mix=1.0).rows(0)
    made = gather(cells, rows)
    share = rows.share[:, None]
    assert made.basal == pytest.approx((1 - share) * values[rows.basal] + share * values[rows.other_basal], abs=1e-6)
    assert made.observed == pytest.approx((1 - share) * values[rows.observed] + share * values[rows.other_observed], abs=1e-6)
    assert (made.basal[:10] == made.basal[10:20]).all()


def test_validation_sets_are_fixed_and_take_turns():
    rows = validation_rows(GROUPS, 10, 4, 0)
    assert (validation_rows(GROUPS, 10, 4, 0).observed == rows.observed).all()
    assert len(rows.perturbations) == 4 and set(rows.perturbations[:3]) == {0, 1, 2}
    assert len(validation_rows(GROUPS, 10, 99, 0).perturbations) == 4 + 1 + 1
    assert validation_rows((), 10, 4, 0) is None
