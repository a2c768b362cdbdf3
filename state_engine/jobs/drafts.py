"""The form of Predict as it was left, for each data set and model: HOME/drafts/DATA-MODEL.json, a request."""

from __future__ import annotations

from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import StateError
from state_engine.files import read_json, write_json
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.request import PredictionRequest


def draft_of(settings: Settings, data: str, model: str) -> PredictionRequest | None:
    """Return the draft for a data set and a model, by their ids; None where there is none that can be read."""
    try:
        return from_plain(PredictionRequest, read_json(_place(settings, data, model)))
    except (OSError, ValueError, StateError):
        return None


def keep_draft(settings: Settings, data: str, model: str, request: PredictionRequest) -> None:
    """Write a draft down.

    Raises:
        RequestError: the settings are for looking only.
    """
    settings.check_changes()
    place = _place(settings, data, model)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, to_plain(request))


def _place(settings: Settings, data: str, model: str) -> Path:
    return settings.home / "drafts" / f"{data}-{model}.json"
