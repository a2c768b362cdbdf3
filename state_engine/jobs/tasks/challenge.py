"""What the worker does for challenges beside checking and packing: scores and rehearsals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from state_engine.challenge import rehearsal as rehearsals
from state_engine.challenge import score as challenge_scores
from state_engine.challenge.score_request import RehearsalRequest, ScoreRequest
from state_engine.challenge.scores import Scores
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.results import _model
from state_engine.options import command
from state_engine.plain import from_plain
from state_engine.progress import OnProgress, Progress


def score(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `ScoreRequest`; the scores are in the run folder."""
    asked = from_plain(ScoreRequest, request)
    on_progress(Progress("Reading labels"))
    run.record(command=command(replace(asked, submission=replace(asked.submission, write=False)), output="scores"))
    return _summary(challenge_scores.score(asked, run.path, on_progress), run)


def rehearse(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `RehearsalRequest`; the prediction and its scores are in the run folder."""
    asked = from_plain(RehearsalRequest, request)
    on_progress(Progress("Loading the model"))
    loaded = _model(asked.prediction, warm)
    run.record(seed=asked.seed, model_hash=loaded.card.weights_hash, precision=asked.prediction.precision)
    return _summary(rehearsals.rehearse(asked, run.path, on_progress, loaded), run)


def _summary(scores: Scores, run: RunFolder) -> dict[str, Any]:
    for remark in scores.remarks:
        run.log(remark)
    run.record(settings={"metrics": scores.engine, "truth": Path(scores.truth).name})
    return {"overall": scores.overall, "contexts": len(scores.contexts)}
