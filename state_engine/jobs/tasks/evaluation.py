"""What the worker does to evaluate: predicted against measured cells, or a trained model on its held-out cells."""

from __future__ import annotations

from typing import Any

from state_engine.checkpoints.load import load_model
from state_engine.config import load_settings
from state_engine.data.splits.plan import parse_plan
from state_engine.device import choose_device, dtype_of
from state_engine.evaluation import evaluate as evaluation
from state_engine.evaluation import held_out
from state_engine.evaluation.held_out_request import HeldOutRequest
from state_engine.evaluation.report import Evaluation
from state_engine.evaluation.request import EvaluationRequest
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import check_places
from state_engine.library.allowed import check_evaluation, check_held_out
from state_engine.options import command
from state_engine.plain import from_plain
from state_engine.progress import OnProgress, Progress


def evaluate(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """An `EvaluationRequest`; tables and verdict are in the run folder."""
    asked = from_plain(EvaluationRequest, request)
    check_evaluation(asked, load_settings())
    run.record(seed=asked.seed, command=command(asked, output="evaluation"))
    return _summary(evaluation.evaluate(asked, run.path, on_progress), run)


def test(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `HeldOutRequest`; both sides' cells, tables and verdict are in the run folder."""
    asked, settings = from_plain(HeldOutRequest, request), load_settings()
    check_held_out(asked, settings)
    if asked.split:
        check_places(parse_plan(asked.split), settings)
    on_progress(Progress("Loading the model"))
    device = choose_device(asked.device)
    loaded = load_model(asked.folder, device.kind, dtype_of(asked.precision))
    run.record(
        seed=asked.seeds[0],
        model_hash=loaded.card.weights_hash,
        device=device.name,
        precision=asked.precision,
        command=command(asked, output="test"),
    )
    return _summary(held_out.evaluate_held_out(asked, run.path, on_progress, loaded), run)


def _summary(made: Evaluation, run: RunFolder) -> dict[str, Any]:
    for remark in (*made.verdict, *made.remarks):
        run.log(remark)
    run.record(settings={"profile": made.profile, "metrics": made.engine, "controls": made.control_source})
    return {"conditions": len(made.conditions), "genes": made.n_genes, "methods": len(made.methods)}
