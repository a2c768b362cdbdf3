"""What the worker does for challenges: check and pack a submission, score one, rehearse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from state_engine.challenge import rehearsal as rehearsals
from state_engine.challenge import score as challenge_scores
from state_engine.challenge import submit as submission
from state_engine.challenge.score_request import RehearsalRequest, ScoreRequest
from state_engine.challenge.scores import Scores
from state_engine.challenge.spec import known_challenges
from state_engine.challenge.submit import SubmissionRequest
from state_engine.config import load_settings
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.warm_models import transition_model
from state_engine.library.allowed import check_data, check_no_program, check_readable
from state_engine.options import command
from state_engine.progress import OnProgress, Progress


@dataclass(frozen=True)
class Submitted:
    """Whether nothing stands against the submission, how many errors there are, and whether the archive was written."""

    ok: bool
    errors: int
    written: bool


@dataclass(frozen=True)
class Scored:
    """The overall score, None when a metric is missing, and the number of contexts."""

    overall: float | None
    contexts: int


def submit(request: SubmissionRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Submitted:
    """Check cells for a challenge, or write and verify the archive; reports are in the run folder."""
    check_data(load_settings(), *_paths(request))
    on_progress(Progress("Reading labels"))
    report = submission.submit(request, run.path, on_progress)
    output = submission.ARCHIVE if request.write else ""
    run.record(command=command(request, output=output), settings={"repairs": list(report.repairs)})
    return Submitted(report.ok, len(report.errors), report.archive is not None)


def score(request: ScoreRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Scored:
    """Score a submission; the scores are in the run folder."""
    check_no_program(request.cell_eval)
    check_data(load_settings(), request.truth, request.training, *_paths(request.submission))
    on_progress(Progress("Reading labels"))
    run.record(command=command(replace(request, submission=replace(request.submission, write=False)), output="scores"))
    return _scored(challenge_scores.score(request, run.path, on_progress), run)


def rehearse(request: RehearsalRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Scored:
    """Rehearse a challenge; the prediction and its scores are in the run folder."""
    check_readable(load_settings(), *_toml(request.challenge), request.prediction.model)
    check_data(load_settings(), request.prediction.data)
    on_progress(Progress("Loading the model"))
    loaded = transition_model(request.prediction, warm)
    run.record(seed=request.seed, model_hash=loaded.card.weights_hash, precision=request.prediction.precision)
    return _scored(rehearsals.rehearse(request, run.path, on_progress, loaded), run)


def _paths(request: SubmissionRequest) -> tuple[str, ...]:
    return (*_toml(request.challenge), request.source, request.genes, request.pert_counts, *request.controls)


def _toml(challenge: str) -> tuple[str, ...]:
    """The path of a challenge's own rules; none when it is known by its name."""
    return () if challenge in known_challenges() else (challenge,)


def _scored(scores: Scores, run: RunFolder) -> Scored:
    for remark in scores.remarks:
        run.log(remark)
    run.record(settings={"metrics": scores.engine, "truth": Path(scores.truth).name})
    return Scored(scores.overall, len(scores.contexts))
