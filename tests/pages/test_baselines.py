"""Pages and baselines: who predicts, what a calibrated prediction will be, and a result that says it is no model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pages.ui.predictpage import METHOD_WORDS, calibrated_words
from state_engine.checkpoints.baselines import save_effects
from state_engine.checkpoints.store import read_card, set_calibration
from state_engine.config import Settings
from state_engine.datasets import receive_upload
from state_engine.files import write_json
from state_engine.jobs import local
from state_engine.request import METHODS, PredictionRequest
from state_engine.runs import RunFolder
from state_engine.values import from_plain
from tests.pages.make_run import make_run, opened, text
from tests.small import write_cells, write_model
from tests.test_calibrated import WEIGHTS, effects_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def thread(home: Path, effects: bool = True) -> dict[str, str]:
    """A data set and a model in a home, as they are in the address."""
    folder = home / "models" / "tiny"
    card = write_model(folder)
    if effects:
        save_effects(folder, effects_of())
        set_calibration(folder, WEIGHTS)
    path = write_cells(home / "cells.h5ad")
    with path.open("rb") as stream:
        return {"data": receive_upload(Settings(home), path.name, stream, path.stat().st_size).id, "model": card.id}


def test_a_baseline_can_be_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[dict[str, Any], str]] = []

    def submit(settings: Settings, kind: str, request: dict[str, Any], title: str = "") -> tuple[str, str]:
        asked.append((request, title))
        return "job", RunFolder.create(settings, kind, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    where = thread(home)
    page = opened(monkeypatch, "predict", None, home, **where)
    picker = page.selectbox(key=f"method_{where['model']}")
    assert picker.options == [
        "The model",
        "Baseline: no change",
        "Baseline: mean of other contexts",
        "Baseline: mean of the context",
    ]
    next(m for m in page.multiselect if "known to this model" in m.label).set_value(["TNF"]).run()
    assert "0.25 of the model's effect and 0.50 of the mean" in text(page)
    page.selectbox(key=f"method_{where['model']}").set_value("mean of other contexts").run()
    assert "of the model's effect" not in text(page)
    page.button(key="predict").click().run()
    (request, title), *_ = asked
    assert from_plain(PredictionRequest, request).method == "mean of other contexts" and title.endswith("mean of other contexts")


def test_a_model_without_effects_offers_no_change_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = thread(home, effects=False)
    page = opened(monkeypatch, "predict", None, home, **where)
    assert page.selectbox(key=f"method_{where['model']}").options == ["The model", "Baseline: no change"]


def test_every_method_has_words() -> None:
    assert tuple(METHOD_WORDS) == METHODS


def test_nothing_is_said_of_a_calibration_that_is_not_there(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    request = PredictionRequest("d", "m", ("TNF",))
    assert calibrated_words(request, read_card(tmp_path / "model")) == ""
    card = set_calibration(tmp_path / "model", WEIGHTS)
    assert "0.25" in calibrated_words(request, card) and calibrated_words(replace(request, method="no change"), card) == ""


@pytest.mark.parametrize("view", ["explore", "attention"])
def test_a_baselines_result_says_so_and_has_no_attention(home: Path, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    run = make_run(Settings(home))
    assert "not by the model" not in text(opened(monkeypatch, view, run, home))
    write_json(run.path / "request.json", run.request | {"method": "mean of other contexts"})
    page = opened(monkeypatch, view, RunFolder(run.path), home)
    assert "Predicted by a baseline, not by the model:** basal cells plus the perturbation's mean effect" in text(page)
    assert not page.exception and bool(page.get("plotly_chart")) == (view == "explore")
    assert not [b for b in page.button if b.key == "compute_attention"]
