"""Pages that poll jobs see that they get done."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from pages.parts import jobs
from state_engine.config import load_settings
from state_engine.jobs import local
from state_engine.jobs.processes import identity_of
from state_engine.jobs.requests import DownloadRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from tests.pages.opened import VIEWS

DEAD = identity_of().split("/")[0] + "/999999999/1.00"


def _runs_page() -> AppTest:
    return AppTest.from_file(str(VIEWS / "runs.py"), default_timeout=30)


def test_runs_replaces_a_worker_that_was_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr(local, "ensure_worker", lambda settings, *rest: started.append(settings.home))
    settings = load_settings()
    _, run_id = local.queue(settings, DownloadRequest("a/b", "", "", False), "killed")
    local.queue(settings, DownloadRequest("a/c", "", "", False), "waits")
    store = JobStore(settings.database)
    assert store.claim(DEAD) is not None
    page = _runs_page().run()
    assert not page.exception and started == [settings.home]
    assert RunFolder(settings.runs / run_id).manifest.state == "lost"
    assert [job.title for job in store.list(states=("queued", "running"))] == ["waits"]


def test_a_damaged_database_shows_nothing_red(home: Path) -> None:
    settings = load_settings()
    local.queue(settings, DownloadRequest("a/b", "", "", False), "waits")
    settings.database.write_bytes(b"this is no database, not at all" * 100)
    page = _runs_page().run()
    assert not page.exception and not page.error
    assert len(list(home.glob("jobs.sqlite.damaged-*"))) == 1
    assert [job.title for job in JobStore(settings.database).list()] == ["waits"]


def test_every_button_starts_its_job_in_one_way() -> None:
    """Two clicks are one wish because all jobs of pages go through `start_job`; a page that submits by itself fails here."""
    by_itself = [
        path for path in VIEWS.rglob("*.py") if "local.submit(" in path.read_text() or "local.queue(" in path.read_text()
    ]
    assert by_itself == [VIEWS / "parts" / "jobs.py"]


def test_the_same_wish_is_one_job_until_it_is_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, request = load_settings(), DownloadRequest("a/b", "", "", False)
    first = jobs.start_job(request, "once")
    assert jobs.start_job(request, "once, clicked twice") == first
    others = [
        jobs.start_job(DownloadRequest("a/c", "", "", False), "another wish"),
        jobs.start_job(request, "of a run", parent="20261122-151233-ab12cd"),
    ]
    assert len({first, *others}) == 3
    store = JobStore(settings.database)
    waiting = store.for_run(first)
    assert waiting is not None
    local.cancel(settings, waiting.id)
    second = jobs.start_job(request, "again")  # what was cancelled may be wished for again
    assert second not in (first, *others)
    worker = identity_of()
    job = store.claim(worker)
    while job is not None and job.run_id != second:
        job = store.claim(worker)
    assert job is not None and jobs.start_job(request, "while it runs") == second
    store.finish(job.id, worker, "done")
    monkeypatch.setattr(jobs, "ONE_WISH", 1e9)
    assert jobs.start_job(request, "the second click came late") == second
    monkeypatch.setattr(jobs, "ONE_WISH", -1.0)
    assert jobs.start_job(request, "later") != second
