"""Predict what a perturbation does to cells: paired, streamed, reproducible.

For each context, control cells are drawn once and cut into sets. Every set is predicted under the control label and under each
perturbation; the difference is each cell's effect, and the default expression is the basal cell plus its own effect, clipped at
0 ("corrected"). The same basal cells serve every perturbation, so that differences between perturbations are not differences
between draws, and the control is predicted once a context.

A baseline can predict in the model's place (`PredictionRequest.method`): the same basal cells plus its effect.

Notation: s cells in a set, g expression features, e embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.checkpoints.load import LoadedModel, card_of, load_model
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import FeatureSource, read_features
from state_engine.device import choose_device, dtype_of
from state_engine.effects.apply import apply_effect
from state_engine.effects.baselines import WORDS, baseline_effects
from state_engine.effects.store import effects_hash, load_effects
from state_engine.errors import RequestError, listed
from state_engine.files import replacing
from state_engine.plain import to_plain
from state_engine.prediction.calibrated import add_calibrated, calibrated_of
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.draw import Plan, make_plan
from state_engine.prediction.forward import SetResult, SetRunner, SetTask
from state_engine.prediction.mean_effect import fill_mean_effects
from state_engine.prediction.outputs import batch_indices, expression_source, gene_names
from state_engine.prediction.request import PredictionRequest, check_perturbations, contexts_of
from state_engine.prediction.result_writer import ResultWriter
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import package_versions

if TYPE_CHECKING:
    from state_engine.checkpoints.card import ModelCard

# predictions under the control label that are held at once while the perturbations run
HELD_BYTES = 128 << 20


@dataclass(frozen=True)
class PredictionSummary:
    """What was made. `remarks` are sentences worth showing; `sets` counts forward passes of one set."""

    cells: int
    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    sets: int
    device: str
    remarks: tuple[str, ...]


def predict(
    request: PredictionRequest,
    output: Path,
    on_progress: OnProgress = silent,
    loaded: LoadedModel | None = None,
) -> PredictionSummary:
    """Predicts and writes the result file.

    Args:
        request: what to predict.
        output: where the .h5ad goes; it appears only when complete.
        on_progress: called once a forward pass; may raise `JobCancelled`.
        loaded: the model of the request when it is in memory already.

    Raises:
        DataError, ModelError, RequestError, DeviceError: what each says.
    """
    dataset = open_dataset(Path(request.data), request.choices)
    device = choose_device(request.device if request.method == "model" else "cpu")
    if request.method != "model":
        loaded = None  # a baseline needs no weights
    elif loaded is None:
        on_progress(Progress("Loading the model"))
        loaded = load_model(Path(request.model), device.kind, dtype_of(request.precision), request.attention)
    card = loaded.card if loaded is not None else card_of(Path(request.model))
    check_perturbations(request, card)
    contexts = contexts_of(request, dataset)
    report = check_compatibility(
        dataset, card, request.perturbations, contexts, request.allow_unknown, request.allow_other_embedding
    )
    source = require_compatible(report)
    on_progress(Progress("Drawing control cells"))
    plan = make_plan(request, dataset, card, contexts)
    work = _Work(request, dataset, card, loaded, plan, source, on_progress)
    stand_ins = tuple(p for p in plan.perturbations if p not in card.perturbations)
    filled = stand_ins if request.unknown_effect == "mean" and loaded is not None else ()
    if filled:
        known = len(plan.perturbations) - len(filled)
        work.remarks.append(f"{listed(filled)}: not known to the model; they have the mean effect of the other {known:,} labels.")
    never = set(card.unseen) if loaded is not None else set()
    if unseen := [p for p in plan.perturbations if p in never]:
        work.remarks.append(f"{listed(unseen)}: never trained, predicted from feature vectors alone.")
    with replacing(output) as beside:
        work.write(beside, str(device.name))
        if filled:
            fill_mean_effects(beside, filled, on_progress)
        if work.calibrated is not None:
            add_calibrated(beside, work.calibrated, None if work.genes else card.input_key, on_progress)
    remarks = tuple(work.remarks)
    labels = plan.perturbations
    return PredictionSummary(len(contexts) * len(labels) * plan.cells, contexts, labels, work.done, device.name, remarks)


class _Work:
    """One prediction on its way to disk."""

    def __init__(
        self,
        request: PredictionRequest,
        dataset: Dataset,
        card: ModelCard,
        loaded: LoadedModel | None,
        plan: Plan,
        source: FeatureSource,
        on_progress: OnProgress,
    ) -> None:
        self.request, self.dataset, self.plan, self.source = request, dataset, plan, source
        self.card, self.on_progress = card, on_progress
        self.attention = request.attention or card.attention
        self.remarks: list[str] = []
        self.done = 0
        self.rows_of_labels = {label: i for i, label in enumerate(card.perturbations)}
        self.batches = batch_indices(dataset, card, request.allow_unknown)
        self.expression = expression_source(dataset, card, source)
        self.genes = gene_names(dataset, card, source)
        if loaded is not None:
            self.runner = SetRunner(loaded.module, loaded.perturbation_features, self.attention, on_remark=self._remark)
        # a baseline's effects are of genes where there are any
        self.writes_embedding = card.reads_embedding and (loaded is not None or not self.genes)
        self._take_effects()

    def _take_effects(self) -> None:
        """What a baseline says, or what the model's prediction is calibrated with; refused or remarked on before any work."""
        request, card = self.request, self.card
        conditions = tuple((p, c) for c in self.plan.contexts for p in self.plan.perturbations)
        width = len(self.genes) or card.config.output_dim
        self.baseline: dict[tuple[str, str], np.ndarray] = {}
        self.calibrated = None
        if request.method != "model":
            if self.genes and self.expression is None:
                why = f"{self.dataset.path.name} has no expression of the genes that the model predicts."
                raise RequestError(
                    "A baseline starts from measured expression.", why, "Choose a data set with counts or log1p values."
                )
            self.baseline = baseline_effects(request.method, Path(request.model), card, conditions, tuple(self.genes), width)
            self.remarks.append(f"Not predicted by the model but by a baseline, '{request.method}': {WORDS[request.method]}.")
        elif card.calibration is not None:
            self.calibrated = calibrated_of(card, load_effects(Path(request.model)), conditions, tuple(self.genes), width)
        if self.calibrated is not None:
            self.remarks.append(self.calibrated.remark())

    def write(self, path: Path, device: str) -> None:
        embedding = (self.card.input_key, self.card.config.output_dim) if self.writes_embedding else None
        obs = self._obs()
        keep_raw = self.request.keep_raw and not (self.baseline and self.genes)  # a baseline is the same, raw or corrected
        writer = ResultWriter(path, obs, self.genes, embedding=embedding, keep_raw=keep_raw)
        try:
            confidence = np.full(len(obs), np.nan, np.float32)
            for context in self.plan.contexts:
                if self.baseline:
                    self._shift_context(context, writer)
                else:
                    self._predict_context(context, writer, confidence)
            self._write_observed(obs, writer)
            writer.finish(confidence, self._manifest(device))
        finally:
            writer.close()

    def _predict_context(self, context: str, writer: ResultWriter, confidence: np.ndarray) -> None:
        plan, card = self.plan, self.card
        width = len(self.genes) + (card.config.output_dim if card.reads_embedding else 0)
        group = max(1, HELD_BYTES // max(1, plan.set_size * width * 4))
        for first in range(0, plan.sets, group):
            numbers = range(first, min(first + group, plan.sets))
            rows = plan.basal[context][first * plan.set_size : numbers[-1] * plan.set_size + plan.set_size]
            unique, positions = np.unique(rows, return_inverse=True)
            basal = read_features(self.dataset, self.source, unique)
            self.runner.load_cells([basal])
            cells = positions.reshape(len(numbers), plan.set_size)
            context_block = _Block(cells, first, basal, self._basal_expression(unique, basal))
            control = self._run(context_block, unique, card.control)
            paired = {result.tag: result for result in control}
            for tag, result in paired.items():
                self._write_pair(writer, confidence, context_block, tag, result, result, plan.control_start(context))
            for label in plan.perturbations:
                start = plan.predicted_start(context, label)
                for result in self._run(context_block, unique, label):
                    self._write_pair(writer, confidence, context_block, result.tag, result, paired[result.tag], start)

    def _shift_context(self, context: str, writer: ResultWriter) -> None:
        """A baseline: the basal cells, moved by its effect, in the rows of a prediction."""
        plan, n = self.plan, self.plan.cells
        mean, total = np.zeros(0), len(plan.contexts) * (len(plan.perturbations) + 1)
        for _, cells in self._basal_cells(context):
            mean = cells.sum(axis=0, dtype=np.float64) / n + (mean if len(mean) else 0.0)
        write = writer.write if self.genes else writer.write_embedding
        for first, cells in self._basal_cells(context):
            write(plan.control_start(context) + first, cells, cells)
            for label in plan.perturbations:
                moved = apply_effect(cells, self.baseline[label, context], mean, nonnegative=bool(self.genes))
                write(plan.predicted_start(context, label) + first, moved, moved)
        self.on_progress(Progress("Predicting cells", (plan.contexts.index(context) + 1) * (len(plan.perturbations) + 1), total))

    def _basal_cells(self, context: str, block: int = 2048) -> Iterator[tuple[int, np.ndarray]]:
        """(first, values): the measured basal cells of a context in the result's features, in blocks."""
        rows = self.plan.basal[context][: self.plan.cells]
        for first in range(0, len(rows), block):
            unique, back = np.unique(rows[first : first + block], return_inverse=True)
            values: np.ndarray | None = read_features(self.dataset, self.source, unique)
            if self.genes and values is not None:
                values = self._basal_expression(unique, values)
            assert values is not None
            yield first, np.nan_to_num(values)[back]

    def _run(self, block: _Block, unique: np.ndarray, label: str) -> Iterator[SetResult]:
        # an unknown label was admitted by the caller (allow_unknown) and takes the control's vector
        row = self.rows_of_labels.get(label, self.rows_of_labels[self.card.control])
        tasks = [
            SetTask(cells, row, self.batches[unique[cells]] if self.batches is not None else None, block.first + i)
            for i, cells in enumerate(block.cells)
        ]
        total = self.plan.sets * len(self.plan.contexts) * (len(self.plan.perturbations) + 1)
        for result in self.runner.run(tasks):
            self.done += 1
            self.on_progress(Progress("Predicting cells", self.done, total))
            yield result

    def _write_pair(
        self,
        writer: ResultWriter,
        confidence: np.ndarray,
        block: _Block,
        number: int,
        result: SetResult,
        control: SetResult,
        start: int,
    ) -> None:
        """Writes one set: basal + (result - control), and the result as it is; without the surplus cells of the last set."""
        offset = number * self.plan.set_size
        n = min(self.plan.set_size, self.plan.cells - offset)
        cells = block.cells[number - block.first][:n]
        at = start + offset
        confidence[at : at + n] = result.confidence
        if self.card.reads_embedding:
            effect = result.predicted[:n] - control.predicted[:n]
            writer.write_embedding(at, block.basal[cells] + effect, result.predicted[:n])
        if not self.genes:
            return
        expression, reference = _expression_of(result)[:n], _expression_of(control)[:n]
        corrected = expression - reference
        if block.expression is not None:
            measured = block.expression[cells]
            corrected += np.where(np.isnan(measured), reference, measured)
        else:
            corrected += reference
        writer.write(at, np.maximum(corrected, 0.0, out=corrected), expression)

    def _write_observed(self, obs: pd.DataFrame, writer: ResultWriter) -> None:
        """The measured cells, in blocks; genes that the data set lacks are 0 here, as they were for the model."""
        plan = self.plan
        rows = [plan.control[c] for c in plan.contexts]
        rows += [plan.observed[c, p] for c in plan.contexts for p in plan.perturbations]
        flat = np.concatenate(rows).astype(np.int64)
        start = len(obs) - len(flat)
        for first in range(0, len(flat), 2048):
            part = flat[first : first + 2048]
            self.on_progress(Progress("Copying measured cells", first, len(flat)))
            unique, back = np.unique(part, return_inverse=True)
            values = read_features(self.dataset, self.source, unique)
            if self.writes_embedding:
                writer.write_embedding(start + first, values[back], values[back])
            expression = self._basal_expression(unique, values)
            if self.genes and expression is not None:
                shown = np.nan_to_num(expression)[back]
                writer.write(start + first, shown, shown)

    def _basal_expression(self, rows: np.ndarray, features: np.ndarray) -> np.ndarray | None:
        """Measured log1p expression of dataset rows in the result's genes (n, g), NaN for genes the data set lacks."""
        if not self.card.reads_embedding:
            return features
        if self.expression is None:
            return None
        values = read_features(self.dataset, self.expression, rows)
        missing = np.asarray(self.expression.columns) < 0
        values[:, missing] = np.nan
        return values

    def _obs(self) -> pd.DataFrame:
        plan, names = self.plan, self.dataset.obs_names
        parts = []
        numbers = np.arange(plan.cells) // plan.set_size
        for context in plan.contexts:
            basal = plan.basal[context][: plan.cells]
            for label in plan.perturbations:
                parts.append(self._part(basal, context, label, keys.PREDICTED, numbers))
        for context in plan.contexts:
            parts.append(
                self._part(plan.basal[context][: plan.cells], context, self.card.control, keys.PREDICTED_CONTROL, numbers)
            )
        for context in plan.contexts:
            parts.append(self._part(plan.control[context], context, self.card.control, keys.OBSERVED_CONTROL, None))
        for (context, label), rows in plan.observed.items():
            parts.append(self._part(rows, context, label, keys.OBSERVED, None))
        obs = pd.concat(parts, ignore_index=True)
        obs[keys.BASAL_CELL] = names[obs.pop("row").to_numpy()]
        for column in (keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.BASAL_CELL):
            obs[column] = pd.Categorical(obs[column])
        obs[keys.KIND] = pd.Categorical(obs[keys.KIND], categories=list(keys.KINDS))
        obs.index = pd.Index([f"cell {i}" for i in range(len(obs))], dtype=object)
        return obs

    def _part(self, rows: np.ndarray, context: str, label: str, kind: str, sets: np.ndarray | None) -> pd.DataFrame:
        unknown = kind == keys.PREDICTED and label not in self.rows_of_labels
        return pd.DataFrame(
            {
                keys.PERTURBATION: label,
                keys.CONTEXT: context,
                keys.BATCH: self.dataset.batch_labels()[rows],
                keys.KIND: kind,
                keys.CELL_SET: sets if sets is not None else np.full(len(rows), -1),
                keys.FALLBACK: np.full(len(rows), unknown) | self._fallback_batches(rows, kind),
                "row": rows,
            }
        )

    def _fallback_batches(self, rows: np.ndarray, kind: str) -> np.ndarray:
        if self.batches is None or kind not in (keys.PREDICTED, keys.PREDICTED_CONTROL):
            return np.zeros(len(rows), dtype=bool)
        return ~np.isin(self.dataset.batch_labels()[rows], self.card.batches)

    def _manifest(self, device: str) -> dict[str, Any]:
        return {
            "request": to_plain(self.request),
            "model": {"id": self.card.id, "name": self.card.name, "weights_hash": self.card.weights_hash},
            "simulated": self.card.simulated,
            "method": self.request.method,
            "attention": self.attention,
            "attention_source": self.card.attention_source if self.request.attention is None else "chosen in the request",
            "data_hash": self.dataset.hash(),
            "control": {"data": self.dataset.labels.control, "model": self.card.control},
            "features": {"representation": self.source.representation, "genes_missing": self.source.n_missing},
            "scale": "log1p" if self.genes else "embedding",
            "embedding_key": self.card.input_key if self.card.reads_embedding else None,
            "embedding_models": self._embedding_models(),
            "effects_hash": effects_hash(Path(self.request.model)) if self.calibrated or self.baseline else None,
            "calibration": self.calibrated.facts() if self.calibrated is not None else None,
            "set_size": self.plan.set_size,
            "device": device,
            "versions": package_versions(),
            "remarks": self.remarks,
        }

    def _embedding_models(self) -> dict[str, Any] | None:
        """The model that made the embedding and the one this model was trained on; "" where it is not recorded."""
        if not self.card.reads_embedding:
            return None
        facts = self.dataset.embeddings.get(self.card.input_key)
        made, trained = facts.model if facts else "", self.card.embedding_model or ""
        return {"made": made, "trained_on": trained, "other_allowed": self.request.allow_other_embedding}

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        self.on_progress(Progress("Predicting cells", self.done, 0, text))


@dataclass(frozen=True)
class _Block:
    """Sets of one context that are in memory: (k, s) positions of their cells, the number of the first, and the cells' values."""

    cells: np.ndarray
    first: int
    basal: np.ndarray
    expression: np.ndarray | None


def _expression_of(result: SetResult) -> np.ndarray:
    return result.decoded if result.decoded is not None else result.predicted
