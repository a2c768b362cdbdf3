"""What the worker does for a screen: it fills the run's folder, and takes the predictions of an earlier screen where one is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.head_card import read_head_card
from state_engine.checkpoints.load import card_of
from state_engine.config import load_settings
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.warm_models import transition_model
from state_engine.library.allowed import check_data, check_readable
from state_engine.library.models import places_of
from state_engine.options import command
from state_engine.progress import OnProgress, Progress
from state_engine.screening.request import ScreenRequest
from state_engine.screening.run import screen as screen_all
from state_engine.shards.run import LOCAL, in_run


@dataclass(frozen=True)
class Screened:
    """Conditions that were ranked, and how many of them are above chance."""

    conditions: int
    found: int
    device: str


def screen(request: ScreenRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Screened:
    """Screen; ranking, effects and report are in the run's folder."""
    settings = load_settings()
    check_readable(settings, request.model, request.head, request.backbone, request.earlier)
    check_data(settings, request.data)
    card: ModelCard = card_of(Path(request.model))
    loaded = None
    if request.by_network and settings.executor == LOCAL:  # other machines load their own
        on_progress(Progress("Loading the model"))
        loaded = transition_model(request.prediction((), "", request.cells), warm)
    places = None
    if request.head:
        head = read_head_card(Path(request.head))
        places = (*([Path(head.place)] if head.place else []), *places_of(settings, head.source.model))
    report = screen_all(request, run.path, on_progress, loaded, places, in_run(run.path).executor)
    for remark in report.remarks:
        run.log(remark)
    if report.resemblance is not None:
        run.log(report.resemblance.words())
    run.record(
        seed=request.seed, model_hash=card.weights_hash, device=report.device, precision=request.precision,
        command=command(request, output="screen"), settings={"goal": report.goal_words, "method": request.method},
    )  # fmt: skip
    return Screened(report.perturbations * len(report.contexts), report.found, report.device)
