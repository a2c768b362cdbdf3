"""p and q of a screen: a null screen finds no more than its FDR, and where the truth is known it is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from state_engine.metrics.rank_tests import q_values
from state_engine.screening.goals import HeadGoal, TargetGoal
from state_engine.screening.null import FDR, control_groups, group_size, p_values
from state_engine.screening.request import ScreenRequest
from state_engine.screening.signature import Signature, signature_of

GENES = tuple(f"G{i}" for i in range(300))
SCREENS, PERTURBATIONS = 40, 100


def controls(rng: np.random.Generator, n: int = 400) -> np.ndarray:
    """Control cells whose genes move together by a few programs, as those of real cells do."""
    programs = np.random.default_rng(5).normal(size=(4, len(GENES)))
    return (2 + rng.normal(size=(n, 4)) @ programs * 0.5 + rng.normal(size=(n, len(GENES)))).astype(np.float32)


def signature(rng: np.random.Generator, n: int = 30) -> Signature:
    names = rng.permutation(GENES)[: 2 * n].tolist()
    return signature_of(ScreenRequest("d", "m", up_genes=tuple(names[:n]), down_genes=tuple(names[n:])), GENES)


def split_effects(cells: np.ndarray, size: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Effects of perturbations that do nothing: means of other control cells minus those of control cells."""
    return np.concatenate([(g.first - g.second) @ cells for g in control_groups(len(cells), size, n, rng)])


def test_groups_do_not_overlap_and_are_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    groups = list(control_groups(20, 6, 1200, rng))
    first, second = (np.concatenate([getattr(g, part) for g in groups]) > 0 for part in ("first", "second"))
    assert first.shape == (1200, 20) and (first.sum(1) == 6).all() and (second.sum(1) == 6).all() and not (first & second).any()
    for part in (first, second):
        assert stats.chisquare(part.sum(0)).pvalue > 1e-3
    assert (group_size(5, 9), group_size(6, 9), group_size(40, 9)) == (0, 3, 9)


def test_p_is_a_share_of_comparisons_and_goes_on_beyond_them() -> None:
    null = np.arange(1, 101, dtype=float)
    np.testing.assert_allclose(p_values(np.array([0.5, 50.5, np.nan]), null), [1.0, 51 / 101, np.nan])
    wide = np.random.default_rng(1).normal(size=20_000)
    for z in (3.5, 4.0, 5.0):
        # the tail of a normal falls off faster than the exponential one: p is too large, never too small
        found = p_values(np.array([z]), wide)[0]
        assert stats.norm.sf(z) < found < 100 * stats.norm.sf(z) ** 0.75
    assert np.isnan(p_values(np.array([1.0]), np.array([]))).all()
    assert q_values(np.array([0.01, np.nan, 0.02]))[[0, 2]].tolist() == [0.02, 0.02]


def test_a_null_screen_finds_no_more_than_its_fdr() -> None:
    """In each of 40 screens 100 perturbations do nothing: they are other control cells. At most 5 % of the screens may find any."""
    found = {"signature": 0, "target": 0, "head": 0}
    below = []
    for number in range(SCREENS):
        rng = np.random.default_rng([7, number])
        cells, size = controls(rng), 60
        wanted = signature(rng)
        effects = split_effects(cells, size, PERTURBATIONS, rng)
        null = np.concatenate([wanted.null(g, cells) for g in control_groups(len(cells), size, 1000, rng)])
        p = np.maximum(p_values(wanted.scores(effects), null), wanted.permuted(effects, rng))
        found["signature"] += bool((q_values(p) < FDR).any())
        below.append((p < 0.05).mean())
        if number < SCREENS // 2:
            goals = TargetGoal(cells, cells[:80] + 0.5, 0), HeadGoal(1 / (1 + np.exp(-cells[:, :1])))
            for goal, name in zip(goals, ("target", "head"), strict=True):
                scores = np.concatenate([goal.null(g) for g in control_groups(len(cells), 30, PERTURBATIONS, rng)])
                null = np.concatenate([goal.null(g) for g in control_groups(len(cells), 30, 1000, rng)])
                found[name] += bool((q_values(p_values(scores, null)) < FDR).any())
    # of 40 (20) screens 2 (1) are expected at most; 6 (4) and more would happen in less than 1 of 70 (60)
    assert found["signature"] <= 5 and found["target"] <= 3 and found["head"] <= 3, found
    assert np.mean(below) < 0.06


def test_a_prediction_that_does_nothing_is_not_called() -> None:
    wanted = signature(np.random.default_rng(0))
    effects = np.zeros((5, len(GENES)), np.float32)
    assert wanted.scores(effects).tolist() == [0.0] * 5
    assert wanted.permuted(effects, np.random.default_rng(0)).tolist() == [1.0] * 5


@pytest.mark.parametrize("seed", range(5))
def test_the_true_perturbation_is_found(seed: int) -> None:
    """Of 300 perturbations with 20 genes each, one moves 12 of its genes as the signature says: it is first, at FDR 5 %."""
    rng = np.random.default_rng([11, seed])
    cells, k, truth = controls(rng), 300, 17
    effects = split_effects(cells, 128, k, rng).astype(np.float64)
    moved = [rng.choice(len(GENES), 20, replace=False) for _ in range(k)]
    for i, genes in enumerate(moved):
        effects[i, genes] += rng.choice([-1, 1], 20) * 0.6
    up = [g for g in moved[truth] if effects[truth, g] > 0][:6]
    down = [g for g in moved[truth] if effects[truth, g] < 0][:6]
    wanted = signature_of(
        ScreenRequest("d", "m", up_genes=tuple(GENES[i] for i in up), down_genes=tuple(GENES[i] for i in down)), GENES
    )
    scores = wanted.scores(effects)
    null = np.concatenate([wanted.null(g, cells) for g in control_groups(len(cells), 128, 2000, rng)])
    q = q_values(np.maximum(p_values(scores, null), wanted.permuted(effects, rng)))
    assert (scores > scores[truth]).sum() < 0.01 * k and q[truth] < FDR
    assert (q < FDR).sum() <= 3, "the others share no genes with the signature but by chance"


def test_target_cells_are_closer_by_the_energy_distance() -> None:
    rng = np.random.default_rng(2)
    cells = controls(rng)
    shift = np.zeros(len(GENES), np.float32)
    shift[:40] = 1.5
    goal = TargetGoal(cells, controls(rng, 200) + shift, 0)
    basal = cells[:60]
    half, full, away = (goal.score(basal + f * shift, basal).score for f in (0.5, 1.0, -0.5))
    assert away < 0 < half < full <= 1.1 and full > 0.8
    assert goal.score(basal, basal).score == 0
    # the quick formula of the comparisons is the energy distance itself
    groups = next(control_groups(len(cells), 60, 5, rng))
    direct = [goal.score(cells[b > 0], cells[a > 0]).score for a, b in zip(groups.first, groups.second, strict=True)]
    np.testing.assert_allclose(goal.null(groups), direct, atol=1e-4)
