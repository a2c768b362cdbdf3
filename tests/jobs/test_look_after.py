"""Workers that die, hang or sleep: whoever polls sees that the jobs get done."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from state_engine.config import Settings
from state_engine.files import write_json
from state_engine.jobs import local, upgrade
from state_engine.jobs.lock import WorkerLock
from state_engine.jobs.processes import identity_of, is_alive
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.store import Job, JobStore
from state_engine.jobs.train_job import resume
from state_engine.jobs.worker import Worker, WorkerOptions
from state_engine.plain import to_plain
from tests.jobs.sample_tasks import KINDS, Steps, Stuck
from tests.jobs.workers import stopped

OPTIONS = WorkerOptions(60.0, 0.05, 0.02, False, KINDS)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home of its own; its worker is killed afterwards."""
    settings = Settings(home=tmp_path / "home")
    yield settings
    assert stopped(settings)


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _state(settings: Settings, job_id: str) -> str:
    return JobStore(settings.database).get(job_id).state


def _stuck(settings: Settings) -> Job:
    """Return a job that hangs in the middle of a file, with a child process."""
    job_id, _ = local.submit(settings, Stuck(), "hangs", options=OPTIONS)
    store = JobStore(settings.database)
    _until(lambda: store.get(job_id).stage == "Stuck")
    return store.get(job_id)


def _pid(job: Job) -> int:
    return int(job.worker.split("/")[1])


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _set(settings: Settings, column: str, job_id: str, value: float) -> None:
    with closing(sqlite3.connect(settings.database, isolation_level=None)) as db:
        db.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (value, job_id))


def _freeze(settings: Settings) -> Job:
    """Return a job whose worker has stood still for longer than a minute."""
    job = _stuck(settings)
    os.kill(_pid(job), signal.SIGSTOP)
    _set(settings, "heartbeat", job.id, time.time() - 61)
    return job


def test_a_dead_worker_is_replaced_by_whoever_polls(settings: Settings) -> None:
    job = _stuck(settings)
    waiting, _ = local.submit(settings, Steps(1), options=OPTIONS)
    os.kill(_pid(job), signal.SIGKILL)

    def polled() -> bool:
        local.look_after(settings, OPTIONS)
        return _state(settings, waiting) == "done"

    _until(polled)
    assert _state(settings, job.id) == "lost"
    run = RunFolder(settings.runs / job.run_id)
    assert run.manifest.state == "lost" and "worker" in run.manifest.error and run.manifest.elapsed is not None
    assert not list(run.path.glob(".part-*"))  # what was half-written went
    psutil.Process(int(job.message.split()[1])).kill()  # its orphan


def test_a_worker_that_dies_while_it_claims_a_job_has_claimed_nothing(settings: Settings) -> None:
    job_id, run_id = local.queue(settings, Steps(1), options=OPTIONS)
    claims = (
        "import os, sys; from pathlib import Path; from state_engine.jobs.store import JobStore;"
        "from state_engine.jobs.processes import identity_of;"
        "JobStore(Path(sys.argv[1])).claim(identity_of(), lambda run_id: os._exit(3))"
    )
    died = subprocess.run([sys.executable, "-c", claims, str(settings.database)], cwd=Path(__file__).parents[2], check=False)
    assert died.returncode == 3 and _state(settings, job_id) == "queued"
    assert RunFolder(settings.runs / run_id).state == "queued"
    assert local.wait(settings, job_id, 20, options=OPTIONS).state == "done"


def test_a_job_that_is_claimed_is_a_run_that_has_started(settings: Settings) -> None:
    _, run_id = local.queue(settings, Steps(1), options=OPTIONS)
    run, store = RunFolder(settings.runs / run_id), JobStore(settings.database)
    worker = Worker(settings, OPTIONS, WorkerLock(-1))
    assert store.claim(worker.identity, worker._start_run) is not None
    assert (run.manifest.state, run.manifest.process) == ("running", worker.identity)


