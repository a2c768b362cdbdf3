"""The common map of a comparison: a sample of the cells of each pair, placed on one UMAP, and kept for the test of a selection.

The sample is taken while pairs are compared, so that no more of them is in memory than the map needs, however many pairs there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.comparison.report import CELLS, MAP, CellsMap
from state_engine.comparison.sides import Cells
from state_engine.files import replacing
from state_engine.plain import plural
from state_engine.progress import OnProgress, Progress

MAP_CELLS: Final = 2000  # of each side, controls among them
MAP_BYTES: Final = 128 << 20  # of the expression that is kept
LEAST_EACH: Final = 5  # cells of a condition, and of its control, below which a pair would not be seen


class MapSample:
    """Cells of the pairs of a comparison, at most `MAP_CELLS` of each side and `MAP_BYTES` in all.

    Where there are so many pairs that fewer than `LEAST_EACH` cells would be left of each, the first of them alone are on the map.
    """

    def __init__(self, pairs: int, genes: int, seed: int) -> None:
        room = min(MAP_CELLS, MAP_BYTES // (2 * 4 * genes))  # cells of each side
        self._each = max(LEAST_EACH, room // (2 * max(1, pairs)))  # of a condition, and of its control
        self._pairs = max(1, room // (2 * self._each))
        self._rng, self._seed = np.random.default_rng(seed), seed
        self._values: list[NDArray[np.float32]] = []
        self._labels: list[tuple[int, int, int]] = []  # side, place of the pair, control
        self.left_out = 0

    def add(self, pair: int, cells: tuple[Cells, Cells]) -> None:
        """Take a sample of the cells of a pair.

        Args:
            pair: its place among those that could be compared.
        """
        if pair >= self._pairs:
            self.left_out += 1
            return
        for side, one in enumerate(cells):
            for control, values in enumerate((one.own, one.control)):
                n = min(self._each, len(values))
                # a copy of these rows: a view would keep all of them
                self._values.append(values[np.sort(self._rng.choice(len(values), n, replace=False))])
                self._labels.append((side, pair, control))

    @property
    def remarks(self) -> list[str]:
        """What is not on the map."""
        if not self.left_out:
            return []
        return [
            f"The map has the cells of the first {plural(self._pairs, 'pair')}; {self.left_out:,} more would be too many cells."
        ]

    def write(self, output: Path, on_progress: OnProgress) -> None:
        """Place the cells of both sides on one UMAP, and write it with their expression into the folder of the comparison."""
        from state_engine.analysis.projection import place

        on_progress(Progress("Computing the map"))
        labels = np.repeat(np.array(self._labels), [len(values) for values in self._values], axis=0)
        values = np.vstack(self._values)
        self._values.clear()
        with replacing(output / CELLS) as beside, beside.open("wb") as file:
            np.save(file, values)
        # control cells belong to several pairs; a cell that is its own neighbour would tear the map apart
        cells_once, at = np.unique(values, axis=0, return_inverse=True)
        del values
        xy = place(cells_once, self._seed).xy[at.ravel()]
        CellsMap(xy, labels[:, 0].astype(np.int8), labels[:, 1].astype(np.int32), labels[:, 2].astype(bool)).save(output / MAP)
