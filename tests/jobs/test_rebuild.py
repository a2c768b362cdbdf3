"""A damaged jobs database is put aside and made again from the run folders."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.errors import JobError
from state_engine.jobs import local, rebuild
from state_engine.jobs.run_folder import list_runs
from state_engine.jobs.store import JobStore
from state_engine.jobs.worker import WorkerOptions
from tests.jobs.sample_tasks import KINDS, NoLabel, Steps
from tests.jobs.workers import stopped

OPTIONS = WorkerOptions(60.0, 0.05, 0.02, False, KINDS)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A home of its own, checked whenever it is asked; its worker is killed afterwards."""
    monkeypatch.setattr(rebuild, "_CHECK_SECONDS", 0.0)
    settings = Settings(home=tmp_path / "home")
    yield settings
    assert stopped(settings)


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, not at all" * 100)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _header(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def _page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])


@pytest.mark.parametrize("damage", [_garbage, _cut, _header, _page])
def test_runs_stay_and_what_waits_is_done(settings: Settings, damage: Callable[[Path], None]) -> None:
    done, _ = local.submit(settings, Steps(1), "done", options=OPTIONS)
    assert local.wait(settings, done, 30, options=OPTIONS).state == "done"
    failed, failed_run = local.submit(settings, NoLabel(), "failed", options=OPTIONS)
    local.wait(settings, failed, 30, options=OPTIONS)
    assert stopped(settings)
    waits, waiting_run = local.queue(settings, Steps(2), "waits", options=OPTIONS)
    JobStore(settings.database).fold()
    for end in ("-wal", "-shm"):
        settings.database.with_name(settings.database.name + end).unlink(missing_ok=True)
    damage(settings.database)
    broken = settings.database.read_bytes()

    local.look_after(settings, OPTIONS)
    (aside,) = settings.home.glob("jobs.sqlite.damaged-*")
    assert aside.read_bytes() == broken
    store = JobStore(settings.database)
    job = store.for_run(failed_run)
    assert job is not None and job.id == failed and job.state == "failed" and "There is no control" in str(job.error)
    again = store.get(done)
    assert again.state == "done" and again.title == "done" and again.summary == {"total": 1}
    waiting = store.for_run(waiting_run)
    assert waiting is not None and waiting.title == "waits" and waiting.id == waits
    assert local.wait(settings, waiting.id, 30, options=OPTIONS).state == "done"
    assert [info.state for info in list_runs(settings)] == ["done", "failed", "done"]
    assert len(list(settings.home.glob("jobs.sqlite.damaged-*"))) == 1


def test_a_run_of_before_without_a_summary_has_no_job(settings: Settings) -> None:
    job_id, run_id = local.submit(settings, Steps(1), options=OPTIONS)
    assert local.wait(settings, job_id, 30, options=OPTIONS).state == "done"
    assert stopped(settings)
    (settings.runs / run_id / "summary.json").unlink()
    _garbage(settings.database)
    local.look_after(settings, OPTIONS)
    assert JobStore(settings.database).for_run(run_id) is None
    assert [info.state for info in list_runs(settings)] == ["done"]


def _wait(settings: Settings, job_id: str) -> None:
    local.wait(settings, job_id, 0.2, options=OPTIONS)


@pytest.mark.parametrize("poll", [local.cancel, _wait, lambda settings, job_id: local.look_after(settings, OPTIONS)])
def test_whoever_polls_rebuilds(settings: Settings, monkeypatch: pytest.MonkeyPatch, poll: Callable[..., object]) -> None:
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    job_id, run_id = local.queue(settings, Steps(2), "waits", options=OPTIONS)
    _garbage(settings.database)
    with suppress(JobError):  # waiting for what no worker does
        poll(settings, job_id)
    job = JobStore(settings.database).for_run(run_id)
    assert (
        job is not None
        and job.id == job_id
        and job.state == ("cancelled" if poll is local.cancel else "queued")
        and len(list(settings.home.glob("jobs.sqlite.damaged-*"))) == 1
    )


def test_what_runs_meanwhile_runs_again(settings: Settings) -> None:
    job_id, run_id = local.submit(settings, Steps(40, 0.05), options=OPTIONS)
    store = JobStore(settings.database)
    deadline = time.monotonic() + 30
    while store.get(job_id).stage != "Counting":
        assert time.monotonic() < deadline
    _garbage(settings.database)
    local.look_after(settings, OPTIONS)
    again = store.for_run(run_id)
    assert again is not None and again.id == job_id
    assert local.wait(settings, job_id, 60, options=OPTIONS).summary == {"total": 40}


def test_two_folders_with_one_id_are_two_jobs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    job_id, run_id = local.queue(settings, Steps(2), "waits", options=OPTIONS)
    shutil.copytree(settings.runs / run_id, settings.runs / f"{run_id[:-6]}{'0' * 6}")
    _garbage(settings.database)
    local.look_after(settings, OPTIONS)
    ids = [job.id for job in JobStore(settings.database).list()]
    assert len(ids) == 2 and job_id in ids
