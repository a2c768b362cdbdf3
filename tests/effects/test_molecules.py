"""Cells moved by molecules: the mean is met exactly, cells stay like measured ones, and the draws are those of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.effects.apply import Moving, apply_effect
from state_engine.effects.molecules import molecule, moved_to, whole_molecules

TOTAL = 1e4


def cells(n: int = 300, g: int = 80, seed: int = 0, depth: float = 800.0) -> tuple[np.ndarray, np.ndarray]:
    """log1p cells, and their counts."""
    rng = np.random.default_rng(seed)
    rates = rng.dirichlet(np.full(g, 0.4))
    counts = rng.poisson(rng.lognormal(np.log(depth), 0.4, n)[:, None] * rates)
    counts[:, 0] += 1  # a gene that each cell has
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * TOTAL).astype(np.float32), counts


def test_the_mean_is_met_exactly_and_zeros_stay_zeros() -> None:
    basal, _ = cells()
    effect = np.random.default_rng(1).normal(0, 0.2, basal.shape[1])
    added = apply_effect(basal, effect)
    found = Moving.of(basal, TOTAL, 3).cells(basal, added, ("p", "c"))
    np.testing.assert_allclose(found.mean(axis=0, dtype=np.float64), added.mean(axis=0, dtype=np.float64), atol=1e-6)
    assert found.dtype == np.float32 and found.min() >= 0
    # adding gives every cell a little of each rising gene; molecules give some cells one more
    assert (added > 0).mean() > 0.85 and abs((found > 0).mean() - (basal > 0).mean()) < 0.1


def test_what_moves_are_whole_molecules_but_one_of_each_gene() -> None:
    basal, _ = cells()
    effect = np.random.default_rng(1).normal(0, 0.2, basal.shape[1])
    found = Moving("molecules", TOTAL).cells(basal, apply_effect(basal, effect), ("p", "c"))
    multiples = np.expm1(found, dtype=np.float64) / molecule(basal)[:, None]
    part = np.abs(multiples - np.rint(multiples)) > 1e-3 * np.maximum(multiples, 1)
    assert part.sum(axis=0).max() <= 1


def test_no_effect_changes_nothing_to_the_bit() -> None:
    basal, _ = cells()
    np.testing.assert_array_equal(Moving("molecules", TOTAL).cells(basal, basal.copy(), ("p", "c")), basal)


def test_a_gene_may_vanish_or_come_from_nothing() -> None:
    basal, _ = cells()
    basal[:, 5] = 0
    target = basal.mean(axis=0, dtype=np.float64)
    target[5], target[7] = 1.5, 0.0
    found = moved_to(basal, target, np.random.default_rng(0))
    assert found[:, 5].mean(dtype=np.float64) == pytest.approx(1.5, abs=1e-6) and not found[:, 7].any()
    rest = np.delete(np.arange(basal.shape[1]), [5, 7])
    np.testing.assert_array_equal(found[:, rest], basal[:, rest])


def test_no_gene_is_raised_above_what_a_cell_holds() -> None:
    basal, _ = cells()
    most = np.log1p(TOTAL)
    for target in (most * 0.98, most * 2):  # beyond what there can be: as much as there can be
        means = np.full(basal.shape[1], target)
        found = Moving("molecules", TOTAL).cells(basal, np.repeat(means[None], len(basal), axis=0).astype(np.float32), ("p", "c"))
        assert found.max() <= most * (1 + 1e-6)
        assert found.mean() == pytest.approx(min(target, most), abs=0.02)


def test_a_gene_may_come_near_all_that_a_cell_holds() -> None:
    basal, _ = cells()
    added = basal.copy()
    added[:, 3] = 0.9 * np.log1p(TOTAL)
    found = Moving("molecules", TOTAL).cells(basal, added, ("p", "c"))
    assert found.max() <= np.log1p(TOTAL) * (1 + 1e-6)
    assert found[:, 3].mean(dtype=np.float64) == pytest.approx(0.9 * np.log1p(TOTAL), abs=1e-5)


def test_draws_are_those_of_seed_condition_and_block() -> None:
    basal, _ = cells()
    added = apply_effect(basal, np.full(basal.shape[1], 0.3))
    one = Moving("molecules", TOTAL, 1)
    np.testing.assert_array_equal(one.cells(basal, added, ("p", "c")), one.cells(basal, added, ("p", "c")))
    others = [
        Moving("molecules", TOTAL, 2).cells(basal, added, ("p", "c")),
        one.cells(basal, added, ("q", "c")),
        one.cells(basal, added, ("p", "d")),
        one.cells(basal, added, ("p", "c"), 300),
    ]
    assert all((other != one.cells(basal, added, ("p", "c"))).any() for other in others)


def test_deeper_cells_get_more_molecules() -> None:
    basal, counts = cells()
    found = moved_to(basal, basal.mean(axis=0, dtype=np.float64) + 0.3, np.random.default_rng(0))
    step = molecule(basal)
    gained = ((np.expm1(found, dtype=np.float64) - np.expm1(basal, dtype=np.float64)) / step[:, None]).sum(axis=1)
    assert np.corrcoef(gained, counts.sum(axis=1))[0, 1] > 0.9


def test_values_that_are_no_counts_have_the_effect_added() -> None:
    basal, _ = cells()
    assert whole_molecules(basal)
    smooth = np.random.default_rng(0).random((50, 40)).astype(np.float32)
    assert not whole_molecules(smooth) and Moving.of(smooth, None, 0).way == "added"
    added = apply_effect(smooth, np.full(40, 0.1))
    np.testing.assert_array_equal(Moving.of(smooth, None, 0).cells(smooth, added, ("p", "c")), added)
    assert not whole_molecules(np.zeros((3, 4), np.float32))


def test_cells_of_a_mixture_hold_no_more_than_measured_ones() -> None:
    basal, _ = cells()
    added = apply_effect(basal, np.full(basal.shape[1], 1.0))
    found = Moving("molecules", TOTAL).cells(basal, added, ("p", "c"), within=True)
    assert np.expm1(found, dtype=np.float64).sum(axis=1).max() <= TOTAL * (1 + 2e-4)
    assert np.expm1(Moving("molecules", TOTAL).cells(basal, added, ("p", "c")), dtype=np.float64).sum(axis=1).max() > TOTAL * 1.5


def test_cells_are_closer_to_measured_ones_than_with_the_effect_added() -> None:
    """A gene twice as frequent in the rates: the share of cells that express it, and their values, are nearly those of measured cells."""
    basal, _ = cells(2000, depth=300)
    rng = np.random.default_rng(0)
    rates = rng.dirichlet(np.full(80, 0.4))
    more = rates * np.where(np.arange(80) % 2, 2.0, 0.5)
    counts = rng.poisson(rng.lognormal(np.log(300), 0.4, 2000)[:, None] * more / more.sum())
    counts[:, 0] += 1
    truth = np.log1p(counts / counts.sum(axis=1, keepdims=True) * TOTAL).astype(np.float32)
    added = apply_effect(basal, truth.mean(axis=0, dtype=np.float64) - basal.mean(axis=0, dtype=np.float64))
    moved = Moving("molecules", TOTAL).cells(basal, added, ("p", "c"))
    far = {
        name: np.abs((found > 0).mean(axis=0) - (truth > 0).mean(axis=0)).mean() for name, found in (("a", added), ("m", moved))
    }
    assert far["m"] < 0.03 < 0.1 < far["a"]
