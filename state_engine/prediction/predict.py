"""Predict what a perturbation does to cells: paired, streamed, reproducible.

For each context, control cells are drawn once and cut into sets. Every set is predicted under the control label and under each
perturbation; the difference is each cell's effect, and "corrected" expression is the basal cell plus its own effect, cut at 0. It is
the default output unless the model's card recommends the calibrated prediction (`result_layers`).
The same basal cells serve every perturbation, so that differences between perturbations are not differences
between draws, and the control is predicted once for each context.

A baseline can predict in the model's place (`PredictionRequest.method`): the same basal cells plus its effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel, card_of, load_model
from state_engine.data.behind import Behind
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.effects.apply import Moving
from state_engine.effects.baselines import WORDS, perturbation_features
from state_engine.effects.store import load_effects
from state_engine.errors import RequestError, listed
from state_engine.files import free_output, replacing
from state_engine.prediction.draw import DrawnCells
from state_engine.prediction.in_shards import predicted_blocks
from state_engine.prediction.inputs import depth_words
from state_engine.prediction.manifest import manifest
from state_engine.prediction.measured_cells import MeasuredCells
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result_layers import Calibrated, add_calibrated, calibrated_of, fill_effects, fill_mean_effects
from state_engine.prediction.result_writer import ResultWriter
from state_engine.prediction.rows import ResultRows
from state_engine.prediction.screens import Transfer, transfer_effects
from state_engine.prediction.sources import PredictedBlock
from state_engine.prediction.start import control_means, source_of, start
from state_engine.progress import OnProgress, Progress, silent
from state_engine.shards.executors import Local
from state_engine.shards.run import InShards


@dataclass(frozen=True)
class PredictionSummary:
    """What a prediction gave.

    Args:
        cells, contexts, perturbations: that were predicted.
        sets: forward passes of one set.
        device: for people.
        remarks: sentences worth showing.
        write_seconds: that the rows of the result took to be written, beside the predicting.
        wait_seconds: that the predicting waited for them to be written.
    """

    cells: int
    contexts: tuple[str, ...]
    perturbations: tuple[str, ...]
    sets: int
    device: str
    remarks: tuple[str, ...]
    write_seconds: float = 0.0
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class Beyond:
    """What a result holds beyond the model's own prediction.

    Args:
        calibrated: the calibrated prediction; None without one.
        filled: labels unknown to the model that get another effect than none.
        transfer: their effects in measured screens; None: the mean effect of the labels that it knows.
    """

    calibrated: Calibrated | None = None
    filled: tuple[str, ...] = ()
    transfer: Transfer | None = None

    def write(self, path: Path, embedding_key: str | None, moving: Moving, on_progress: OnProgress) -> None:
        """Add it to a result that is whole otherwise."""
        if self.transfer is not None:
            fill_effects(path, self.transfer.effects, on_progress, moving)
        elif self.filled:
            fill_mean_effects(path, self.filled, on_progress, moving)
        if self.calibrated is not None:
            add_calibrated(path, self.calibrated, embedding_key, on_progress, moving)


def predict(
    request: PredictionRequest,
    output: Path,
    on_progress: OnProgress = silent,
    loaded: LoadedModel | None = None,
    dataset: Dataset | None = None,
    shards: InShards | None = None,
) -> PredictionSummary:
    """Predict, and write the result file.

    Args:
        request: what to predict.
        output: where the .h5ad goes; it appears only when complete.
        on_progress: called for each forward pass; may raise `JobCancelled`.
        loaded: the model of the request when it is in memory already.
        dataset: the data of the request when they are open already, as those whose counts are thinned.
        shards: work in shards, so that an interrupted prediction goes on; None: in one piece. It changes no number.

    Raises:
        DataError, ModelError, RequestError, DeviceError: each says what, why and what to do.
    """
    free_output(output, request.data, request.model, *(screen.data for screen in request.measured))
    dataset = dataset or open_dataset(Path(request.data), request.choices)
    executor = shards.executor if shards is not None else Local()
    here = isinstance(executor, Local)
    device = executor.device_name(request.device if request.by_network else "cpu")
    # a baseline needs no weights, and other processes load their own
    loaded = (loaded or _loaded(request, on_progress)) if request.by_network and here else None
    card = loaded.card if loaded is not None else card_of(Path(request.model))
    begun = start(request, card, dataset, on_progress)
    cells, drawn = begun.cells, begun.drawn
    remarks = [begun.repeated] if begun.repeated else []
    beyond = Beyond()
    if request.by_network:
        beyond = _beyond(request, card, cells, drawn, on_progress)
        remarks += _remarks(card, drawn, beyond)
    else:
        remarks.append(f"Not predicted by the model but by a baseline, '{request.method}': {WORDS[request.method]}.")  # type: ignore[index]
    # effects that do not fit are refused here, before any work
    source = source_of(begun, loaded, remarks, on_progress) if here or not request.by_network else None
    remarks += _depth_remarks(dataset, cells)
    # what the compatibility report warns of belongs to the result: nobody may have looked at the report
    remarks += begun.warnings
    with ExitStack() as stack:
        blocks = stack.enter_context(predicted_blocks(begun, source, device, shards, remarks, on_progress))
        beside = stack.enter_context(replacing(output))
        writer = ResultWriter(
            beside,
            begun.rows.frame(dataset, card),
            list(cells.genes),
            embedding=(card.input_key, card.config.output_dim) if begun.has_embedding else None,
            keep_raw=begun.keeps_raw,
            later=int(beyond.calibrated is not None),
        )
        with closing(writer):
            confidence = np.full(begun.rows.n, np.nan, np.float32)
            # a block is written while the next ones are predicted or read
            with Behind(partial(_write, writer, confidence), name="result") as behind:
                for block in blocks:
                    behind.put(block)
                for block in _measured(cells, begun.rows, begun.has_embedding, on_progress):
                    behind.put(block)
            about = manifest(request, dataset, card, cells, drawn, beyond.calibrated, beyond.transfer)
            writer.finish(confidence, {**about, "moving": begun.moving.way, "device": device, "remarks": remarks})
        beyond.write(beside, None if cells.genes else card.input_key, begun.moving, on_progress)
    sets = sum(map(drawn.sets_of, drawn.perturbations)) + drawn.sets if request.by_network else 0
    return PredictionSummary(
        drawn.predicted, drawn.contexts, drawn.perturbations, sets * len(drawn.contexts), device, tuple(remarks), behind.writing,
        behind.waited,
    )  # fmt: skip


def _write(writer: ResultWriter, confidence: np.ndarray, block: PredictedBlock) -> None:
    if block.embedding is not None:
        writer.write_embedding(block.start, *block.embedding)
    if block.expression is not None:
        writer.write(block.start, *block.expression)
    confidence[block.start : block.start + block.cells] = block.confidence


def _loaded(request: PredictionRequest, on_progress: OnProgress) -> LoadedModel:
    on_progress(Progress("Loading the model"))
    kind = choose_device(request.device).kind
    return load_model(Path(request.model), kind, dtype_of(request.precision), request.attention)


def _beyond(
    request: PredictionRequest, card: ModelCard, cells: MeasuredCells, drawn: DrawnCells, on_progress: OnProgress
) -> Beyond:
    filled = _filled(request, card, drawn)
    transfer = _transfer(request, cells, drawn, filled, on_progress)
    return Beyond(_calibration(request, card, cells, drawn), filled, transfer)


def _depth_remarks(dataset: Dataset, cells: MeasuredCells) -> list[str]:
    """Return how log1p values of another depth were brought to that of the model; nothing where they were not."""
    expression = cells.expression
    if expression is None or expression.factor == 1 or not dataset.scale.depth:
        return []
    depth = expression.depth_of(dataset.scale)
    return [f"The log1p values of the data set: {depth_words(dataset.scale.depth, depth or dataset.scale.depth)}"]


def _calibration(request: PredictionRequest, card: ModelCard, cells: MeasuredCells, drawn: DrawnCells) -> Calibrated | None:
    if card.calibration is None or request.method == "paired":
        return None
    width = len(cells.genes) or card.config.output_dim
    conditions = tuple((p, c) for c in drawn.contexts for p in drawn.perturbations)
    controls = control_means(cells, drawn.contexts) if card.calibration.chosen else {}
    replaced = tuple(p for p in drawn.perturbations if p not in card.perturbations)
    vectors = perturbation_features(Path(request.model), card) if card.perturbation_encoding == "features" else None
    table = load_effects(Path(request.model))
    return calibrated_of(card, table, conditions, cells.genes, width, controls, replaced, vectors)


def _transfer(
    request: PredictionRequest, cells: MeasuredCells, drawn: DrawnCells, filled: tuple[str, ...], on_progress: OnProgress
) -> Transfer | None:
    """Return what measured screens say of the labels unknown to the model; None where that was not asked for.

    Raises:
        RequestError: the model predicts no genes, or the data set has none of them.
    """
    if not request.measured or not filled:
        return None
    if not cells.genes or cells.expression is None:
        why = "Measured effects are of genes, and they are added to the expression of the control cells."
        raise RequestError("There is no expression to transfer measured effects to.", why, "Choose a model that predicts genes.")
    controls = {context: mean for context, (mean, _) in control_means(cells, drawn.contexts).items()}
    depth, data = cells.expression.depth_of(cells.dataset.scale), cells.dataset.path
    return transfer_effects(request.measured, filled, controls, cells.genes, depth, data, on_progress)


def _filled(request: PredictionRequest, card: ModelCard, drawn: DrawnCells) -> tuple[str, ...]:
    """Return the labels unknown to the model that get another effect than none."""
    if request.unknown_effect == "control":
        return ()
    return tuple(p for p in drawn.perturbations if p not in card.perturbations)


def _remarks(card: ModelCard, drawn: DrawnCells, beyond: Beyond) -> list[str]:
    """Return what a reader of the result should know about the model's prediction."""
    remarks = [beyond.calibrated.remark()] if beyond.calibrated is not None else []
    if beyond.transfer is not None:
        remarks.append(beyond.transfer.remark())
    elif beyond.filled:
        known = len(drawn.perturbations) - len(beyond.filled)
        remarks.append(
            f"{listed(beyond.filled)}: not known to the model; they have the mean effect of the other {known:,} labels."
        )
    if unseen := [p for p in drawn.perturbations if p in {*card.unseen}]:
        remarks.append(f"{listed(unseen)}: never trained, predicted from feature vectors alone.")
    return remarks


def _measured(cells: MeasuredCells, rows: ResultRows, has_embedding: bool, on_progress: OnProgress) -> Iterator[PredictedBlock]:
    """Yield the measured cells as they are; genes that the data set lacks are 0 here, as they were for the model."""
    start, measured = rows.measured()
    for first, features, expression in cells.blocks(measured):
        on_progress(Progress("Copying measured cells", first, len(measured)))
        embedding = (features, features) if has_embedding else None
        yield PredictedBlock(start + first, (expression, expression) if expression is not None else None, embedding)
