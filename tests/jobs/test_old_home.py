"""A home made by version 1 of run folders and of the jobs database opens: list, requests, commands, derived jobs, lost jobs, pages.

fixtures/home_1.tar.xz was written by the program before kinds had a registry: a prediction of 24 cells with its map, a table,
all tables and attention maps; an evaluation of it; an embedding with similar cells and genes read; a training of four steps, and one that
ran when its worker was killed, with a prediction waiting behind. Large files were taken out, and the result was cut to 40 genes.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pages.parts import session
from pages.parts.jobs import derived_run
from state_engine.config import Settings
from state_engine.embedding.jobs import GenesReadJob, SimilarJob
from state_engine.errors import ConfigError
from state_engine.jobs import local
from state_engine.jobs.before import request_before
from state_engine.jobs.kinds import KINDS, request_class
from state_engine.jobs.requests import AttentionMapsRequest, DifferentialRequest, LookRequest, ModesRequest, TablesRequest
from state_engine.jobs.run_folder import FORMAT, RunFolder, derived_runs, list_runs
from state_engine.jobs.store import JobStore
from state_engine.jobs.train_job import command_of, job_request, resume
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from tests.pages.opened import app_on, text

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).parent / "fixtures" / "home_1.tar.xz"
PREDICTED, EMBEDDED = "20261128-182044-1f43b2", "20261128-182055-3be522"
TRAINED, LOST, WAITING = "20261128-182056-a60bdf", "20261128-182101-51d459", "20261128-182103-d46c19"
OF_PREDICTION = {"look", "differential", "tables", "attention"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The home, unpacked where its own paths lead."""
    home = tmp_path / "home"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    places = {"@HOME@": str(home), "@APP@": str(ROOT), "@HOST@": socket.gethostname()}
    for path in home.rglob("*.json"):
        words = path.read_text()
        for name, place in places.items():
            words = words.replace(name, place)
        path.write_text(words)
    with sqlite3.connect(home / "jobs.sqlite") as db:
        for name, place in places.items():
            db.execute("UPDATE jobs SET request = replace(request, ?1, ?2), worker = replace(worker, ?1, ?2)", (name, place))
    db.close()
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(home))
    monkeypatch.delenv("STATE_EXPLORER_DATA", raising=False)
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    st.cache_resource.clear()
    st.cache_data.clear()
    return Settings(home)


def test_it_is_an_old_home(settings: Settings) -> None:
    with sqlite3.connect(settings.database) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert "parent" not in {row[1] for row in db.execute("PRAGMA table_info(jobs)")}
    db.close()
    manifests = [json.loads(path.read_text()) for path in settings.runs.glob("*/manifest.json")]
    assert len(manifests) == 12 and {m["format"] for m in manifests} == {1} and not any("parent" in m for m in manifests)


def test_every_run_is_listed_with_its_request_and_command(settings: Settings) -> None:
    infos = list_runs(settings)
    assert Counter(i.state for i in infos) == {"done": 10, "lost": 1, "queued": 1}
    for info in infos:
        assert info.manifest is not None, info.problem
        run, kind = RunFolder.open(settings, info.id), KINDS[info.manifest.kind]
        asked = from_plain(request_class(kind), request_before(kind.name, run.request))
        assert from_plain(request_class(kind), to_plain(asked)) == asked
    prediction = RunFolder.open(settings, PREDICTED)
    assert prediction.manifest.command.startswith("python -m state_engine predict --model")
    assert len(open_result(prediction.result).obs) > 24
    job = job_request(RunFolder.open(settings, TRAINED))
    assert job.request.optimiser.steps == 4 and "--max-steps 4" in command_of(job)


def test_the_database_learns_whose_jobs_are_derived(settings: Settings) -> None:
    jobs = {job.run_id: job for job in JobStore(settings.database).list()}
    assert len(jobs) == 12
    for job in jobs.values():
        expected = PREDICTED if job.kind in OF_PREDICTION else EMBEDDED if job.kind in ("similar", "genes_read") else ""
        assert job.parent == expected and job.unit == "count"
    assert (jobs[LOST].state, jobs[WAITING].state) == ("lost", "queued") and jobs[LOST].error is not None
    assert jobs[PREDICTED].summary["cells"] == 24
    again = JobStore(settings.database).list(parent=PREDICTED)  # opened a second time
    assert {job.kind for job in again} == OF_PREDICTION
    with sqlite3.connect(settings.database) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (5,)
    db.close()


