"""A worker that is asked to end: its job goes back to the queue and is done by the next; no process stays."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from state_engine.config import Settings
from state_engine.jobs import local, shutdown
from state_engine.jobs.lock import holder
from state_engine.jobs.logs import JsonLines
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.jobs.worker import WorkerOptions
from tests.jobs.sample_tasks import KINDS, Parent, Steps, Stuck
from tests.jobs.workers import stopped, worker_lives

OPTIONS = WorkerOptions(idle_seconds=30, heartbeat_seconds=0.1, poll_seconds=0.02, warm=False, kinds=KINDS)


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def terminate(settings: Settings) -> psutil.Process:
    process = psutil.Process(int(holder(settings.home).split("/")[1]))
    os.kill(process.pid, signal.SIGTERM)
    return process


def ended(family: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


@pytest.fixture
def settings(tmp_path: Path) -> object:
    settings = Settings(tmp_path)
    yield settings
    stopped(settings)


def test_a_running_job_goes_back_to_the_queue_and_is_done_by_the_next_worker(settings: Settings) -> None:
    store = JobStore(settings.database)
    job, run = local.submit(settings, Steps(60, 0.05), options=OPTIONS)
    waiting, _ = local.queue(settings, Steps(1), options=OPTIONS)
    until(lambda: store.get(job).state == "running" and store.get(job).done > 2)
    terminate(settings)
    until(lambda: not worker_lives(settings))
    assert store.get(job).state == "queued" and store.get(job).position == 1 and store.get(waiting).state == "queued"
    folder = RunFolder.open(settings, run)
    assert folder.state == "queued" and folder.manifest.process == "" and not list(folder.path.glob("*.part"))
    assert local.wait(settings, job, 60, options=OPTIONS).state == "done" and folder.state == "done"
    assert local.wait(settings, waiting, 60, options=OPTIONS).state == "done"


def test_an_idle_worker_ends_at_once(settings: Settings) -> None:
    assert local.ensure_worker(settings, OPTIONS)
    time.sleep(1)
    began = time.monotonic()
    terminate(settings)
    until(lambda: not worker_lives(settings))
    assert time.monotonic() - began < 5


def test_a_cancelled_job_stays_cancelled(settings: Settings) -> None:
    store = JobStore(settings.database)
    job, _ = local.submit(settings, Steps(200, 0.05), options=OPTIONS)
    until(lambda: store.get(job).state == "running")
    store.request_cancel(job)
    terminate(settings)
    until(lambda: not worker_lives(settings))
    assert store.get(job).state == "cancelled"


@pytest.mark.slow
def test_a_job_that_does_not_report_is_put_back_when_patience_is_over(settings: Settings) -> None:
    store = JobStore(settings.database)
    job, run = local.submit(settings, Stuck(), options=OPTIONS)
    until(lambda: store.get(job).stage == "Stuck")
    process = terminate(settings)
    family = [process, *process.children(recursive=True)]
    until(lambda: not worker_lives(settings), shutdown.GRACE_SECONDS + 20)
    assert store.get(job).state == "queued" and RunFolder.open(settings, run).manifest.state == "queued"
    until(lambda: ended(family))
    store.request_cancel(job)


@pytest.mark.slow
def test_a_job_that_stops_by_itself_leaves_no_child(settings: Settings) -> None:
    store = JobStore(settings.database)
    job, _ = local.submit(settings, Parent(), options=OPTIONS)
    until(lambda: store.get(job).stage == "Parent")
    process = terminate(settings)
    family = process.children(recursive=True)
    assert family
    until(lambda: not worker_lives(settings))
    assert store.get(job).state == "queued"
    until(lambda: ended(family))
    store.request_cancel(job)


def test_lines_of_the_log_are_json_with_the_run() -> None:
    record = logging.LogRecord("state_engine.worker", logging.INFO, __file__, 1, "job %s", ("x",), None)
    record.run = "20261129-000000-abcdef"
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "job x" and line["run"] == record.run and line["level"] == "INFO" and "job" not in line
