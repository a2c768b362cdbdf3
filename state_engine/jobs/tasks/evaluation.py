"""What the worker does to evaluate: predicted against measured cells, or a trained model on its held-out cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.load import card_of, load_model
from state_engine.comparison.compare import compare as compare_sides
from state_engine.comparison.request import CompareRequest, SelectionRequest
from state_engine.comparison.selection import selection_table
from state_engine.config import load_settings
from state_engine.data.splits.plan import parse_plan, plan_files, read_plan
from state_engine.device import choose_device, dtype_of
from state_engine.evaluation import evaluate as evaluation
from state_engine.evaluation import held_out
from state_engine.evaluation.report import Evaluation
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import FileWritten
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import check_places
from state_engine.library.allowed import check_data, check_no_program, check_readable
from state_engine.options import command
from state_engine.progress import OnProgress, Progress
from state_engine.shards.run import LOCAL, in_run
from state_engine.train.run_folder import SPLIT


@dataclass(frozen=True)
class Evaluated:
    """How many conditions, genes and methods were compared."""

    conditions: int
    genes: int
    methods: int


def evaluate(request: EvaluationRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Evaluated:
    """Evaluate files; tables and verdict are in the run folder."""
    check_no_program(request.cell_eval)
    settings = load_settings()
    check_readable(settings, request.effects, request.features)
    check_data(settings, request.real, request.measured_elsewhere, *(p.path for p in request.predicted))
    run.record(seed=request.seed, command=command(request, output="evaluation"))
    return _evaluated(evaluation.evaluate(request, run.path, on_progress), run)


def test(request: HeldOutRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Evaluated:
    """Evaluate a model on its held-out cells; both sides' cells, tables and verdict are in the run folder."""
    settings = load_settings()
    beside = [other.path for other in request.beside]
    check_readable(settings, request.run, request.model, request.features, request.measured_elsewhere, *beside)
    plan = parse_plan(request.split) if request.split else read_plan(Path(request.run) / SPLIT)
    if request.split:
        check_places(plan, settings)
    files = (file for _, file in plan_files(plan, settings.home if request.split else Path(request.run)))
    check_data(settings, request.measured_elsewhere, *files)
    on_progress(Progress("Loading the model"))
    shards, loaded = in_run(run.path), None
    if settings.executor == LOCAL:  # other machines load their own
        loaded = load_model(request.folder, choose_device(request.device).kind, dtype_of(request.precision))
    card = loaded.card if loaded is not None else card_of(request.folder)
    run.record(
        seed=request.seeds[0],
        model_hash=card.weights_hash,
        device=shards.executor.device_name(request.device),
        precision=request.precision,
        command=command(request, output="test"),
    )
    return _evaluated(held_out.evaluate_held_out(request, run.path, on_progress, loaded, shards), run)


@dataclass(frozen=True)
class Compared:
    """How many pairs of conditions and genes were compared."""

    pairs: int
    genes: int


def compare(request: CompareRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Compared:
    """Compare two sides; what was found is in the run folder."""
    check_data(load_settings(), *request.first.files, *request.second.files)
    run.record(seed=request.seed, command=command(request, output="comparison"))
    found = compare_sides(request, run.path, on_progress)
    for remark in (*found.words(), *found.remarks):
        run.log(remark)
    run.record(settings={"first": found.first.name, "second": found.second.name, "interval": found.interval})
    return Compared(len(found.pairs), found.genes)


def selection(request: SelectionRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> FileWritten:
    """Test which genes differ between selected cells of the two sides of a comparison."""
    parent = RunFolder.open(load_settings(), request.run)
    return FileWritten(selection_table(parent.path, request.first, request.second, on_progress).name)


def _evaluated(found: Evaluation, run: RunFolder) -> Evaluated:
    for remark in (*found.verdict, *found.remarks):
        run.log(remark)
    run.record(settings={"profile": found.profile, "metrics": found.engine, "controls": found.control_source})
    return Evaluated(len(found.conditions), found.n_genes, len(found.methods))
