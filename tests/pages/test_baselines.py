"""Pages and baselines: who predicts, what a calibrated prediction will be, and a result that says it is no model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pages.parts.model_scores import calibration_words, fit_words
from pages.parts.predict.form import METHOD_WORDS, calibrated_words
from state_engine.checkpoints.card import TrainingSummary
from state_engine.checkpoints.store import read_card, set_calibration
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.held import HeldOut
from state_engine.effects.store import save_effects
from state_engine.files import write_json
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import get_dataset, receive_upload
from state_engine.plain import to_plain
from state_engine.prediction.request import METHODS, CellCount, PredictionRequest
from tests.pages.make_run import make_run
from tests.pages.opened import opened, text
from tests.pages.queued import queued
from tests.prediction.test_calibrated import WEIGHTS, effects_of
from tests.small import write_cells, write_model


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
    asked: list[tuple[PredictionRequest, str]] = []

    def submit(settings: Settings, request: PredictionRequest, title: str = "", **_: str) -> tuple[str, str]:
        asked.append((request, title))
        return "job", queued(settings, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    where = thread(home)
    page = opened(monkeypatch, "predict", None, home, **where)
    picker = page.selectbox(key=f"method_{where['model']}")
    assert picker.options == [
        "The model",
        "Baseline: no change",
        "Baseline: mean of other contexts",
        "Baseline: mean of other contexts, weighted by likeness",
        "Baseline: mean of the context",
        "Baseline: sum of single perturbations",
        "Baseline: nearest neighbours by effect",
    ]
    next(m for m in page.multiselect if "known to this model" in m.label).set_value(["TNF"]).run()
    assert "0.25 of the model's effect and 0.50 of the mean" in text(page)
    page.selectbox(key=f"method_{where['model']}").set_value("mean of other contexts").run()
    assert "of the model's effect" not in text(page)
    page.button(key="predict").click().run()
    (request, title), *_ = asked
    assert request.method == "mean of other contexts" and title.endswith("mean of other contexts")


def test_measured_cells_are_counted_in_the_chosen_contexts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = thread(home)
    page = opened(monkeypatch, "predict", None, home, **where)
    table = open_dataset(get_dataset(Settings(home), where["data"]).path).table()
    for contexts in (["B"], ["NK"], ["B", "NK"], []):
        page.multiselect(key=f"contexts_{where['data']}").set_value(contexts).run()
        if contexts == ["B"]:
            page.multiselect(key=f"perturbations_{where['model']}").set_value(["TNF"]).run()
        picker = page.multiselect(key=f"perturbations_{where['model']}")
        cells = table.loc["TNF", contexts or list(table.columns)].sum()
        assert (f"TNF · measured, {cells:,} cells" if cells else "TNF") in picker.options
        assert picker.value == ["TNF"]  # the words of an option change, not what is chosen
    assert not page.exception


def test_a_table_of_cells_for_each_perturbation_can_be_uploaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PredictionRequest] = []

    def submit(settings: Settings, request: PredictionRequest, title: str = "", **_: str) -> tuple[str, str]:
        asked.append(request)
        return "job", queued(settings, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    where = thread(home)
    page = opened(monkeypatch, "predict", None, home, **where)
    key = f"perturbations_{where['model']}"
    table = b"\xef\xbb\xbfperturbation\tnum_cells\nTNF\t11\nIFNB1\t7\nIFNB11\t9\n"
    page.file_uploader(key=f"{key}_file").upload("cells.tsv", table, "text/plain").run()
    page.button(key=f"{key}_add").click().run()
    assert "TNF 11, IFNB1 7" in text(page) and "not known to this model" in text(page)
    assert "'IFNB11' may be 'IFNB1'" in text(page)
    page.file_uploader(key=f"{key}_file").upload("cells.tsv", b"perturbation\tnum_cells\nTNF\t-1\n", "text/plain").run()
    page.button(key=f"{key}_add").click().run()
    assert "Line 2 of cells.tsv" in text(page) and not page.exception
    page.file_uploader(key=f"{key}_file").upload("names.txt", b"TNF\n", "text/plain").run()
    page.number_input(key="most_cells").set_value(10).run()
    page.button(key="predict").click().run()
    assert asked[0].cells_of == (CellCount("TNF", 11), CellCount("IFNB1", 7)) and asked[0].perturbations == ("TNF", "IFNB1")
    assert (asked[0].count("TNF"), asked[0].least_cells, asked[0].keep_raw, asked[0].observed) == (10, None, True, 512)


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


SCORED = replace(
    WEIGHTS, crossed="contexts", folds=2, conditions=2, contexts=("B", "NK"), paired_range=(0.2, 0.3), mean_range=(0.4, 0.6),
    scores={"mae_none": 0.08, "mae_corrected": 0.05, "mae_mean": 0.06, "mae_calibrated": 0.04, "mse_calibrated": 0.01},
)  # fmt: skip


def test_the_card_says_how_far_to_believe_the_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = thread(home)
    folder = home / "models" / "tiny"
    trained = TrainingSummary(
        "my cells", 300, "energy", (HeldOut("NK"),), scores={"mae_corrected": 0.07, "mae_mean": 0.05, "mae_none": 0.09}
    )
    write_json(folder / "model.json", to_plain(replace(read_card(folder), calibration=SCORED, training=trained)))
    page = opened(monkeypatch, "models", None, home, **where)
    assert not page.exception
    assert "300 steps, loss energy" in text(page)
    assert "Cannot be told from the mean effect of the other contexts** by so few conditions: MAE 0.0700 against 0.0500" in text(
        page
    )
    assert "**0.25** of the model's own effect and **0.50**" in text(page)
    assert "closer than either alone, and than no change**]: MAE 0.0400 against 0.0500" in text(page)
    assert "2 conditions (40 measured cells), held out for validation and never test cells: IFNB1 in B, NK" in text(page)
    assert "Leaving contexts out in turn (2 times), the weights were 0.20 to 0.30 and 0.40 to 0.60" in text(page)


def test_where_mixing_did_not_help_or_was_not_measured_the_card_says_so() -> None:
    worse = replace(SCORED, scores=SCORED.scores | {"mae_calibrated": 0.055})
    assert "the model alone is closer**]: MAE 0.0500 against 0.0550" in calibration_words(worse)
    still = replace(SCORED, scores=SCORED.scores | {"mae_none": 0.03})
    assert "no change is closer**]: MAE 0.0300 against 0.0400" in calibration_words(still)
    assert "on one condition, so whether that helps elsewhere was not measured" in calibration_words(WEIGHTS)
    assert "Leaving" not in fit_words(WEIGHTS)
    assert "by a further model that was trained without it" in fit_words(replace(WEIGHTS, origin="left-out contexts"))


def test_a_model_from_elsewhere_has_no_such_section(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(monkeypatch, "models", None, home, **thread(home, effects=False))
    assert "How far to believe it" not in text(page) and "never seen" not in text(page)


@pytest.mark.parametrize("view", ["explore", "attention"])
def test_a_baselines_result_says_so_and_has_no_attention(home: Path, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    run = make_run(Settings(home))
    assert "not by the model" not in text(opened(monkeypatch, view, run, home))
    write_json(run.path / "request.json", run.request | {"method": "mean of other contexts"})
    page = opened(monkeypatch, view, RunFolder(run.path), home)
    assert "Predicted by a baseline, not by the model:** basal cells plus the perturbation's mean effect" in text(page)
    assert not page.exception and bool(page.get("bidi_component")) == (view == "explore")
    assert not [b for b in page.button if b.key == "compute_attention"]
