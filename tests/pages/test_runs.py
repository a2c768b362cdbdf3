"""Runs without a browser: rows, filter, details, asking again, several at once, drafts, age limits."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pages.parts.forecast import queue_words, time_words
from pages.parts.jobs import state_text
from state_engine.config import Settings
from state_engine.files import write_json
from state_engine.jobs.kinds import Manner, WarmCache
from state_engine.jobs.packed import export_run
from state_engine.jobs.past import forecast
from state_engine.jobs.processes import identity_of
from state_engine.jobs.reporting import provenance_of
from state_engine.jobs.requests import ReportRequest
from state_engine.jobs.run_folder import RunFolder, derived_runs, list_runs
from state_engine.jobs.store import JobStore
from state_engine.jobs.tasks import results
from state_engine.library.datasets import DEMO_ID, DEMO_PATH
from state_engine.library.models import list_models
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.progress import silent
from tests.pages.make_run import make_run
from tests.pages.opened import app_on, came, opened, text
from tests.pages.queued import work_off

DEMO = pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")


def rows(app: object) -> list[str]:
    """Ids of the runs that have a row, from top to bottom."""
    return [b.key.removeprefix("delete_") for b in app.button if b.key.startswith("delete_2")]  # type: ignore[attr-defined]


def demo_request(home: Path) -> PredictionRequest:
    model = next(e for e in list_models(Settings(home)) if e.demo)
    return PredictionRequest(
        str(DEMO_PATH), str(model.path), ("TNF", "IFN-beta"), ("NK", "B"), cells=77, seed=7, method="no change"
    )


def test_the_filter_narrows_the_list(home: Path) -> None:
    done = make_run(Settings(home))
    waiting = RunFolder.create(Settings(home), "train", {"data": "d"}, "my training")
    app = app_on("runs")
    assert set(rows(app)) == {done.id, waiting.id}
    app.multiselect(key="run_kinds").set_value(["train"]).run()
    assert rows(app) == [waiting.id]
    app.multiselect(key="run_kinds").set_value([]).run()
    app.text_input(key="run_text").set_value("DRUGA").run()
    assert rows(app) == [done.id]
    app.text_input(key="run_text").set_value("no such").run()
    assert rows(app) == [] and not app.exception


def test_details_show_parameters_log_and_files(home: Path) -> None:
    run = make_run(Settings(home))
    run.log("a remark of the run")
    app = app_on("runs")
    assert "a remark" not in str([c.value for c in app.code])
    app.button(key=f"details_{run.id}").click().run()
    assert "a remark of the run" in str([c.value for c in app.code]) and "result.h5ad" in text(app)
    assert json.loads(app.json[0].value)["request"]["perturbations"] == ["drugA", "drugB"]
    assert not app.exception


@DEMO
def test_a_prediction_is_asked_again_with_the_form_filled(home: Path) -> None:
    request = demo_request(home)
    run = RunFolder.create(Settings(home), "predict", to_plain(request), "TNF in NK")
    run.finish("done")
    app = app_on("runs")
    app.button(key=f"details_{run.id}").click().run()
    app.button(key=f"again_{run.id}").click().run()
    model = app.session_state["thread_model"]
    assert app.session_state["thread_data"] == DEMO_ID and app.title[0].value.startswith("What should happen")
    assert app.multiselect(key=f"perturbations_{model}").value == ["TNF", "IFN-beta"]
    assert app.multiselect(key=f"contexts_{DEMO_ID}").value == ["NK", "B"]
    assert app.number_input(key="cells").value == 77 and app.number_input(key="seed").value == 7
    assert app.selectbox(key=f"method_{model}").value == "no change"
    assert "4 conditions" in text(app) and not app.exception


@DEMO
def test_a_draft_survives_a_new_session(home: Path) -> None:
    model = next(e.card.id for e in list_models(Settings(home)) if e.demo and e.card)
    first = app_on("predict", data=DEMO_ID, model=model)
    first.multiselect(key=f"perturbations_{model}").set_value(["TNF"]).run()
    first.number_input(key="cells").set_value(33).run()
    again = app_on("predict", data=DEMO_ID, model=model)
    assert again.multiselect(key=f"perturbations_{model}").value == ["TNF"] and again.number_input(key="cells").value == 33
    (draft,) = (home / "drafts").iterdir()
    draft.write_text("{broken")
    fresh = app_on("predict", data=DEMO_ID, model=model)
    assert fresh.multiselect(key=f"perturbations_{model}").value == [] and not fresh.exception


def test_a_run_comes_in_as_a_zip_and_opens_in_explore(home: Path, tmp_path: Path) -> None:
    run = make_run(Settings(tmp_path / "elsewhere"))
    packed = export_run(Settings(tmp_path / "elsewhere"), run.id, tmp_path / "run.zip")
    came(home, "run.zip", packed.read_bytes(), "run_zip")
    app = app_on("runs")
    assert rows(app) == [run.id] and app.session_state["thread_run"] == run.id and not app.error
    app_on("explore", run=run.id)
    assert [job.kind for job in work_off(Settings(home))] == ["effects"]  # what is derived from the result is made here
    look = app_on("explore", run=run.id)
    assert "cells shown" in text(look) or not look.error
    assert look.dataframe and not look.exception and not look.error


def test_a_damaged_zip_is_refused_in_a_sentence(home: Path) -> None:
    came(home, "run.zip", b"no zip", "run_zip")
    app = app_on("runs")
    assert "run.zip is not a readable zip file" in text(app) and not list_runs(Settings(home))


@DEMO
def test_several_requests_become_runs_one_by_one(home: Path) -> None:
    plain = to_plain(demo_request(home))
    entries = [
        {"kind": "predict", "title": "first", "request": plain},
        {"kind": "predict", "title": "wrong", "request": {**plain, "contexts": ["Mars"]}},
        {"kind": "predict", "title": "second", "request": {**plain, "seed": 8}},
    ]
    app = app_on("runs")
    app.file_uploader(key="requests_file").upload("many.json", json.dumps(entries).encode(), "application/json").run()
    assert "no context Mars" in text(app) and app.button(key="requests_submit").label == "Ask for 2 runs"
    app.button(key="requests_submit").click().run()
    titles = [i.manifest.title for i in list_runs(Settings(home)) if i.manifest]
    assert sorted(titles) == ["first", "second"] and not app.exception


def test_an_old_run_says_when_it_goes_and_may_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(Settings(home))
    created = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    write_json(run.path / "manifest.json", to_plain(replace(run.manifest, created=created)))
    assert "Will be deleted" not in text(app_on("runs"))
    monkeypatch.setenv("STATE_EXPLORER_RUN_DAYS", "30")
    import streamlit as st

    st.cache_resource.clear()
    app = app_on("runs")
    day = (datetime.now(UTC) + timedelta(days=7)).date()
    assert f"Will be deleted on {day:%Y-%m-%d}" in text(app) and run.path.is_dir()
    app.button(key=f"stay_{run.id}").click().run()
    assert "Will be deleted" not in text(app) and not app.exception


def done_before(settings: Settings, kind: str, took: float, expected: float | None, model: str = "m") -> None:
    """A job that took some seconds, for which others had been guessed."""
    store = JobStore(settings.database)
    job = store.submit(kind, {"model": model}, "r", manner=Manner(expected=expected))
    worker = identity_of()
    store.claim(worker)
    store.finish(job, worker, "done")
    with sqlite3.connect(settings.database) as db:
        db.execute("UPDATE jobs SET ended = started + ? WHERE id = ?", (took, job))


def test_estimates_learn_from_the_last_runs_here_and_say_a_range(home: Path) -> None:
    settings = Settings(home)
    alone = forecast(settings, "predict", 3.0, "m")
    assert (alone.seconds, alone.learnt, alone.wait) == (3.0, 0, 0.0)
    assert time_words(alone) == "about 3 s on this machine's CPU when nothing else runs (rough)."
    done_before(settings, "predict", 99.0, None)  # nothing was guessed for it
    for took in (3.0, 6.0, 17.0):
        done_before(settings, "predict", took, 3.0)
    done_before(settings, "train", 500.0, 100.0)
    learnt = forecast(settings, "predict", 6.0, "m")
    assert (learnt.seconds, learnt.least, learnt.most, learnt.learnt) == (12.0, 6.0, 34.0, 3)
    assert time_words(learnt) == "6 s to 34 s, by the last 3 such runs here."
    done_before(settings, "predict", 30.0, 3.0, "another")
    assert time_words(forecast(settings, "predict", 3.0, "another")) == "about 30 s, by the last such run here."
    assert forecast(settings, "predict", 3.0, "another").seconds == 30.0  # that of the model counts where there is one
    assert forecast(settings, "predict", 3.0, "never").learnt == 4


def test_estimates_say_what_stands_before(home: Path) -> None:
    settings, store = Settings(home), JobStore(Settings(home).database)
    store.submit("train", {}, "r1", "My *training*", manner=Manner(expected=600.0))
    store.claim(identity_of())
    store.submit("train", {}, "r2", "of Anna", owner="anna", manner=Manner(expected=60.0))
    behind = queue_words(forecast(settings, "embed", 5.0))
    assert behind == " It starts in about 11 min, behind 'My \\*training\\*' and 1 job of others."
    beside = queue_words(forecast(settings, "predict", 3.0, lane="short"))
    assert beside == " At the same time: 'My \\*training\\*' and 1 job of others; then both take longer."
    store.submit("never", {}, "r3")
    assert "before it are 'My" in queue_words(forecast(settings, "embed", 5.0))


def test_who_waits_reads_behind_what(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(Settings(home).database)
    store.submit("train", {}, "r1", "My training", manner=Manner(expected=600.0))
    store.claim(identity_of())
    long = store.submit("embed", {}, "r2", "cells")
    short = store.submit("predict", {}, "r3", "quick", manner=Manner("short"))
    import streamlit as st

    st.cache_resource.clear()
    assert state_text(store.get(long)) == "waiting, behind 'My training', starts in about 10 min"
    assert state_text(store.get(short)) == "waiting for the worker"
    running = replace(store.get(short), state="running", seconds_left=0.4)
    assert state_text(running) == "running, under 1 s left in this stage"
    assert state_text(replace(running, seconds_left=7.0)) == "running, about 7 s left in this stage"


def test_a_report_is_made_by_a_job_and_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(Settings(home))
    page = opened(monkeypatch, "explore", run, home)
    page.button(key="make_report").click().run()
    (info,) = derived_runs(Settings(home), run.id, "report")
    results.report(ReportRequest(run.id), RunFolder(info.path), silent, WarmCache())
    page = opened(monkeypatch, "explore", run, home)
    assert not page.exception and not [b for b in page.button if b.key == "make_report"]
    assert "drugA" in run.file("report.html").read_text() and page.button(key=f"report_again_{run.id}")
    page.button(key=f"report_again_{run.id}").click().run()
    assert not run.file("report.html").exists() and not page.exception


@DEMO
def test_the_request_of_a_report_fills_predict(home: Path) -> None:
    settings = Settings(home)
    run = RunFolder.create(settings, "predict", to_plain(demo_request(home)), "two in two")
    (entry,) = json.loads(provenance_of(settings, run).entry)
    assert entry["request"]["data"] == "Demo: simulated PBMC screen" and "/" not in entry["request"]["model"]
    entries = [
        entry,
        {**entry, "request": {**entry["request"], "contexts": ["Mars"]}},
        {"kind": "fetch", "request": {"name": "x"}},
    ]
    app = app_on("predict")
    app.file_uploader(key="predict_file").upload("r.json", json.dumps(entries).encode(), "application/json").run()
    assert "no context Mars" in text(app) and not app.exception
    assert [b.key for b in app.button if str(b.key).startswith("predict_fill_")] == ["predict_fill_0"]
    app.button(key="predict_fill_0").click().run()
    model = app.session_state["thread_model"]
    assert (
        app.multiselect(key=f"perturbations_{model}").value == ["TNF", "IFN-beta"] and app.number_input(key="cells").value == 77
    )
    assert app.session_state["thread_data"] == DEMO_ID and app.number_input(key="seed").value == 7 and not app.exception
