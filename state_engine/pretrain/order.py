"""In which order the cells of many files are seen: shuffled by a seed, read from disk in runs, the same whenever asked.

Each file is cut into runs of neighbouring cells. A pass takes all runs in an order of its own; some of them together are a window,
whose cells are shuffled. So memory holds a window and not the files, a read is a run and not a cell, and where the stream stands
follows from the number of cells taken: a training that was cut off goes on at the very next cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RUN = 64  # neighbouring cells that are read together
WINDOW = 64  # runs whose cells are shuffled together: 4,096 cells


@dataclass(frozen=True, eq=False)
class Window:
    """Cells in the order in which they are seen: (m,) number of the file, and place among its cells."""

    files: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Position:
    """Where a stream stands: pass and window, counted from 0, and cells taken of that window."""

    epoch: int
    window: int
    cell: int


class CellOrder:
    """The order.

    Args:
        sizes: cells of each file.
        seed: of all shuffles.
    """

    def __init__(self, sizes: tuple[int, ...], seed: int, run: int = RUN, window: int = WINDOW) -> None:
        self.seed, self.total = seed, sum(sizes)
        starts = [np.arange(0, size, run) for size in sizes]
        self._files = np.concatenate([np.full(len(s), i) for i, s in enumerate(starts)])
        self._starts = np.concatenate(starts)
        self._sizes = np.concatenate([np.minimum(run, size - s) for s, size in zip(starts, sizes, strict=True)])
        self._window = window
        # two are kept: a step can reach from the end of one into the next
        self.window = lru_cache(maxsize=2)(self._made)
        self._pass = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, 1, epoch]).permutation(len(self._sizes)))

    def position(self, taken: int) -> Position:
        """Return where the stream stands once so many cells were taken."""
        epoch, inside = divmod(taken, self.total)
        ends = self._ends(epoch)
        window = int(np.searchsorted(ends, inside, side="right"))
        return Position(epoch, window, inside - (int(ends[window - 1]) if window else 0))

    def parts(self, first: int, n: int) -> list[tuple[Position, int]]:
        """Return from which windows n cells come, from the cell number `first` on: positions, and how many from each."""
        found = []
        while n:
            at = self.position(first)
            ends = self._ends(at.epoch)
            left = int(ends[at.window]) - (int(ends[at.window - 1]) if at.window else 0) - at.cell
            found.append((at, min(n, left)))
            first, n = first + found[-1][1], n - found[-1][1]
        return found

    def _ends(self, epoch: int) -> np.ndarray:
        """Cells up to the end of each window of a pass."""
        ends = np.cumsum(self._sizes[self._pass(epoch)])
        last = np.arange(self._window - 1, len(ends) + self._window - 1, self._window)
        return ends[np.minimum(last, len(ends) - 1)]

    def _made(self, epoch: int, window: int) -> Window:
        runs = self._pass(epoch)[window * self._window : (window + 1) * self._window]
        sizes = self._sizes[runs]
        files = np.repeat(self._files[runs], sizes)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(self._starts[runs], sizes) + within
        mixed = np.random.default_rng([self.seed, 2, epoch, window]).permutation(len(files))
        return Window(files[mixed], places[mixed])
