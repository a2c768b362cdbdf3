"""Move cells to a mean by whole molecules: what an effect adds is drawn cell by cell, what it removes is taken away, the mean is met exactly.

A constant added to the logarithms of all cells gives each of them a little of every gene that rises, and the cells that expressed it already the
full effect on top: no measured cell looks so. Here a rising gene gains single molecules in cells that are drawn (deeper cells more often), until
the mean is what the effect says; a falling gene loses single molecules, drawn among all that its cells have. The last molecule of a gene is a part of
one, so that the mean is exact. How much one molecule is shows in each cell: the smallest amount that it has of any gene.

The mean after an effect is that of `effects.apply`, whichever way the cells get there.
Boundary: numpy only.

Notation: n cells, g genes, q molecules.
"""

from __future__ import annotations

from typing import Final

import numpy as np

ROUNDS: Final = 64  # of draws; each halves what is missing at least in practice
MOST_AT_ONCE: Final = 4_000_000  # molecules drawn, or sorted, together
MOST_OF_A_CELL: Final = 1_000_000  # molecules
SMALLEST: Final = 1e-9  # of the sum of a gene over all cells: not worth a molecule
DUST: Final = 1e-6  # part of a molecule
MULTIPLES: Final = 100  # larger multiples are within rounding of a whole number anyway
ROUNDING: Final = 2e-3
WHOLE: Final = 0.95  # share of a cell's values that must be whole multiples


def moved_to(
    cells: np.ndarray, target: np.ndarray, rng: np.random.Generator, most: float = np.inf, step: np.ndarray | None = None
) -> np.ndarray:
    """Return cells moved by molecules so that their mean becomes the target.

    Args:
        cells: (n, g) log1p expression, not below 0.
        target: (g,) mean of the log1p values afterwards, not below 0.
        rng: of the draws.
        most: natural value that no gene of a cell is raised above.
        step: (n,) natural amount of one molecule of each cell; None for what the cells show.
    """
    amounts = np.expm1(cells, dtype=np.float64)
    step = molecule(cells) if step is None else step
    # a cell of more molecules than any has is read as one of as many
    step = np.maximum(step, amounts.sum(axis=1) / MOST_OF_A_CELL)
    missing = len(cells) * (target - cells.mean(axis=0, dtype=np.float64))
    touched = np.abs(missing) > SMALLEST
    _add(amounts, step, np.flatnonzero(touched & (missing > 0)), missing, most, rng)
    _remove(amounts, step, np.flatnonzero(touched & (missing < 0)), -missing, rng)
    moved = cells.copy()
    moved[:, touched] = np.log1p(amounts[:, touched])
    return moved


def whole_molecules(cells: np.ndarray) -> bool:
    """Return whether log1p cells (n, g) are made of counts: in most cells, nearly all values are whole multiples of the smallest."""
    amounts = np.expm1(cells, dtype=np.float64)
    multiples = amounts / molecule(cells)[:, None]
    told = (multiples > 0) & (multiples < MULTIPLES)
    # float32 keeps seven digits; the tolerance grows with the multiple
    whole = told & (np.abs(multiples - np.rint(multiples)) < ROUNDING * np.maximum(multiples, 1))
    each = whole.sum(axis=1)[told.any(axis=1)] / told.sum(axis=1)[told.any(axis=1)]
    return bool(len(each)) and float(np.median(each)) >= WHOLE


def molecule(cells: np.ndarray) -> np.ndarray:
    """Return the natural amount of one molecule of each cell (n, g), (n,): its smallest; the median of the others for an empty cell."""
    smallest = np.expm1(cells.min(axis=1, where=cells > 0, initial=np.inf), dtype=np.float64)
    there = np.isfinite(smallest)
    return np.where(there, smallest, np.median(smallest[there]) if there.any() else 1.0)


