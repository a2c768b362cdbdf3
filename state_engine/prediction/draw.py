"""Which cells a prediction starts from and where its rows lie: drawn once a context, so that every perturbation has the same cells.

Boundary: row numbers of the data set in, row numbers of the result out; no values are read.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.data.cell_sets import draw_basal
from state_engine.data.dataset import Dataset
from state_engine.prediction.request import PredictionRequest


@dataclass(frozen=True)
class Plan:
    """Rows of the result and where they come from. `basal[context]` are dataset rows in whole sets, (sets x s,)."""

    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    cells: int
    set_size: int
    basal: dict[str, np.ndarray]
    control: dict[str, np.ndarray]
    observed: dict[tuple[str, str], np.ndarray]

    @property
    def sets(self) -> int:
        return math.ceil(self.cells / self.set_size)

    def predicted_start(self, context: str, perturbation: str) -> int:
        block = self.contexts.index(context) * len(self.perturbations) + self.perturbations.index(perturbation)
        return block * self.cells

    def control_start(self, context: str) -> int:
        return (len(self.contexts) * len(self.perturbations) + self.contexts.index(context)) * self.cells


def make_plan(request: PredictionRequest, dataset: Dataset, card: ModelCard, contexts: tuple[str, ...]) -> Plan:
    labels = tuple(p for p in request.perturbations if p != card.control)
    size = request.set_size or card.set_size
    basal, control, observed = {}, {}, {}
    for context in contexts:
        pool = dataset.control_rows(context)
        rng = np.random.default_rng([request.seed, zlib.crc32(context.encode())])
        # whole sets: a last set of a few cells would be predicted unlike the others; the surplus is not written
        basal[context] = draw_basal(pool, math.ceil(request.cells / size) * size, rng)
        control[context] = _at_most(pool, request.observed, rng, basal[context][: request.cells])
        for label in labels:
            observed[context, label] = _at_most(dataset.rows(label, context), request.observed, rng)
    return Plan(contexts, labels, request.cells, size, basal, control, observed)


def _at_most(rows: np.ndarray, most: int, rng: np.random.Generator, first: np.ndarray | None = None) -> np.ndarray:
    """Up to `most` rows in file order; those of `first` are always among them."""
    kept = np.unique(first) if first is not None else np.array([], dtype=np.int64)
    rest = np.setdiff1d(rows, kept)
    room = max(0, most - len(kept))
    return np.sort(np.concatenate([kept, rng.permutation(rest)[:room]])).astype(np.int64)
