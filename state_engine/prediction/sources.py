"""Who predicts: a model, or a baseline in its place. Both give the predicted cells of a context, block by block.

Notation: s cells in a set, m cells of a block, g genes, e width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel
from state_engine.effects.apply import Moving, apply_effect, below_total, paired_cells
from state_engine.effects.table import Condition
from state_engine.models.config import AttentionMode
from state_engine.prediction.draw import DrawnCells
from state_engine.prediction.forward import SetResult, SetRunner, SetTask
from state_engine.prediction.measured_cells import BLOCK, MeasuredCells
from state_engine.prediction.rows import ResultRows
from state_engine.progress import OnProgress, Progress

STAGE = "Predicting cells"
# predictions under the control label that are held at once while the perturbations run
HELD_BYTES = 128 << 20


@dataclass(frozen=True, eq=False)
class PredictedBlock:
    """Predicted cells of consecutive rows of a result.

    Args:
        start: the first row.
        expression: corrected and raw, (m, g) each; None when no genes are predicted.
        embedding: corrected and raw, (m, e) each; None when none is predicted.
        confidence: the model's predicted loss of their set; NaN where there is none.
    """

    start: int
    expression: tuple[np.ndarray, np.ndarray] | None
    embedding: tuple[np.ndarray, np.ndarray] | None
    confidence: float = float("nan")

    @property
    def cells(self) -> int:
        """How many cells it has."""
        return len((self.expression or self.embedding or ((),))[0])


@dataclass(frozen=True)
class Part:
    """Some basal cells of a context: they are read together, and predicted under the control label before any perturbation.

    Args:
        context: theirs.
        first, cells: the first of them among the context's basal cells, and how many.
    """

    context: str
    first: int
    cells: int


def parts_of(card: ModelCard, genes: Sequence[str], drawn: DrawnCells, context: str, by_network: bool) -> tuple[Part, ...]:
    """Return the basal cells of a context, part by part.

    Args:
        card: of the model.
        genes: of the result.
        drawn: cells of the prediction.
        context: theirs.
        by_network: whole sets are predicted by a network; else cells are moved by a baseline.
    """
    if not by_network:
        return tuple(Part(context, first, min(BLOCK, drawn.cells - first)) for first in range(0, drawn.cells, BLOCK))
    # as many sets at a time as fit beside their predictions under the control label, which every perturbation needs
    width = len(genes) + (card.config.output_dim if card.reads_embedding else 0)
    held = max(1, HELD_BYTES // max(1, drawn.set_size * width * 4))
    starts = range(0, drawn.sets, held)
    return tuple(Part(context, first * drawn.set_size, min(held, drawn.sets - first) * drawn.set_size) for first in starts)


class Source(Protocol):
    """What predicts the cells of a result."""

    on_progress: OnProgress

    def predict(self, part: Part, labels: Sequence[str], control: bool = True) -> Iterator[PredictedBlock]:
        """Yield the predicted cells of a part under each of some perturbations, and before them under the control label (`control`).

        What it yields depends on the part and the label alone: not on other labels, nor on what was predicted before.
        """


class BaselineSource:
    """A baseline: the basal cells, moved by its effects.

    Args:
        cells: reads the basal cells.
        drawn: which they are.
        rows: where predictions go.
        effects: condition -> (g,) or (e,).
        control: the model's label of control cells.
        moving: how cells of expression get to their mean.
        on_progress: called for each context.
    """

    def __init__(
        self,
        cells: MeasuredCells,
        drawn: DrawnCells,
        rows: ResultRows,
        effects: Mapping[Condition, np.ndarray],
        control: str,
        moving: Moving,
        on_progress: OnProgress,
    ) -> None:
        self.cells, self.drawn, self.rows, self.effects, self.control = cells, drawn, rows, effects, control
        self.moving, self.on_progress = moving, on_progress
        self._mean: tuple[str, np.ndarray] = ("", np.zeros(0))
        self._done = 0

    def predict(self, part: Part, labels: Sequence[str], control: bool = True) -> Iterator[PredictedBlock]:
        """See `Source`."""
        context, first = part.context, part.first
        mean = self._mean_of(context)
        ((_, values),) = self._blocks(self.drawn.basal[context][first : first + part.cells])
        if control:
            yield self._block(self.rows.start(keys.PREDICTED_CONTROL, self.control, context) + first, values)
        for label in labels:
            self._done += 1
            parts = -(-self.drawn.cells // BLOCK)
            total = len(self.drawn.contexts) * parts * len(self.drawn.perturbations)
            self.on_progress(Progress(STAGE, self._done, total))
            # the first basal cells serve the perturbations of which fewer are asked for
            mine = values[: max(0, self.drawn.counts[label] - first)]
            if not len(mine):
                continue
            moved = apply_effect(mine, self.effects[label, context], mean, nonnegative=bool(self.cells.genes))
            if self.cells.genes:
                moved = self.moving.cells(mine, moved, (label, context), first)
            yield self._block(self.rows.start(keys.PREDICTED, label, context) + first, moved)

    def _mean_of(self, context: str) -> np.ndarray:
        """Return the mean basal cell of a context; that of the last one asked about is kept."""
        if self._mean[0] != context or not self._mean[1].size:
            basal, mean = self.drawn.basal[context][: self.drawn.cells], np.zeros(1)
            for _, values in self._blocks(basal):
                mean = mean + values.sum(axis=0, dtype=np.float64) / len(basal)
            self._mean = (context, mean)
        return self._mean[1]

    def _blocks(self, basal: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield basal cells in the result's features, where they have genes in their expression."""
        for first, features, expression in self.cells.blocks(basal):
            yield first, features if expression is None else expression

    def _block(self, start: int, values: np.ndarray) -> PredictedBlock:
        pair = values, values  # there is nothing to correct
        return PredictedBlock(start, pair, None) if self.cells.genes else PredictedBlock(start, None, pair)


