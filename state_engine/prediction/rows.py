"""Where each cell lies in a result, and what obs says of it: one table, built once, that both places and labels come from.

Rows are [predicted | predicted control | observed control | observed], in each by context, then perturbation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.prediction.draw import DrawnCells

PREDICTED_KINDS = (keys.PREDICTED, keys.PREDICTED_CONTROL)


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Consecutive rows of a result: the cells of one kind of one condition.

    Args:
        kind, perturbation, context: labels of all of them.
        start: the first row.
        cells: (m,) rows of the data set: the basal cell of each prediction, or the measured cell itself.
    """

    kind: str
    perturbation: str
    context: str
    start: int
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class ResultRows:
    """All rows of a result."""

    blocks: tuple[RowBlock, ...]
    set_size: int

    @property
    def n(self) -> int:
        """How many rows there are."""
        return sum(len(block.cells) for block in self.blocks)

    @cached_property
    def _starts(self) -> dict[tuple[str, str, str], int]:
        return {(block.kind, block.perturbation, block.context): block.start for block in self.blocks}

    def start(self, kind: str, perturbation: str, context: str) -> int:
        """Return the first row of a condition."""
        return self._starts[kind, perturbation, context]

    def measured(self) -> tuple[int, np.ndarray]:
        """Return the first row of the measured cells, and all of them as rows of the data set; they are the last rows of a result."""
        # blocks of measured cells follow each other, so one start and one array describe them all
        last = [block for block in self.blocks if block.kind not in PREDICTED_KINDS]
        return last[0].start, np.concatenate([block.cells for block in last]).astype(np.int64)

    def frame(self, dataset: Dataset, card: ModelCard) -> pd.DataFrame:
        """Return obs: labels, set and basal cell of each row, and whether a label or batch unknown to the model was replaced."""
        sizes = [len(block.cells) for block in self.blocks]
        cells = np.concatenate([block.cells for block in self.blocks])
        predicted = np.repeat([block.kind in PREDICTED_KINDS for block in self.blocks], sizes)
        # sets are counted from 0 within each condition; measured cells are in none
        within = np.arange(len(cells)) - np.repeat([block.start for block in self.blocks], sizes)
        known = {*card.perturbations}
        replaced = np.repeat([b.kind == keys.PREDICTED and b.perturbation not in known for b in self.blocks], sizes)
        # of the basal cell, for predictions as for measured cells
        batches = dataset.batch_labels()[cells]
        if card.config.batch_encoder:
            replaced |= predicted & ~np.isin(batches, card.batches)
        columns = {
            keys.PERTURBATION: pd.Categorical(np.repeat(_labels(b.perturbation for b in self.blocks), sizes)),
            keys.CONTEXT: pd.Categorical(np.repeat(_labels(b.context for b in self.blocks), sizes)),
            keys.BATCH: pd.Categorical(batches.astype(object)),
            keys.KIND: pd.Categorical(np.repeat(_labels(b.kind for b in self.blocks), sizes), categories=list(keys.KINDS)),
            keys.CELL_SET: np.where(predicted, within // self.set_size, -1),
            keys.FALLBACK: replaced,
            keys.BASAL_CELL: pd.Categorical(dataset.obs_names[cells]),
            keys.BASAL_ROW: cells.astype(np.int64),
        }
        return pd.DataFrame(columns, index=pd.Index([f"cell {i}" for i in range(len(cells))], dtype=object))


def result_rows(drawn: DrawnCells, control: str) -> ResultRows:
    """Return the rows of a result.

    Args:
        drawn: the cells of the prediction.
        control: the model's label of control cells.
    """
    parts = [
        *((keys.PREDICTED, p, c, drawn.basal[c][: drawn.counts[p]]) for c in drawn.contexts for p in drawn.perturbations),
        *((keys.PREDICTED_CONTROL, control, c, drawn.basal[c][: drawn.cells]) for c in drawn.contexts),
        *((keys.OBSERVED_CONTROL, control, c, drawn.control[c]) for c in drawn.contexts),
        *((keys.OBSERVED, p, c, cells) for (c, p), cells in drawn.observed.items()),
    ]
    blocks, start = [], 0
    for kind, perturbation, context, cells in parts:
        blocks.append(RowBlock(kind, perturbation, context, start, cells))
        start += len(cells)
    return ResultRows(tuple(blocks), drawn.set_size)


def _labels(values: Iterable[str]) -> np.ndarray:
    return np.array(list(values), dtype=object)
