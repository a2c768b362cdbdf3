"""Can a request be done, as far as can be told before it is? What a form checks as it is filled, for requests that come from a file."""

from __future__ import annotations

from pathlib import Path

from state_engine.checkpoints.load import card_of
from state_engine.config import Settings
from state_engine.errors import RequestError, listed
from state_engine.library.allowed import check_readable
from state_engine.library.foreign import call, open_foreign
from state_engine.plain import to_plain
from state_engine.prediction.compatibility import check_compatibility
from state_engine.prediction.request import PredictionRequest


def check(settings: Settings, request: object) -> None:
    """Refuse a request that names files which its owner may not read, or a prediction that its data set or model cannot give.

    The job itself looks once more, and into the files.

    Raises:
        StateError: the first thing that stands against it.
    """
    check_readable(settings, *_paths(to_plain(request)))
    if isinstance(request, PredictionRequest):
        _check_prediction(settings, request)


def _check_prediction(settings: Settings, request: PredictionRequest) -> None:
    check_readable(settings, request.data, request.model)  # opened below, however they are written: a/../../b too
    for path, what in ((request.data, "data set"), (request.model, "model")):
        if not Path(path).exists():
            raise RequestError(f"The {what} {Path(path).name} is not there.", "", "Correct the path, or open it first.")
    card = call(card_of, Path(request.model), path=Path(request.model))
    data = open_foreign(Path(request.data), request.choices, settings)
    blocking = check_compatibility(data, card, allow_other_embedding=request.allow_other_embedding).blocking
    if blocking:
        raise RequestError(blocking[0].title, blocking[0].detail, blocking[0].fix)
    if not request.allow_unknown and (unknown := [p for p in request.perturbations if p not in card.perturbations]):
        raise RequestError(f"The model does not know {listed(unknown)}.", f"It knows {len(card.offered):,} perturbations.")
    if unknown := [c for c in request.contexts if c not in data.contexts]:
        raise RequestError(f"The data set has no context {listed(unknown)}.", f"It has {listed(list(data.contexts), 8)}.")


def _paths(value: object) -> list[Path]:
    """Return every text in a request that is written as a path from the root or the home."""
    if isinstance(value, dict):
        return [path for inner in value.values() for path in _paths(inner)]
    if isinstance(value, list):
        return [path for inner in value for path in _paths(inner)]
    return [Path(value)] if isinstance(value, str) and value.startswith(("/", "~", "..")) else []
