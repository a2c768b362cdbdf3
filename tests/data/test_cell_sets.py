"""Drawing basal cells, cutting sets, and the reference's own draws."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.data.cell_sets import draw_basal, replay_plan, windows
from state_engine.errors import LabelError, RequestError


def test_basal_cells_are_drawn_once_while_the_pool_lasts() -> None:
    pool = np.arange(100, 130)
    drawn = draw_basal(pool, 30, np.random.default_rng(0))
    assert sorted(drawn) == pool.tolist()
    assert drawn.tolist() != pool.tolist()
    more = draw_basal(pool, 75, np.random.default_rng(0))
    assert more[:30].tolist() == drawn.tolist()
    assert len(more) == 75
    assert set(more[30:]) <= set(pool)
    assert len(set(more[30:])) < 45
    assert draw_basal(pool, 7, np.random.default_rng(0)).tolist() == drawn[:7].tolist()
    assert draw_basal(pool, 30, np.random.default_rng(1)).tolist() != drawn.tolist()


def test_nothing_to_draw_from() -> None:
    with pytest.raises(LabelError, match="no control cells"):
        draw_basal(np.array([], dtype=int), 1, np.random.default_rng(0))
    with pytest.raises(RequestError):
        draw_basal(np.arange(3), -1, np.random.default_rng(0))
    assert len(draw_basal(np.array([], dtype=int), 0, np.random.default_rng(0))) == 0


def test_windows_are_consecutive_and_the_last_may_be_short() -> None:
    assert [w.tolist() for w in windows(np.arange(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [w.tolist() for w in windows(np.arange(6), 3)] == [[0, 1, 2], [3, 4, 5]]
    assert windows(np.arange(0), 3) == []
    with pytest.raises(RequestError):
        windows(np.arange(3), 0)


def test_replay_draws_as_the_reference_does() -> None:
    rng = np.random.default_rng(3)
    perturbations = rng.choice(["b", "control", "A"], 50)
    contexts = rng.choice(["y", "X", "z"], 50)
    perturbations[(contexts == "z") & (perturbations == "control")] = "b"  # z has no controls of its own
    expected = np.random.RandomState(5)
    controls = np.flatnonzero(perturbations == "control")
    seen = []
    plan = iter(replay_plan(perturbations, contexts, "control", 4, seed=5))
    for context in ("X", "y", "z"):  # capital letters sort first
        pool = controls if context == "z" else controls[contexts[controls] == context]
        for perturbation in ("A", "b", "control"):
            rows = [i for i in range(50) if contexts[i] == context and perturbations[i] == perturbation]
            for start in range(0, len(rows), 4):
                window = next(plan)
                assert (window.context, window.perturbation) == (context, perturbation)
                assert window.target.tolist() == rows[start : start + 4]
                assert window.basal.tolist() == expected.choice(pool, len(window.target), replace=True).tolist()
                seen += window.target.tolist()
    assert next(plan, None) is None
    assert sorted(seen) == list(range(50))


def test_replay_needs_labels_and_controls() -> None:
    labels, one = np.array(["A", "control", ""]), np.array(["c", "c", "c"])
    with pytest.raises(LabelError, match="1 cells have no perturbation label"):
        replay_plan(labels, one, "control", 2)
    with pytest.raises(LabelError, match=r"No cell has the control label 'DMSO'.*A, control"):
        replay_plan(labels[:2], one[:2], "DMSO", 2)
