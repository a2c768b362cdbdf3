"""What the worker does for a prediction, and for what is derived from one: its map, tables and attention, written into its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from state_engine.analysis import differential as de
from state_engine.analysis import enrichment, export, projection, stored
from state_engine.analysis.on_target import TARGETS, TargetsRequest, check_targets, dead, words
from state_engine.analysis.resemblance import RESEMBLANCE, resemblance
from state_engine.analysis.selected import selected_for
from state_engine.attention.cell_set import AttentionRequest, attention_of_set
from state_engine.attention.compare_modes import check_attention
from state_engine.attention.maps import maps_name
from state_engine.checkpoints.load import card_of
from state_engine.config import load_settings
from state_engine.data.files.zarr_copy import STORE, write_zip
from state_engine.files import replacing, write_json
from state_engine.heads.report import ANNOTATION, read_annotation
from state_engine.jobs import local
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.reporting import REPORT, report_of_run
from state_engine.jobs.requests import (
    AttentionMapsRequest,
    DifferentialRequest,
    EffectsRequest,
    FileWritten,
    GeneSetsRequest,
    LookRequest,
    MatrixRequest,
    ModesCompared,
    ModesRequest,
    ReportRequest,
    SelectedCellsRequest,
    StoreRequest,
    TablesRequest,
)
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.warm_models import transition_model
from state_engine.library.allowed import check_data, check_readable, readable
from state_engine.library.datasets import get_dataset
from state_engine.options import command
from state_engine.plain import to_plain
from state_engine.prediction.matrix import FILE_NAME as MATRIX
from state_engine.prediction.matrix import write_predicted
from state_engine.prediction.measured_means import measure
from state_engine.prediction.predict import predict as predict_cells
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.progress import OnProgress, Progress
from state_engine.shards.run import LOCAL, in_run

# DE tables that come with the prediction; more conditions get theirs when they are looked at
TABLES_AT_ONCE = 24


@dataclass(frozen=True)
class Predicted:
    """How much was predicted, and where."""

    cells: int
    conditions: int
    device: str


@dataclass(frozen=True)
class Looked:
    """How many tables the run has now."""

    tables: int


@dataclass(frozen=True)
class TargetsChecked:
    """How many rows the table of targets has, what it says in a sentence, and the perturbations that do nothing."""

    rows: int
    words: str
    dead: tuple[str, ...]


def predict(request: PredictionRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Predicted:
    """Predict, then average the measured cells; queue what the pages need to look at it."""
    settings = load_settings()
    check_readable(settings, request.model)
    check_data(settings, request.data, *(screen.data for screen in request.measured))
    on_progress(Progress("Loading the model"))
    # a baseline needs no weights, and other machines load their own
    loaded = transition_model(request, warm) if request.by_network and settings.executor == LOCAL else None
    card = loaded.card if loaded is not None else card_of(Path(request.model))
    done = predict_cells(request, run.result, on_progress, loaded, shards=in_run(run.path))
    result = open_result(run.result)
    run.record(
        seed=request.seed,
        data_hash=str(result.manifest["data_hash"]),
        model_hash=card.weights_hash,
        device=done.device,
        precision=request.precision,
        command=command(request, output="prediction.h5ad"),
        settings={name: result.manifest[name] for name in ("method", "set_size", "attention")},
    )
    for remark in done.remarks:
        run.log(remark)
    measure(request, card, run.file("observed_means.npz"), on_progress)
    alike = resemblance(result)
    if alike is not None:
        run.log(alike.words())
        write_json(run.file(RESEMBLANCE), to_plain(alike))
    # the result can be looked at now; its map and tables follow as a job of their own
    local.queue(settings, LookRequest(run.id), f"Map and tables of {run.manifest.title}", parent=run.id)
    return Predicted(done.cells, len(done.contexts) * len(done.perturbations), done.device)


def look(request: LookRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Looked:
    """Make the first DE tables, the sizes of all effects and the UMAP of a prediction."""
    parent = RunFolder.open(load_settings(), request.run)
    result = open_result(parent.result)
    conditions = result.conditions()[:TABLES_AT_ONCE] if result.has_expression else []
    for number, (perturbation, context) in enumerate(conditions):
        on_progress(Progress("Comparing genes", number, len(conditions)))
        stored.answer(parent.path, perturbation, context, result=result)
    if result.has_expression:
        stored.effects_for(parent.path, on_progress)
    on_progress(Progress("Computing the UMAP"))
    projection.fit(parent.result, parent.file("projection.npz"), parent.manifest.seed or 0, on_progress)
    return Looked(len(conditions))


def differential(request: DifferentialRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Make one DE table of a prediction, and its comparison with measured cells where there are any."""
    parent = RunFolder.open(load_settings(), request.run)
    on_progress(Progress("Comparing genes"))
    reference, expression = cast(de.Reference, request.reference), cast(de.Expression, request.expression)
    condition = request.perturbation, request.context
    return FileWritten(stored.answer(parent.path, *condition, reference, expression, on_progress).name)