@pytest.mark.parametrize("changed", ["database", "files"])
def test_a_worker_leaves_jobs_to_another_version_of_the_program(
    changed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "LOOK_SECONDS", 0.0)
    job_id, _ = local.queue(settings, Steps(1), options=OPTIONS)
    lock = WorkerLock.take(settings.home, OPTIONS.seat)
    assert lock is not None
    worker, store = Worker(settings, OPTIONS, lock), JobStore(settings.database)
    assert not worker.upgrade
    if changed == "database":
        with sqlite3.connect(settings.database) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version = {version + 1}")
    else:
        monkeypatch.setattr(upgrade, "newest_source", lambda: 1)
    worker.serve()
    assert store.get(job_id).state == "queued", "it is for the other version"
    again = WorkerLock.take(settings.home, OPTIONS.seat)
    assert again is not None, "whose worker finds the seat free"
    again.close()


def test_a_run_whose_job_was_lost_before_it_began_is_lost_and_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    run, store = RunFolder.create(settings, "train", {}, "a training"), JobStore(settings.database)
    store.submit("train", {}, run.id)
    store.claim(identity_of().split("/")[0] + "/999999999/1.00")
    assert run.state == "lost" and not run.active and run.manifest.state == "queued"
    again = resume(settings, run)
    assert store.get(again).state == "queued" and store.for_run(run.id) == store.get(again)


def test_a_queued_run_without_a_job_is_lost_after_a_while(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {})
    assert run.state == "queued"  # no database: the folder stands for itself
    store = JobStore(settings.database)
    assert run.state == "queued"  # its job may be on its way
    write_json(run.path / "manifest.json", to_plain(run.manifest) | {"created": "2026-11-28T12:00:00+00:00"})
    assert run.state == "lost" == list_runs(settings)[0].state
    store.submit("predict", {}, run.id)
    assert run.state == "queued"


def test_a_worker_that_stays_silent_is_killed_with_its_children(settings: Settings) -> None:
    job = _freeze(settings)
    waiting, _ = local.submit(settings, Steps(1), options=OPTIONS)
    lost = JobStore(settings.database).get(job.id)
    assert lost.state == "lost" and lost.error is not None and "did not answer" in lost.error.what
    assert is_alive(job.worker)  # it may only have slept: there is time to wake
    _set(settings, "ended", job.id, time.time() - 11)
    local.look_after(settings, OPTIONS)
    assert not is_alive(job.worker)
    _until(lambda: _gone(int(job.message.split()[1])))
    assert local.wait(settings, waiting, 20, options=OPTIONS).state == "done"
    assert RunFolder(settings.runs / job.run_id).manifest.state == "lost"


def test_a_worker_that_wakes_in_time_takes_its_job_back(settings: Settings) -> None:
    job = _freeze(settings)
    local.look_after(settings, OPTIONS)
    assert _state(settings, job.id) == "lost"
    os.kill(_pid(job), signal.SIGCONT)
    _until(lambda: _state(settings, job.id) == "running")
    local.look_after(settings, OPTIONS)
    assert is_alive(job.worker)


def test_cancelling_the_job_of_a_silent_worker_kills_it(settings: Settings) -> None:
    job = _freeze(settings)
    assert local.cancel(settings, job.id, OPTIONS, grace_seconds=0.1).state == "cancelled"
    assert not is_alive(job.worker) and RunFolder(settings.runs / job.run_id).state == "cancelled"


def test_a_lost_job_of_a_dead_worker_stays_lost_when_it_is_cancelled(settings: Settings) -> None:
    job = _stuck(settings)
    os.kill(_pid(job), signal.SIGKILL)
    _until(lambda: _state(settings, job.id) == "lost")
    assert local.cancel(settings, job.id, OPTIONS).state == "lost"
    psutil.Process(int(job.message.split()[1])).kill()


def test_an_idle_worker_that_hangs_is_killed_when_a_job_waits_too_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = local.submit(settings, Steps(1), options=OPTIONS)
    worker = local.wait(settings, first, 20, options=OPTIONS).worker
    os.kill(int(worker.split("/")[1]), signal.SIGSTOP)
    waiting, _ = local.submit(settings, Steps(1), options=OPTIONS)
    local.look_after(settings, OPTIONS)
    assert is_alive(worker)
    monkeypatch.setattr(local, "_STALLED_SECONDS", 0.5)
    time.sleep(0.6)
    local.look_after(settings, OPTIONS)
    monkeypatch.undo()  # the next worker gets its two minutes
    assert local.wait(settings, waiting, 20, options=OPTIONS).state == "done"
    assert not is_alive(worker)
