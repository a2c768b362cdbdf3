"""The job store: every transition, checked against its starting state, also when several processes try at once."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from state_engine.errors import JobError
from state_engine.jobs import store as store_module
from state_engine.jobs.processes import identity_of
from state_engine.jobs.store import JobFailure, JobStore
from state_engine.progress import Progress

ME = identity_of()
DEAD = ME.split("/")[0] + "/999999999/1.00"


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """An empty store."""
    return JobStore(tmp_path / "home" / "jobs.sqlite")


def test_a_job_goes_from_the_queue_to_its_end(store: JobStore) -> None:
    first = store.submit("predict", {"genes": ["STAT1"]}, "run-1", "Interferon", "anna")
    second = store.submit("predict", {}, "run-2")
    assert [(j.id, j.state, j.position) for j in store.list()] == [(second, "queued", 2), (first, "queued", 1)]
    job = store.claim(ME)
    assert job is not None and (job.id, job.state, job.position, job.request) == (first, "running", 0, {"genes": ["STAT1"]})
    assert (job.title, job.owner, job.run_id, job.worker) == ("Interferon", "anna", "run-1", ME)
    assert store.get(second).position == 1
    assert store.finish(first, ME, "done", {"cells": 3})
    done = store.get(first)
    assert (done.state, done.summary, done.active, done.error) == ("done", {"cells": 3}, False, None)
    assert done.ended is not None and done.started is not None and done.ended >= done.started


def test_owners_and_states_narrow_the_list(store: JobStore) -> None:
    anna, bert = store.submit("demo", {}, "run-1", owner="anna"), store.submit("demo", {}, "run-2", owner="bert")
    store.claim(ME)
    assert [j.id for j in store.list(owner="bert")] == [bert]
    assert [j.id for j in store.list(states=("running",))] == [anna]
    assert store.list(owner="") == () and len(store.list(limit=1)) == 1
    assert store.for_run("run-2") == store.get(bert) and store.for_run("run-3") is None


def test_time_left_follows_the_rate_of_the_stage(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(store_module.time, "time", lambda: now[0])
    job_id = store.submit("predict", {}, "run-1")
    store.claim(ME)
    store.progress(job_id, ME, Progress("Loading", 5, 5))
    now[0] += 100  # another stage's time does not count
    store.progress(job_id, ME, Progress("Predicting", 10, 110))
    assert store.get(job_id).seconds_left is None
    now[0] += 4
    store.progress(job_id, ME, Progress("Predicting", 30, 110, "halved the batch"))
    assert store.get(job_id).seconds_left == pytest.approx(16)  # 20 in 4 s; 80 to go
    now[0] += 6
    store.progress(job_id, ME, Progress("Predicting", 30, 110))
    job = store.get(job_id)
    assert (job.stage, job.done, job.total, job.message) == ("Predicting", 30, 110, "halved the batch")
    assert job.seconds_left == pytest.approx(40) and job.fraction == pytest.approx(30 / 110)


def test_cancelling_a_waiting_job_is_final(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    assert store.request_cancel(job_id).state == "cancelled"
    assert store.claim(ME) is None and not store.has_queued()


def test_cancelling_a_running_job_is_heard_by_progress_and_heartbeat(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    store.claim(ME)
    assert not store.progress(job_id, ME, Progress("Predicting")) and not store.heartbeat(job_id, ME)
    assert store.request_cancel(job_id).cancelling
    assert store.progress(job_id, ME, Progress("Predicting")) and store.heartbeat(job_id, ME)


def test_a_job_cancelled_over_the_workers_head_is_no_longer_its_own(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    store.claim(ME)
    assert store.force_cancelled(job_id) and not store.force_cancelled(job_id)
    assert not store.finish(job_id, ME, "done") and store.heartbeat(job_id, ME)
    assert store.get(job_id).state == "cancelled"


def test_only_the_worker_of_a_job_can_end_it(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    store.claim(ME)
    assert not store.finish(job_id, DEAD, "done")
    assert store.finish(job_id, ME, "failed", error=JobFailure("Broken.", "Why.", "Fix.", "ab12"))
    assert not store.finish(job_id, ME, "done")
    assert store.get(job_id).error == JobFailure("Broken.", "Why.", "Fix.", "ab12")
    assert store.request_cancel(job_id).state == "failed"


def test_a_job_of_a_dead_worker_is_lost_and_the_queue_stays(store: JobStore) -> None:
    running, waiting = store.submit("predict", {}, "run-1"), store.submit("predict", {}, "run-2")
    store.claim(DEAD)
    job = store.get(running)
    assert job.state == "lost" and job.error is not None and "worker" in job.error.what and job.ended is not None
    assert store.mark_lost() == () and store.get(waiting).state == "queued"


def test_a_silent_worker_loses_its_job_and_takes_it_back_when_it_wakes(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    store.claim(ME)
    assert store.mark_lost() == ()
    impatient = JobStore(store.path, stale_seconds=-1.0)
    assert impatient.mark_lost() == (job_id,)
    assert store.get(job_id).state == "lost"
    assert not store.heartbeat(job_id, ME)
    job = store.get(job_id)
    assert (job.state, job.error, job.ended) == ("running", None, None)


def test_a_worker_of_another_machine_is_judged_by_its_heartbeat(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    store.claim("elsewhere.example/1/1.0")
    assert store.get(job_id).state == "running"
    assert JobStore(store.path, stale_seconds=-1.0).get(job_id).state == "lost"


def test_no_job_is_claimed_twice(store: JobStore) -> None:
    ids = [store.submit("predict", {}, f"run-{n}") for n in range(24)]
    claimed: list[str] = []
    gate = threading.Barrier(4)

    def work() -> None:
        mine = JobStore(store.path)
        gate.wait()
        while (job := mine.claim(ME)) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)


def test_a_writer_waits_for_another(store: JobStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, lambda: other.execute("COMMIT")).start()
    started = time.monotonic()
    job_id = store.submit("predict", {}, "run-1")
    assert time.monotonic() - started > 0.1 and store.get(job_id).state == "queued"
    other.close()


def test_only_ended_jobs_can_be_deleted(store: JobStore) -> None:
    job_id = store.submit("predict", {}, "run-1")
    with pytest.raises(JobError, match="waiting or running"):
        store.delete(job_id)
    store.request_cancel(job_id)
    store.delete(job_id)
    with pytest.raises(JobError, match="There is no job"):
        store.get(job_id)


def test_a_request_must_be_plain_json(store: JobStore) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.submit("predict", {"seed": float("nan")}, "run-1")
    assert store.list() == ()


def test_a_broken_newer_or_missing_database_is_said_so(store: JobStore, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is no database, not at all" * 100)
    with pytest.raises(JobError, match="cannot be used"):
        JobStore(broken)
    db = sqlite3.connect(store.path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JobError, match="version 99"):
        JobStore(store.path)
    store.path.rename(tmp_path / "away.sqlite")
    with pytest.raises(JobError, match="cannot be used"):
        store.list()
    assert not store.path.exists()