def selected_cells(request: SelectedCellsRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Compare selected cells of a prediction with all others."""
    parent = RunFolder.open(load_settings(), request.run)
    return FileWritten(selected_for(parent.path, request.cells, request.layer, on_progress).name)


def effects(request: EffectsRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Measure all effects of a prediction."""
    parent = RunFolder.open(load_settings(), request.run)
    return FileWritten(stored.effects_for(parent.path, on_progress).name)


def gene_sets(request: GeneSetsRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Make an answer about gene sets of a prediction."""
    parent = RunFolder.open(load_settings(), request.run)
    return FileWritten(enrichment.answer_for(parent.path, request.question, on_progress).name)


def targets(request: TargetsRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> TargetsChecked:
    """Check perturbations against the genes they name; the table is in the job's own folder."""
    check_data(load_settings(), request.data)
    table = check_targets(request, on_progress)
    with replacing(run.file(TARGETS)) as beside:
        table.to_parquet(beside, engine="pyarrow")
    return TargetsChecked(len(table), words(table), dead(table))


def tables(request: TablesRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Write all tables of a prediction as one zip."""
    parent = RunFolder.open(load_settings(), request.run)
    return FileWritten(export.write_tables(parent.path, on_progress, in_run(parent.path).executor).name)


def report(request: ReportRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Write the report of a run into its folder."""
    settings = load_settings()
    parent = RunFolder.open(settings, request.run)
    output = parent.file(REPORT)
    report_of_run(settings, parent, output, on_progress)
    return FileWritten(output.name)


def matrix(request: MatrixRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Write the predicted cells of a prediction as a matrix."""
    parent = RunFolder.open(load_settings(), request.run)
    output = parent.file(MATRIX)
    write_predicted(open_result(parent.result), output, on_progress)
    return FileWritten(output.name)


def store(request: StoreRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Write a prediction, or cells that a head called, as a zipped zarr store."""
    settings = load_settings()
    parent = RunFolder.open(settings, request.run)
    output, cells = parent.file(STORE), parent.result
    if parent.file(ANNOTATION).exists():
        cells = Path(readable(get_dataset(settings, read_annotation(parent.path).dataset).path, settings))
    write_zip(cells, output, on_progress)
    return FileWritten(output.name)


def attention(request: AttentionMapsRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Predict one cell set of a prediction again, and keep the weights of all heads."""
    settings = load_settings()
    parent = RunFolder.open(settings, request.run)
    prediction = parent.request_as(PredictionRequest)
    check_readable(settings, prediction.model)
    check_data(settings, prediction.data)
    asked = AttentionRequest(prediction, request.perturbation, request.context, request.number)
    output = parent.file(maps_name(asked.perturbation, asked.context, asked.number))
    attention_of_set(asked, output, on_progress, transition_model(prediction, warm))
    return FileWritten(output.name)


def attention_check(request: ModesRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> ModesCompared:
    """Compare each attention mode with measured cells."""
    asked = request.prediction
    settings = load_settings()
    check_readable(settings, asked.model)
    check_data(settings, asked.data)
    on_progress(Progress("Loading the model"))
    scores = check_attention(asked, transition_model(asked, warm), on_progress)
    write_json(run.file("modes.json"), to_plain(scores))
    return ModesCompared(scores)
