"""What an evaluation on a server may read, and how its jobs are asked for. No torch: pages import this."""

from __future__ import annotations

from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import RequestError
from state_engine.evaluation.held_out_request import HeldOutRequest
from state_engine.evaluation.request import EvaluationRequest
from state_engine.library.datasets import DEMO_PATH, list_datasets
from state_engine.library.models import list_models

EVALUATE, TEST = "evaluate", "test"


def check_evaluation(request: EvaluationRequest, settings: Settings) -> None:
    """A server reads data sets of this installation and files below its runs and data folders; it starts no program.

    Raises:
        RequestError: names what lies elsewhere.
    """
    if request.cell_eval:
        raise RequestError(
            "A job starts no other program.", "cell-eval runs in an environment of its own.", "Use the command line."
        )
    for path in (request.real, *(p.path for p in request.predicted), request.effects, request.features):
        if path:
            _check(Path(path), settings)


def check_held_out(request: HeldOutRequest, settings: Settings) -> None:
    """The same for a test: its run or model is one of this installation.

    Raises:
        RequestError: names what lies elsewhere.
    """
    for path in (request.run, request.model, request.features):
        if path:
            _check(Path(path), settings)


def _check(path: Path, settings: Settings) -> None:
    place = path.resolve()
    known = {Path(entry.path).resolve() for entry in list_datasets(settings)} | {DEMO_PATH.resolve()}
    known |= {entry.path.resolve() for entry in list_models(settings)} | {DEMO_PATH.resolve().parent / "model"}
    folders = (settings.runs.resolve(), settings.uploads.resolve(), *(f.resolve() for f in settings.data_folders))
    if place not in known and not any(place.is_relative_to(folder) for folder in folders):
        raise RequestError(
            f"{path.name} is outside what may be read.",
            "It is no data set, model or run of this installation, nor below one of its data folders.",
            "Open it on the Data page, or have its folder added to STATE_EXPLORER_DATA.",
        )
