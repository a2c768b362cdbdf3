"""Which cells a step sees, and having them ready in time.

Mini-batch k depends on the seed and k alone, so that a training that was cut off goes on as if it had not been. A pass takes
every group as often as its cells fill sets (at least once), in an order drawn anew for each pass. Cells of a set are drawn
without repeats; a group smaller than the set gives each of its cells once, then some again.

Boundary: row numbers and numpy arrays; a thread of its own gathers mini-batches ahead of the one who asks.

Notation: b sets, s cells in a set, g features.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from state_engine.train.cells import Group, TrainingCells

AHEAD = 4
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SetRows:
    """Rows of some sets: basal and observed cells (b, s), and the perturbation of each set (b,)."""

    basal: np.ndarray
    observed: np.ndarray
    perturbations: np.ndarray


@dataclass(frozen=True, eq=False)
class SetCells:
    """The cells of some sets.

    Args:
        basal, observed: (b, s, g) float32.
        perturbations: (b,) int64.
        batches: (b, s) int64, of the observed cells; 0 where there are none.
        targets: (b, s, genes) expression of the observed cells, or None.
    """

    basal: np.ndarray
    observed: np.ndarray
    perturbations: np.ndarray
    batches: np.ndarray
    targets: np.ndarray | None


class SetSchedule:
    """The sets of every step.

    Args:
        groups: to draw from.
        set_size: s.
        sets_a_step: b.
        seed: of everything.
    """

    def __init__(self, groups: tuple[Group, ...], set_size: int, sets_a_step: int, seed: int) -> None:
        self.groups, self.set_size, self.sets_a_step, self.seed = groups, set_size, sets_a_step, seed
        self.turns = np.repeat(np.arange(len(groups)), [-(-len(g.cells) // set_size) for g in groups])
        self._order = lru_cache(maxsize=2)(self._order_of_pass)

    @property
    def steps_a_pass(self) -> float:
        """Steps in which every group has had its turns."""
        return len(self.turns) / self.sets_a_step

    def rows(self, step: int, share: slice = slice(None)) -> SetRows:
        """The sets of a step, counted from 0; `share` takes some of them."""
        rng = np.random.default_rng([self.seed, 0, step])
        first = step * self.sets_a_step
        turns = [
            self.turns[self._order(at // len(self.turns))[at % len(self.turns)]] for at in range(first, first + self.sets_a_step)
        ]
        chosen = [self.groups[turn] for turn in turns]
        drawn = [(draw(g.controls, self.set_size, rng), draw(g.cells, self.set_size, rng)) for g in chosen]
        labels = np.array([g.perturbation for g in chosen], dtype=np.int64)
        return SetRows(np.stack([b for b, _ in drawn])[share], np.stack([o for _, o in drawn])[share], labels[share])

    def _order_of_pass(self, number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 1, number]).permutation(len(self.turns))


def draw(pool: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of a set, (size,): without repeats when the pool is large enough, else each once and some again."""
    if len(pool) >= size:
        return rng.choice(pool, size, replace=False)
    return np.concatenate([pool, rng.choice(pool, size - len(pool), replace=True)])


def validation_rows(groups: tuple[Group, ...], set_size: int, most: int, seed: int) -> SetRows | None:
    """Sets that stay the same all through a training: of each group in turn, until there are `most` or cells run out.

    Groups come in an order drawn by the seed. None without groups.
    """
    rng = np.random.default_rng([seed, 2])
    order = [groups[i] for i in rng.permutation(len(groups))]
    left = [max(1, len(g.cells) // set_size) for g in order]
    chosen: list[Group] = []
    while len(chosen) < most and any(left):
        for i, group in enumerate(order):
            if left[i] and len(chosen) < most:
                left[i] -= 1
                chosen.append(group)
    if not chosen:
        return None
    basal = np.stack([draw(g.controls, set_size, rng) for g in chosen])
    observed = np.stack([draw(g.cells, set_size, rng) for g in chosen])
    return SetRows(basal, observed, np.array([g.perturbation for g in chosen], dtype=np.int64))


def gather(cells: TrainingCells, rows: SetRows) -> SetCells:
    """The cells of some sets."""
    shape = rows.basal.shape
    basal, observed = (cells.features.gather(r.ravel()).reshape(*shape, -1) for r in (rows.basal, rows.observed))
    targets = None if cells.targets is None else cells.targets.gather(rows.observed.ravel()).reshape(*shape, -1)
    batches = np.maximum(cells.batch[rows.observed], 0).astype(np.int64)
    return SetCells(basal, observed, rows.perturbations, batches, targets)


class Ahead(Iterator[T]):
    """Items 0, 1, ... of a function, made in a thread before they are asked for.

    Args:
        make: item k.
        start, stop: which ones.
        ahead: most items that wait.

    What `make` raises is raised where the item is asked for. `waited` is the time (s) spent waiting for items after the first.
    """

    def __init__(self, make: Callable[[int], T], start: int, stop: int, ahead: int = AHEAD) -> None:
        self.waited = 0.0
        self._left = stop - start
        self._first = True
        self._items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make, start, stop), name="mini-batches", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._left <= 0:
            raise StopIteration
        began = time.perf_counter()
        item, error = self._items.get()
        if not self._first:
            self.waited += time.perf_counter() - began
        self._first = False
        self._left -= 1
        if error is not None:
            self._left = 0
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread; what waits is dropped."""
        self._closed.set()
        self._left = 0
        self._thread.join()

    def _work(self, make: Callable[[int], T], start: int, stop: int) -> None:
        for k in range(start, stop):
            try:
                ready: tuple[T | None, BaseException | None] = (make(k), None)
            except BaseException as error:  # noqa: BLE001 - handed to the one who asks
                ready = (None, error)
            while not self._closed.is_set():
                try:
                    self._items.put(ready, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set() or ready[1] is not None:
                return
