"""Which cells a training step sees.

Mini-batch k depends on the seed and k alone, so that a training that was cut off goes on as if it had not been. A pass takes
every group as often as its cells fill sets (at least once), in an order of its own for each pass; or each set's context is drawn,
all alike, and then the group. Cells of a set are drawn without repeats; a group smaller than the set gives a smaller set, or (`fill`)
each of its cells once, then some again.

Boundary: row numbers and numpy arrays; `state_engine.data.ahead` has them gathered while a step is computed.

Notation: b sets, s cells in a full set, n cells of all sets of a mini-batch, set after set, g features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from state_engine.train.cell_features import CellFeatures
from state_engine.train.cells import Group, TrainingCells
from state_engine.train.request import Balance


@dataclass(frozen=True, eq=False)
class SetRows:
    """Rows of some sets, set after set.

    Args:
        sizes: (b,) cells of each set.
        perturbations: (b,).
        basal, observed: (n,).
        share: (n,) part of other cells that is mixed in, 0 to 1; None where nothing is mixed.
        other_basal, other_observed: (n,) these cells.
    """

    sizes: np.ndarray
    perturbations: np.ndarray
    basal: np.ndarray
    observed: np.ndarray
    share: np.ndarray | None = None
    other_basal: np.ndarray | None = None
    other_observed: np.ndarray | None = None

    def part(self, which: slice) -> SetRows:
        """Return some of the sets, which lie together."""
        first, behind, _ = which.indices(len(self.sizes))
        edges = np.concatenate([[0], np.cumsum(self.sizes)])
        cells = slice(int(edges[first]), int(edges[behind]))
        of_cells = (self.basal, self.observed, self.share, self.other_basal, self.other_observed)
        return SetRows(
            self.sizes[which],
            self.perturbations[which],
            *(None if v is None else v[cells] for v in of_cells),  # type: ignore[arg-type]
        )


@dataclass(frozen=True, eq=False)
class SetCells:
    """The cells of some sets, set after set.

    Args:
        sizes: (b,) cells of each set.
        perturbations: (b,) int64.
        basal, observed: (n, g) float32.
        batches: (n,) int64, of the observed cells; 0 where there are none.
        targets: (n, genes) expression of the observed cells, or None.
    """

    sizes: np.ndarray
    perturbations: np.ndarray
    basal: np.ndarray
    observed: np.ndarray
    batches: np.ndarray
    targets: np.ndarray | None


class SetSchedule:
    """The sets of every step.

    Args:
        groups: to draw from.
        set_size: s.
        sets_a_step: b.
        seed: of everything.
        paired: each set is followed by one with the same basal cells and controls as observed cells; control groups are not drawn.
        balance: see `TrainRequest`.
        mix: part of the sets (or pairs) that are mixed with cells of the same perturbation, of a context that is drawn for each set.
        fill: see `TrainRequest`.
    """

    def __init__(
        self, groups: tuple[Group, ...], set_size: int, sets_a_step: int, seed: int, paired: bool = False,
        balance: Balance = "cells", mix: float = 0.0, fill: bool = False,
    ) -> None:  # fmt: skip
        self.groups = tuple(g for g in groups if g.perturbation) if paired else groups
        self.set_size, self.seed, self.paired, self.mix, self.fill = set_size, seed, paired, mix, fill
        self.drawn = sets_a_step // 2 if paired else sets_a_step
        # sets that the cells of a group fill, rounded up: its turns in a pass
        counts = [-(-len(g.cells) // set_size) for g in self.groups]
        self.turns = np.repeat(np.arange(len(self.groups)), counts)
        # two orders are kept, since a step can reach from the end of one pass into the next
        self._order = lru_cache(maxsize=2)(lambda number: np.random.default_rng([seed, 1, number]).permutation(len(self.turns)))
        self._contexts = _by_context(self.groups) if balance == "contexts" else None
        self._counts = np.array(counts, dtype=float)
        self._alike = {p: _by_context(self.groups, p) for p in {g.perturbation for g in self.groups}} if mix else {}

    def rows(self, step: int, share: slice = slice(None)) -> SetRows:
        """Return the sets of a step, counted from 0; `share` takes some of them."""
        # a generator for each step, so that no step depends on those before; the middle number tells its uses apart
        rng = np.random.default_rng([self.seed, 0, step])
        if self._contexts is not None:
            places = [_one_of(self._contexts, self._counts, rng) for _ in range(self.drawn)]
        else:
            n, first = len(self.turns), step * self.drawn
            places = [int(self.turns[self._order(at // n)[at % n]]) for at in range(first, first + self.drawn)]
        chosen = [self.groups[i] for i in places]
        sizes = np.array([self.set_size if self.fill else min(self.set_size, len(g.cells)) for g in chosen])
        made = self._drawn_from(chosen, sizes, rng)
        if self.mix:
            others = [self.groups[_one_of(self._alike[g.perturbation], self._counts, rng)] for g in chosen]
            parts = rng.random(self.drawn) * (rng.random(self.drawn) < self.mix)
            second = self._drawn_from(others, sizes, rng)
            shares = np.repeat(np.repeat(parts, 2 if self.paired else 1), made.sizes).astype(np.float32)
            made = replace(made, share=shares, other_basal=second.basal, other_observed=second.observed)
        return made.part(share)

    def _drawn_from(self, groups: list[Group], sizes: np.ndarray, rng: np.random.Generator) -> SetRows:
        of = list(zip(groups, sizes.tolist(), strict=True))
        basal = [draw(g.controls, n, rng) for g, n in of]
        observed = [draw(g.cells, n, rng) for g, n in of]
        labels = np.array([g.perturbation for g in groups], dtype=np.int64)
        if not self.paired:
            return SetRows(sizes, labels, np.concatenate(basal), np.concatenate(observed))
        controls = [draw(g.controls, n, rng) for g, n in of]
        between = [part for pair in zip(observed, controls, strict=True) for part in pair]
        # perturbed, control, perturbed, control …: the sets of a pair share their basal cells and stay side by side
        twice = [part for one in basal for part in (one, one)]
        both = np.stack([labels, np.zeros_like(labels)], axis=1).ravel()
        return SetRows(np.repeat(sizes, 2), both, np.concatenate(twice), np.concatenate(between))


def _by_context(groups: tuple[Group, ...], perturbation: int | None = None) -> list[np.ndarray]:
    """Positions of the groups (of one perturbation) in each context."""
    found: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        if perturbation is None or group.perturbation == perturbation:
            found.setdefault(group.context, []).append(i)
    return [np.array(found[name]) for name in sorted(found)]


def _one_of(contexts: list[np.ndarray], counts: np.ndarray, rng: np.random.Generator) -> int:
    """A group of a context drawn first, contexts all alike, groups by the sets they fill."""
    here = contexts[rng.integers(len(contexts))]
    return int(here[0] if len(here) == 1 else rng.choice(here, p=counts[here] / counts[here].sum()))


def draw(pool: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the cells of a set, (size,): without repeats when the pool is large enough, else each once and some again."""
    if len(pool) >= size:
        return rng.choice(pool, size, replace=False)
    return np.concatenate([pool, rng.choice(pool, size - len(pool), replace=True)])