def _add(
    amounts: np.ndarray, step: np.ndarray, genes: np.ndarray, missing: np.ndarray, most: float, rng: np.random.Generator
) -> None:
    """Add molecules of some genes, in place, until the logarithms have grown by what is missing of each gene, (g,)."""
    left = missing[genes]
    # as much is added to each cell in expectation: a cell of many molecules, each of which is little, gets more of them
    chance = np.cumsum(1 / step)
    chance /= chance[-1]
    for _ in range(ROUNDS):
        # what one more molecule of each cell adds in the mean; a gene that has no room left stays short
        here = amounts[:, genes]
        usual = np.log1p(np.clip(most - here, 0, step[:, None]) / (1 + here)).mean(axis=0)
        going = (left > SMALLEST) & (usual > 0)
        genes, left, usual = genes[going], left[going], usual[going]
        if not len(genes):
            return
        wanted = np.minimum(np.ceil(left / usual), MOST_AT_ONCE // len(genes) + 1).astype(np.int64)
        of = np.repeat(np.arange(len(genes)), wanted)
        picked = np.minimum(np.searchsorted(chance, rng.random(len(of))), len(step) - 1)
        before = np.minimum(amounts[picked, genes[of]] + _earlier(of * len(step) + picked) * step[picked], most)
        given = np.minimum(step[picked], most - before)
        risen = np.log1p(given / (1 + before))
        within, (at, rest) = _until(risen, of, wanted, left)
        np.add.at(amounts, (picked[within], genes[of[within]]), given[within])
        # a part of a molecule where a whole one would be too much
        np.add.at(amounts, (picked[at], genes[of[at]]), (1 + before[at]) * np.expm1(rest))
        left = left - np.bincount(of[within], risen[within], len(genes))
        left[of[at]] = 0


def _remove(amounts: np.ndarray, step: np.ndarray, genes: np.ndarray, missing: np.ndarray, rng: np.random.Generator) -> None:
    """Take molecules of some genes away, in place, until the logarithms have fallen by what is missing of each gene, (g,)."""
    counts = np.ceil(amounts[:, genes] / step[:, None] - 1e-3).astype(np.int64)
    whole = counts.sum(axis=0)
    for part in np.split(np.arange(len(genes)), np.flatnonzero(np.diff(np.cumsum(whole) // MOST_AT_ONCE)) + 1):
        own = counts[:, part]
        of = np.repeat(np.arange(len(part)), whole[part])
        picked = np.repeat(np.tile(np.arange(len(own)), len(part)), own.T.ravel())
        # in an order of chance within each gene
        picked = picked[np.argsort(of + rng.random(len(of)))]
        earlier = _earlier(of * len(step) + picked)
        before = amounts[picked, genes[part][of]] - earlier * step[picked]
        # the last one of a cell is all that it has left, since logarithms were rounded
        taken = np.where(earlier == own[picked, of] - 1, before, step[picked])
        fallen, (at, rest) = _until(-np.log1p(-taken / (1 + before)), of, whole[part], missing[genes[part]])
        np.subtract.at(amounts, (picked[fallen], genes[part][of[fallen]]), taken[fallen])
        amounts[picked[at], genes[part][of[at]]] += (1 + before[at]) * np.expm1(-rest)
    # what rounding leaves of a cell's last molecule is none
    amounts[amounts < DUST * step[:, None]] = 0


def _earlier(keys: np.ndarray) -> np.ndarray:
    """Return how often each key stands before its place, (q,)."""
    order = np.argsort(keys, kind="stable")
    first = np.flatnonzero(np.diff(keys[order], prepend=-1))
    found = np.empty(len(keys), np.int64)
    found[order] = np.arange(len(keys)) - np.repeat(first, np.diff(first, append=len(keys)))
    return found


def _until(
    steps: np.ndarray, of: np.ndarray, lengths: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return which steps (q,) of each gene, in their order, stay within its limit; and the first beyond, with what of it is still missing.

    Args:
        steps: (q,), those of a gene side by side.
        of: (q,) number of their gene.
        lengths: of each gene.
        limit: of each gene.
    """
    sums = np.cumsum(steps)
    starts = np.cumsum(lengths) - lengths
    before = sums - steps
    some = np.flatnonzero(lengths)
    base = np.zeros(len(lengths))
    base[some] = before[starts[some]]
    sums, before = sums - base[of], before - base[of]
    within = sums <= limit[of]
    first = np.flatnonzero(~within & (before <= limit[of]))
    return np.flatnonzero(within), (first, limit[of[first]] - before[first])
