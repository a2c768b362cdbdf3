"""Which cells a prediction starts from: drawn once for each context, so that every perturbation has the same basal cells.

Boundary: row numbers of the data set in and out; no values are read.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.data.cell_sets import draw_basal
from state_engine.data.dataset import Dataset
from state_engine.prediction.request import PredictionRequest


@dataclass(frozen=True, eq=False)
class DrawnCells:
    """Cells of a prediction, as rows of the data set.

    Args:
        contexts, perturbations: that are predicted; the control is not among the perturbations.
        counts: perturbation -> predicted cells in each context.
        cells: the most of these; so many are predicted under the control label, and the first of them serve each perturbation.
        set_size: cells in a set.
        basal: context -> control cells in whole sets, (sets x set_size,); those beyond `cells` complete the last set and are not written.
        control: context -> measured control cells that are kept for comparison.
        observed: (context, perturbation) -> measured cells that are kept.
    """

    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    counts: dict[str, int]
    cells: int
    set_size: int
    basal: dict[str, np.ndarray]
    control: dict[str, np.ndarray]
    observed: dict[tuple[str, str], np.ndarray]

    @property
    def sets(self) -> int:
        """Sets of each context under the control label."""
        return math.ceil(self.cells / self.set_size)

    def sets_of(self, perturbation: str) -> int:
        """Return the sets of a perturbation in each context."""
        return math.ceil(self.counts[perturbation] / self.set_size)

    @property
    def predicted(self) -> int:
        """Cells predicted under perturbations, in all contexts."""
        return sum(self.counts.values()) * len(self.contexts)


MOST_SCORED: Final = 2048
"""Control cells of a context that a held-out condition is predicted from where it is scored; more change the mean cell by less than noise."""


def generator(seed: int, context: str) -> np.random.Generator:
    """Return the random numbers of a context: they do not depend on which other contexts are asked for."""
    return np.random.default_rng([seed, zlib.crc32(context.encode())])


def whole_sets(pool: np.ndarray, n: int, set_size: int, rng: np.random.Generator) -> np.ndarray:
    """Return n cells of a pool and as many more as complete the last set, since a set of a few cells is predicted unlike the others."""
    return draw_basal(pool, math.ceil(n / set_size) * set_size, rng)


def basal(seed: int, context: str, pool: np.ndarray, n: int, set_size: int) -> np.ndarray:
    """Return the basal cells of a context in whole sets, as a prediction with this seed draws them.

    Args:
        seed: of the prediction.
        context: its name.
        pool: control cells of the context, rows of the data set.
        n: cells that are asked for.
        set_size: cells in a set.
    """
    return whole_sets(pool, n, set_size, generator(seed, context))


def draw_cells(request: PredictionRequest, dataset: Dataset, card: ModelCard, contexts: tuple[str, ...]) -> DrawnCells:
    """Draw the basal cells of a request, and the measured cells that are kept beside the prediction.

    Args:
        request: what is predicted.
        dataset: its data set.
        card: its model.
        contexts: of the request, see `contexts_of`.
    """
    labels = tuple(p for p in request.perturbations if p != card.control)
    size, most = request.set_size or card.set_size, request.most(card.control)
    drawn, control, observed = {}, {}, {}
    for context in contexts:
        pool = dataset.control_rows(context)
        # one generator serves basal, then control, then observed cells: their order is part of what a seed means
        rng = generator(request.seed, context)
        drawn[context] = whole_sets(pool, most, size, rng)
        # the basal cells are always among the measured controls, so that each prediction can be seen beside its start
        control[context] = _at_most(pool, request.observed, rng, drawn[context][:most])
        for label in labels:
            observed[context, label] = _at_most(dataset.rows(label, context), request.observed, rng)
    return DrawnCells(contexts, labels, {p: request.count(p) for p in labels}, most, size, drawn, control, observed)


def _at_most(rows: np.ndarray, most: int, rng: np.random.Generator, first: np.ndarray | None = None) -> np.ndarray:
    """Return up to `most` rows in file order; those of `first` are always among them."""
    kept = np.unique(first) if first is not None else np.array([], dtype=np.int64)
    rest = np.setdiff1d(rows, kept)
    room = max(0, most - len(kept))
    return np.sort(np.concatenate([kept, rng.permutation(rest)[:room]])).astype(np.int64)