def validation_rows(groups: tuple[Group, ...], set_size: int, most: int, seed: int, fill: bool = False) -> SetRows | None:
    """Return sets that stay the same all through a training: of each group in turn, until there are `most` or cells run out.

    Groups come in an order drawn by the seed. None without groups.
    """
    rng = np.random.default_rng([seed, 2])
    chosen = _in_turn([groups[i] for i in rng.permutation(len(groups))], set_size, most)
    if not chosen:
        return None
    sizes = [set_size if fill else min(set_size, len(g.cells)) for g in chosen]
    basal = [draw(g.controls, n, rng) for g, n in zip(chosen, sizes, strict=True)]
    observed = [draw(g.cells, n, rng) for g, n in zip(chosen, sizes, strict=True)]
    labels = np.array([g.perturbation for g in chosen], dtype=np.int64)
    return SetRows(np.array(sizes), labels, np.concatenate(basal), np.concatenate(observed))


def _in_turn(order: list[Group], set_size: int, most: int) -> list[Group]:
    """Return groups, each of them again after all others, as often as its cells fill sets (at least once)."""
    left = [max(1, len(g.cells) // set_size) for g in order]
    chosen: list[Group] = []
    while len(chosen) < most and any(left):
        for i, group in enumerate(order):
            if left[i] and len(chosen) < most:
                left[i] -= 1
                chosen.append(group)
    return chosen


def gather(cells: TrainingCells, rows: SetRows) -> SetCells:
    """Read the cells of some sets."""
    targets = None
    if cells.targets is not None:
        targets = _mixed(cells.targets, rows.observed, rows.other_observed, rows.share)
    return SetCells(
        rows.sizes,
        rows.perturbations,
        _mixed(cells.features, rows.basal, rows.other_basal, rows.share),
        _mixed(cells.features, rows.observed, rows.other_observed, rows.share),
        np.maximum(cells.batch[rows.observed], 0).astype(np.int64),
        targets,
    )


def _mixed(features: CellFeatures, rows: np.ndarray, others: np.ndarray | None, share: np.ndarray | None) -> np.ndarray:
    values = features.gather(rows)
    if others is not None and share is not None:
        # where nothing is mixed no second cell is read
        at = np.flatnonzero(share)
        values[at] += share[at, None] * (features.gather(others[at]) - values[at])
    return values
