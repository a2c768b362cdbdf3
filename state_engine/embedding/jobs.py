"""What the jobs around embeddings are asked for. No torch: pages import this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.config import Settings
from state_engine.data.dataset import Choices, Dataset
from state_engine.embedding.request import EmbedRequest
from state_engine.errors import ConfigError, LabelError

REFERENCE = "cells"
MOST_ASKED = 5000


@dataclass(frozen=True)
class EmbedJob:
    """Embed a data set, draw its map, keep it as a new data set.

    Args:
        request: the embedding.
        name: of the new data set.
        reference: its cells also become reference cells for the search.
    """

    request: EmbedRequest
    name: str
    reference: bool = True


@dataclass(frozen=True)
class SpeedJob:
    """Measure how long a cell takes with a model on this machine's CPU, and remember it.

    Args:
        model: its folder.
    """

    model: str


@dataclass(frozen=True)
class Embedding:
    """What an `EmbedJob` left in its run folder (embedding.json).

    Args:
        data: id of the new data set; `path` of its file.
        key: name of the embedding in obsm; its first `cell_width` of `width` columns describe the cell.
        model, model_name: hash and name of the model; `simulated` when it was not trained on real cells.
        cells, empty: of the data set, and those without an embedding.
        genes: how many of which genes matched, a sentence; `overlap` as a part of those that could match.
        scale: counts or log1p, as decided.
        device, seconds: where, and how long the embedding took.
        remarks: sentences worth showing.
        reference: reference cells after it, 0 when it was not added.
    """

    data: str
    path: str
    key: str
    width: int
    cell_width: int
    model: str
    model_name: str
    simulated: bool
    cells: int
    empty: int
    genes: str
    overlap: float
    scale: str
    device: str
    seconds: float
    remarks: tuple[str, ...] = ()
    reference: int = 0


@dataclass(frozen=True)
class Pick:
    """Some cells of a data set: those with a label, or rows.

    Args:
        column, value: an obs column and one of its labels; "" for `rows`.
        rows: row numbers; empty and no column: all cells.
        most: of more cells a random sample of this size is taken (seed 0).
        words: what was picked, for people.
    """

    column: str = ""
    value: str = ""
    rows: tuple[int, ...] = ()
    most: int = MOST_ASKED
    words: str = "all cells"

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ConfigError(f"At most {self.most} cells are none.")

    def of(self, dataset: Dataset) -> np.ndarray:
        """Return the rows, sorted.

        Raises:
            LabelError: no such column.
        """
        if self.column:
            if self.column not in dataset.columns:
                raise LabelError(f"There is no column '{self.column}'.", "", "Choose another.")
            column = dataset.columns[self.column]
            rows = np.flatnonzero(np.asarray(column.astype(str)) == self.value)
        else:
            rows = np.array(self.rows, np.int64) if self.rows else np.arange(dataset.n_cells)
        if len(rows) <= self.most:
            return np.sort(rows)
        return np.sort(np.random.default_rng(0).choice(rows, self.most, replace=False))


@dataclass(frozen=True)
class SimilarJob:
    """Find the reference cells most similar to picked cells.

    Args:
        data, key: the data set's file and its embedding; `choices` what the user said about it.
        pick: the cells asked about.
        k: similar cells of each.
        others_only: cells of the same data set are not compared.
    """

    data: str
    key: str
    pick: Pick
    k: int = 5
    others_only: bool = False
    choices: Choices = Choices()


@dataclass(frozen=True)
class GenesReadJob:
    """Average what CLS attends to, over the cells of each group.

    Args:
        request: data set and model.
        column: obs column of the groups; "" takes all cells as one.
        cells_a_group: most cells averaged in a group.
    """

    request: EmbedRequest
    column: str = ""
    cells_a_group: int = 128


def reference_folder(settings: Settings) -> Path:
    """Return where the reference cells of this installation lie."""
    return settings.home / REFERENCE
