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

from state_engine import keys
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel, card_of, load_model
from state_engine.data.behind import Behind
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.effects.baselines import WORDS, perturbation_features
from state_engine.effects.exposure import exposures, trained_parts
from state_engine.effects.store import effects_hash, load_effects
from state_engine.errors import RequestError, listed
from state_engine.files import free_output, replacing
from state_engine.plain import to_plain
from state_engine.prediction.draw import DrawnCells
from state_engine.prediction.in_shards import predicted_blocks
from state_engine.prediction.inputs import depth_words
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
from state_engine.versions import package_versions


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
    if not request.by_network or not here:
        loaded = None  # a baseline needs no weights, and other processes load their own
    elif loaded is None:
        on_progress(Progress("Loading the model"))
        kind = choose_device(request.device).kind
        loaded = load_model(Path(request.model), kind, dtype_of(request.precision), request.attention)
    card = loaded.card if loaded is not None else card_of(Path(request.model))
    begun = start(request, card, dataset, on_progress)
    cells, drawn = begun.cells, begun.drawn
    remarks = [begun.repeated] if begun.repeated else []
    calibrated, filled, transfer = None, tuple[str, ...](), None
    if not request.by_network:
        remarks.append(f"Not predicted by the model but by a baseline, '{request.method}': {WORDS[request.method]}.")  # type: ignore[index]
    else:
        filled = _filled(request, card, drawn)
        transfer = _transfer(request, cells, drawn, filled, on_progress)
        calibrated = _calibration(request, card, cells, drawn)
        remarks += _remarks(card, drawn, calibrated, filled, transfer)
    # effects that do not fit are refused here, before any work
    source = source_of(begun, loaded, remarks, on_progress) if here or not request.by_network else None
    expression = cells.expression
    if expression is not None and expression.factor != 1 and dataset.scale.depth:
        depth = expression.depth_of(dataset.scale)
        remarks.append(f"The log1p values of the data set: {depth_words(dataset.scale.depth, depth or dataset.scale.depth)}")
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
            later=int(calibrated is not None),
        )
        with closing(writer):
            confidence = np.full(begun.rows.n, np.nan, np.float32)
            # a block is written while the next ones are predicted or read
            with Behind(partial(_write, writer, confidence), name="result") as behind:
                for block in blocks:
                    behind.put(block)
                for block in _measured(cells, begun.rows, begun.has_embedding, on_progress):
                    behind.put(block)
            about = _manifest(request, dataset, card, cells, drawn, calibrated, transfer) | {"moving": begun.moving.way}
            writer.finish(confidence, {**about, "device": device, "remarks": remarks})
        if transfer is not None:
            fill_effects(beside, transfer.effects, on_progress, begun.moving)
        elif filled:
            fill_mean_effects(beside, filled, on_progress, begun.moving)
        if calibrated is not None:
            add_calibrated(beside, calibrated, None if cells.genes else card.input_key, on_progress, begun.moving)
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


def _remarks(
    card: ModelCard, drawn: DrawnCells, calibrated: Calibrated | None, filled: tuple[str, ...], transfer: Transfer | None
) -> list[str]:
    """Return what a reader of the result should know about the model's prediction."""
    remarks = [calibrated.remark()] if calibrated is not None else []
    if transfer is not None:
        remarks.append(transfer.remark())
    elif filled:
        known = len(drawn.perturbations) - len(filled)
        remarks.append(f"{listed(filled)}: not known to the model; they have the mean effect of the other {known:,} labels.")
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


def _bands(
    request: PredictionRequest, card: ModelCard, calibrated: Calibrated | None, conditions: tuple[tuple[str, str], ...]
) -> dict[str, object] | None:
    """Return what is known of how often predicted directions hold: of the calibrated prediction, or of the corrected one where that is X."""
    if not request.by_network:
        return None
    if calibrated is not None and calibrated.calibration.chosen:
        of = calibrated.bands
    else:
        of = {(p, c): card.bands for p, c in conditions if card.bands is not None and p in card.perturbations}
    kinds = list(dict.fromkeys(of.values()))
    return {"kinds": [to_plain(one) for one in kinds], "of": [[p, c, kinds.index(one)] for (p, c), one in of.items()]}


def _manifest(
    request: PredictionRequest,
    dataset: Dataset,
    card: ModelCard,
    cells: MeasuredCells,
    drawn: DrawnCells,
    calibrated: Calibrated | None,
    transfer: Transfer | None,
) -> dict[str, object]:
    """Return how the result was made, as JSON values."""
    embedding_models = None
    if card.reads_embedding:
        # "" where it is not recorded
        facts = dataset.embeddings.get(card.input_key)
        embedding_models = {
            "made": facts.model if facts else "",
            "trained_on": card.embedding_model or "",
            "other_allowed": request.allow_other_embedding,
        }
    expression = cells.expression
    has_effects = calibrated is not None or not request.by_network
    conditions = tuple((p, c) for c in drawn.contexts for p in drawn.perturbations)
    known = exposures(card, Path(request.model), conditions)
    parts = trained_parts(card, Path(request.model), conditions)
    if transfer is not None:
        known |= dict.fromkeys(transfer.same, "in training")  # what was measured there is what was written
    renamed = dataset.labels.renamings if dataset.labels.renamed else ()
    kind = "corrected" if request.by_network else "baseline"
    if calibrated is not None and calibrated.calibration.chosen:
        kind = "mixture"  # the calibrated prediction is X then
    if request.by_network and cells.genes and expression is None and cells.reads_embedding:
        kind = "raw"  # no measured expression to start from: the prediction under the control label stands in for it
    strange = [p for p in drawn.perturbations if p not in {*card.perturbations}] if request.by_network else []
    instead = {"labels": strange, "instead": request.unknown_effect, **(transfer.facts() if transfer is not None else {})}
    return {
        "request": to_plain(request),
        # labels that the model does not know, and what stands in their place: "control" is no change
        keys.UNKNOWN: instead if strange else None,
        "model": {"id": card.id, "name": card.name, "weights_hash": card.weights_hash},
        "simulated": card.simulated,
        # whether agreement with measured cells of a condition would be a test of the model
        "exposure": [[p, c, exposure] for (p, c), exposure in known.items()],
        # what of it was trained on: context, perturbation, both together
        "trained_on": [[p, c, one.context, one.perturbation, one.pair] for (p, c), one in parts.items()],
        # how often the direction of predicted genes held where the model saw nothing: each kind once, and which condition has which
        "bands": _bands(request, card, calibrated, conditions),
        "method": request.method,
        keys.X_KIND: kind,
        "attention": request.attention or card.attention,
        "attention_source": card.attention_source if request.attention is None else "chosen in the request",
        "data_hash": dataset.hash(),
        "control": {"data": dataset.labels.control, "labels": list(dataset.labels.controls), "model": card.control},
        "renamed": {r.label: r.becomes for r in renamed},
        "features": {"representation": cells.source.representation, "genes_missing": cells.source.n_missing},
        "scale": "log1p" if cells.genes else "embedding",
        # of the result's X: what a measured cell's counts summed to before the log1p, and how the data set's values were brought there
        "depth": expression.depth_of(dataset.scale) if expression and cells.genes else None,
        "depth_of_data": dataset.scale.depth,
        "embedding_key": card.input_key if card.reads_embedding else None,
        "embedding_models": embedding_models,
        "effects_hash": effects_hash(Path(request.model)) if has_effects else None,
        "calibration": calibrated.facts() if calibrated is not None else None,
        "set_size": drawn.set_size,
        "versions": package_versions(),
    }