def test_two_openings_at_once_migrate_once(settings: Settings) -> None:
    first = JobStore(settings.database)
    with sqlite3.connect(settings.database) as db:  # as if another process had read the version before the first was through
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert JobStore(settings.database).list() == first.list() and len(first.list(parent=EMBEDDED)) == 2


def test_derived_runs_are_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {i.manifest.kind for i in derived_runs(settings, PREDICTED) if i.manifest} == OF_PREDICTION
    monkeypatch.setattr(session, "settings", lambda: settings)
    prediction, embedding = RunFolder.open(settings, PREDICTED), RunFolder.open(settings, EMBEDDED)
    for request in (
        LookRequest(PREDICTED),
        TablesRequest(PREDICTED),
        DifferentialRequest(PREDICTED, "CRISPRi GATA3", "B", "observed control", "raw"),
        AttentionMapsRequest(PREDICTED, "CRISPRi GATA3", "B", 0),
    ):
        assert derived_run(prediction, request) is not None
        assert derived_run(prediction, request, active=True) is None
    assert derived_run(prediction, AttentionMapsRequest(PREDICTED, "CRISPRi GATA3", "B", 1)) is None
    similar = derived_run(embedding, SimilarJob)
    assert similar is not None and similar.request_as(SimilarJob).k == 3
    assert derived_run(embedding, GenesReadJob) is not None and derived_run(prediction, SimilarJob) is None


def test_what_is_written_again_has_the_new_format(settings: Settings) -> None:
    run = next(RunFolder(i.path) for i in derived_runs(settings, PREDICTED, "look"))
    run.record(settings={"a": 1})
    written = json.loads((run.path / "manifest.json").read_text())
    assert (written["format"], written["parent"]) == (FORMAT, PREDICTED)
    assert run.manifest.parent == PREDICTED


def test_a_training_that_was_lost_goes_on_in_its_own_run(settings: Settings) -> None:
    run = RunFolder.open(settings, LOST)
    assert run.state == "lost"
    resume(settings, run)
    job = JobStore(settings.database).for_run(LOST)
    assert job is not None and job.active and from_plain(request_class(KINDS["train"]), job.request) == job_request(run)


def test_a_request_of_another_shape_is_understood() -> None:
    asked = PredictionRequest("d", "m", ("TNF",))
    assert from_plain(ModesRequest, request_before("attention_check", to_plain(asked))) == ModesRequest(asked)
    assert request_before("attention_check", to_plain(ModesRequest(asked))) == to_plain(ModesRequest(asked))
    with pytest.raises(ConfigError):
        from_plain(ModesRequest, to_plain(asked))


def shown(view: str, **thread: str) -> AppTest:
    page = app_on(view, **thread)
    assert not page.exception and not page.error, [e.value for e in page.error]
    return page


def test_the_pages_show_it(settings: Settings) -> None:
    runs = shown("runs")
    said = text(runs)
    assert "Two perturbations" in said and "Tiny training" in said and "Map and tables" not in said
    runs.button(key=f"details_{PREDICTED}").click().run()
    assert any("python -m state_engine predict" in code.value for code in runs.code)
    assert "3 cells" not in said and any("waiting, place 1" in bar.proto.text for bar in runs.get("progress"))
    assert "is done: 2 conditions" in text(shown("predict", run=PREDICTED))
    assert "What changes?" in text(shown("explore", run=PREDICTED))
    assert shown("attention", run=PREDICTED).get("plotly_chart")
    assert shown("train", training=TRAINED).button(key="training_predict")
    assert "The embedded data set was deleted" in text(shown("embed", embedding=EMBEDDED))
    lost = app_on("train", training=LOST)
    assert lost.button(key="training_resume") and "worker" in lost.error[0].value
    evaluation = next(i.id for i in list_runs(settings) if i.manifest and i.manifest.kind == "evaluate")
    assert "Evaluation" in text(shown("evaluate", evaluation=evaluation))


def test_a_run_goes_with_what_is_derived_from_it(settings: Settings) -> None:
    runs = app_on("runs", run=PREDICTED)
    runs.button(key=f"delete_{PREDICTED}").click().run()
    runs.button(key=f"sure_{PREDICTED}").click().run()
    assert not runs.exception
    left = [i.manifest.kind for i in list_runs(settings) if i.manifest]
    assert not OF_PREDICTION & set(left) and {"similar", "genes_read", "embed"} <= set(left)
    assert runs.session_state["thread_run"] == ""