@dataclass(frozen=True, eq=False)
class _Sets:
    """Basal cells of some sets of one context, in memory.

    Args:
        first: number of the first set.
        cells: (sets, s) places of their cells among the values.
        rows: of the data set, each once.
        features: (rows, w). expression: (rows, g), NaN for genes that the data set lacks, or None.
    """

    first: int
    cells: np.ndarray
    rows: np.ndarray
    features: np.ndarray
    expression: np.ndarray | None


@dataclass(frozen=True)
class Computing:
    """How sets go through a network.

    Args:
        attention: which cells of a set see which.
        compile: have torch compile it, on a GPU.
    """

    attention: AttentionMode
    compile: bool = False


class ModelSource:
    """A model: each basal cell plus its own effect, predicted under the perturbation minus under the control label.

    Args:
        loaded: the model.
        cells: reads the basal cells.
        drawn: which they are.
        rows: where predictions go.
        batches: the model's batch index of each cell of the data set, (n,); None when it reads none.
        computing: how sets go through it.
        remarks: gets a sentence when something was done differently on the way.
        on_progress: called for each set; may raise `JobCancelled`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cells: MeasuredCells,
        drawn: DrawnCells,
        rows: ResultRows,
        batches: np.ndarray | None,
        computing: Computing,
        remarks: list[str],
        on_progress: OnProgress,
    ) -> None:
        self.card: ModelCard = loaded.card
        self.cells, self.drawn, self.rows, self.batches = cells, drawn, rows, batches
        self.remarks, self.on_progress = remarks, on_progress
        self.sets = 0
        self._begun: tuple[Part, _Sets, dict[int, SetResult]] | None = None
        self._row_of = {label: i for i, label in enumerate(self.card.perturbations)}
        self._runner = SetRunner(
            loaded.module, loaded.perturbation_features, computing.attention, None, self._remark, computing.compile
        )

    def predict(self, part: Part, labels: Sequence[str], control: bool = True) -> Iterator[PredictedBlock]:
        """See `Source`."""
        drawn, card = self.drawn, self.card
        sets, under_control = self._begin(part)
        if control:
            start = self.rows.start(keys.PREDICTED_CONTROL, card.control, part.context)
            for result in under_control.values():
                yield self._block(sets, result, result, start, drawn.cells)
        # sets of all labels share passes where that fills them, and have the order of the labels all the same
        for some in [labels] if self._runner.mixes else [[label] for label in labels]:
            starts = [self.rows.start(keys.PREDICTED, label, part.context) for label in some]
            for place, result in self._run(sets, some):
                yield self._block(sets, result, under_control[result.tag], starts[place], drawn.counts[some[place]])

    def _begin(self, part: Part) -> tuple[_Sets, dict[int, SetResult]]:
        """Return the sets of a part and their predictions under the control label; those of the last part are kept."""
        if self._begun is None or self._begun[0] != part:
            self._begun = None  # before the next are loaded, so that memory holds one part
            size = self.drawn.set_size
            sets = self._load(part.context, part.first // size, part.cells // size)
            self._begun = part, sets, {result.tag: result for _, result in self._run(sets, [self.card.control])}
        return self._begun[1:]

    def _load(self, context: str, first: int, n: int) -> _Sets:
        size = self.drawn.set_size
        drawn = self.drawn.basal[context][first * size : (first + n) * size]
        # each cell is read and encoded once, however often it was drawn
        rows, places = np.unique(drawn, return_inverse=True)
        features = self.cells.features(rows)
        self._runner.load_cells([features])
        return _Sets(first, places.reshape(n, size), rows, features, self.cells.genes_of(rows, features))

    def _run(self, sets: _Sets, labels: Sequence[str]) -> Iterator[tuple[int, SetResult]]:
        """Predict sets under each of some labels: yield the label's place, and the result, whose tag is the number of the set."""
        tasks, drawn = list[SetTask](), self.drawn
        batches = [None if self.batches is None else self.batches[sets.rows[cells]] for cells in sets.cells]
        for place, label in enumerate(labels):
            # a label that the model does not know was allowed in the request, and takes the control's vector
            row = self._row_of.get(label, self._row_of[self.card.control])
            wanted = max(0, (drawn.sets_of(label) if label in drawn.counts else drawn.sets) - sets.first)
            for at, (cells, batch) in enumerate(zip(sets.cells[:wanted], batches[:wanted], strict=True)):
                tasks.append(SetTask(cells, row, batch, place * len(sets.cells) + at))
        total = (drawn.sets + sum(map(drawn.sets_of, drawn.perturbations))) * len(drawn.contexts)
        for result in self._runner.run(tasks):
            self.sets += 1
            self.on_progress(Progress(STAGE, self.sets, total))
            place, at = divmod(result.tag, len(sets.cells))
            yield place, replace(result, tag=sets.first + at)

    def _block(self, sets: _Sets, result: SetResult, control: SetResult, start: int, count: int) -> PredictedBlock:
        """Return the cells of a set, without those that only complete it: `count` cells of the condition are wanted."""
        offset = result.tag * self.drawn.set_size
        n = min(self.drawn.set_size, count - offset)
        cells = sets.cells[result.tag - sets.first][:n]
        embedding = expression = None
        if self.card.reads_embedding:
            corrected = paired_cells(sets.features[cells], result.predicted[:n], control.predicted[:n])
            embedding = corrected, result.predicted[:n]
        if self.cells.genes:
            raw, reference = _expression(result)[:n], _expression(control)[:n]
            # where a cell's expression was not measured, its prediction under the control label stands in for it
            basal = reference
            if sets.expression is not None:
                measured = sets.expression[cells]
                basal = np.where(np.isnan(measured), reference, measured)
            corrected = paired_cells(basal, raw, reference)
            expression = below_total(np.maximum(corrected, 0.0, out=corrected), self.cells.total), raw
        return PredictedBlock(start + offset, expression, embedding, result.confidence)

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        self.on_progress(Progress(STAGE, self.sets, 0, text))


def _expression(result: SetResult) -> np.ndarray:
    """Return predicted expression: decoded from the embedding, or what the model predicts."""
    return result.decoded if result.decoded is not None else result.predicted
