"""The whole life of jobs with a real worker process: done, failed, cancelled, killed, survived."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from state_engine.config import Settings
from state_engine.errors import DataError, JobError
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import Job, JobStore
from state_engine.jobs.worker import WorkerOptions, _outcome_of
from state_engine.progress import Progress
from tests.jobs.sample_tasks import KINDS, REQUESTS, Cached
from tests.jobs.workers import log_of, stopped, worker_lives

OPTIONS = WorkerOptions(60.0, 0.05, 0.02, False, KINDS)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home of its own; its worker is killed afterwards."""
    settings = Settings(home=tmp_path / "home")
    yield settings
    assert stopped(settings)


def _submit(settings: Settings, kind: str, **request: object) -> tuple[str, RunFolder]:
    job_id, run_id = local.submit(settings, REQUESTS[kind](**request), title=kind, options=OPTIONS)
    return job_id, RunFolder(settings.runs / run_id)


def _wait(settings: Settings, job_id: str) -> Job:
    return local.wait(settings, job_id, timeout=20, options=OPTIONS)


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _until_stage(settings: Settings, job_id: str, stage: str) -> Job:
    store = JobStore(settings.database)
    _until(lambda: store.get(job_id).stage == stage)
    return store.get(job_id)


def test_a_job_runs_with_progress_and_leaves_its_run_folder(settings: Settings) -> None:
    job_id, run = _submit(settings, "steps", total=12, seconds=0.05)
    seen: list[Progress] = []
    job = local.wait(settings, job_id, 20, seen.append, OPTIONS)
    assert (job.state, job.summary, job.fraction, job.error) == ("done", {"total": 12}, 1.0, None)
    assert (job.done, job.total, job.message) == (12, 12, "halfway")
    assert any(p.stage == "Counting" and 0 < p.done < 12 for p in seen)
    assert job.created <= (job.started or 0) <= (job.ended or 0)
    assert run.file("result.txt").read_text() == "12" and "halfway" in log_of(run)
    manifest = run.manifest
    assert (run.state, manifest.seed, manifest.settings) == ("done", 7, {"total": 12})
    assert manifest.elapsed is not None and manifest.elapsed >= 0.6


def test_the_worker_is_started_once_and_keeps_what_was_loaded(settings: Settings) -> None:
    first = _wait(settings, _submit(settings, "cached", name="a")[0])
    assert worker_lives(settings) and not local.ensure_worker(settings, OPTIONS)
    second = _wait(settings, _submit(settings, "cached", name="a")[0])
    assert (first.summary, second.summary) == ({"loaded": 1}, {"loaded": 0})
    assert first.worker == second.worker


def test_jobs_wait_in_order_and_a_fresh_process_reads_their_state(settings: Settings) -> None:
    running, _ = _submit(settings, "stuck")
    _until_stage(settings, running, "Stuck")
    waiting, _ = _submit(settings, "steps", total=1)
    last, _ = _submit(settings, "steps", total=1)
    code = (
        "import sys; from pathlib import Path; from state_engine.jobs.store import JobStore; store = JobStore(Path(sys.argv[1]));"
        "print(*[(store.get(i).state, store.get(i).position) for i in sys.argv[2:]])"
    )
    command = [sys.executable, "-c", code, str(settings.database), running, waiting, last]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "('running', 0) ('queued', 1) ('queued', 2)"


def test_an_expected_error_is_told_as_it_is(settings: Settings) -> None:
    job_id, run = _submit(settings, "no_label")
    job = _wait(settings, job_id)
    assert job.state == "failed" and job.error is not None and job.error.id == ""
    assert str(job.error) == "There is no control. No cell is labelled so. Choose another label." == run.manifest.error
    assert log_of(run) == ""


def test_what_is_stored_and_shown_names_no_place_of_the_server(settings: Settings) -> None:
    run = RunFolder.create(settings, "steps", {})
    for error in (DataError(f"{run.result} is cut."), OSError(2, "No such file", f"{settings.home}/uploads/x.h5ad")):
        outcome = _outcome_of(error, run, settings)
        assert outcome.error is not None and str(settings.home) not in str(outcome.error) and ".h5ad" in str(outcome.error)
    assert str(settings.home) in log_of(run)


@pytest.mark.parametrize(("how", "what"), [("zero", "unexpected error"), ("exit", "unexpected error"), ("memory", "memory")])
def test_an_unexpected_error_has_an_id_that_finds_the_traceback(settings: Settings, how: str, what: str) -> None:
    job_id, run = _submit(settings, "crash", how=how)
    job = _wait(settings, job_id)
    assert job.state == "failed" and job.error is not None and what in job.error.what and "the cause" in job.error.why
    assert job.error.id and job.error.id in log_of(run) and "sample_tasks.py" in log_of(run)
    # the worker goes on
    assert _wait(settings, _submit(settings, "steps", total=1)[0]).worker == job.worker


def test_a_summary_that_is_no_json_fails_the_job_and_not_the_worker(settings: Settings) -> None:
    job_id, run = _submit(settings, "unserialisable")
    job = _wait(settings, job_id)
    assert job.state == "failed" and job.error is not None and "object" in job.error.why
    assert run.state == "failed"


def test_a_deleted_run_folder_fails_its_job(settings: Settings) -> None:
    blocker, _ = _submit(settings, "steps", total=4, seconds=0.1)
    job_id, run = _submit(settings, "steps", total=1)
    shutil.rmtree(run.path)
    job = _wait(settings, job_id)
    assert job.state == "failed" and job.error is not None and "no run" in job.error.what
    assert _wait(settings, blocker).state == "done"


def test_cancelling_asks_first_and_the_worker_lives_on(settings: Settings) -> None:
    job_id, run = _submit(settings, "steps", total=1000, seconds=0.02)
    worker = _until_stage(settings, job_id, "Counting").worker
    job = local.cancel(settings, job_id, OPTIONS, grace_seconds=5)
    assert (job.state, run.state) == ("cancelled", "cancelled") and not run.file("result.txt").exists()
    assert _wait(settings, _submit(settings, "steps", total=1)[0]).worker == worker


def test_cancelling_a_stuck_job_kills_it_and_the_next_one_runs(settings: Settings) -> None:
    job_id, run = _submit(settings, "stuck")
    stuck = _until_stage(settings, job_id, "Stuck")
    child = int(stuck.message.split()[1])
    next_id, _ = _submit(settings, "steps", total=2)
    started = time.monotonic()
    job = local.cancel(settings, job_id, OPTIONS)
    assert time.monotonic() - started < 4  # two seconds on a machine that has nothing else to do
    assert (job.state, run.state) == ("cancelled", "cancelled")
    assert sorted(p.name for p in run.path.iterdir()) == ["log.txt", "manifest.json", "request.json"]
    _until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    following = _wait(settings, next_id)
    assert following.state == "done" and following.worker != stuck.worker


def test_what_saves_when_it_stops_has_the_time_of_its_step_unless_it_is_to_stop_now(settings: Settings) -> None:
    patient = replace(OPTIONS, kinds=tuple(replace(kind, saves=kind.name == "steps") for kind in OPTIONS.kinds))
    job_id, run = _submit(settings, "steps", total=20, seconds=3)
    worker = _until_stage(settings, job_id, "Counting").worker
    job = local.cancel(settings, job_id, patient)
    assert (job.state, job.cancelling, run.state) == ("running", True, "running"), "a step takes longer than a moment"
    assert (_wait(settings, job_id).state, run.state) == ("cancelled", "cancelled")
    assert _wait(settings, _submit(settings, "steps", total=1)[0]).worker == worker, "its worker was not killed"
    job_id, run = _submit(settings, "steps", total=20, seconds=3)
    _until_stage(settings, job_id, "Counting")
    assert local.cancel(settings, job_id, patient, now=True).state == run.state == "cancelled"
    assert _wait(settings, _submit(settings, "steps", total=1)[0]).worker != worker


def test_cancelling_a_waiting_job_takes_it_from_the_queue(settings: Settings) -> None:
    running, _ = _submit(settings, "steps", total=3, seconds=0.1)
    waiting, run = _submit(settings, "steps", total=1)
    assert local.cancel(settings, waiting, OPTIONS).state == "cancelled" == run.state
    assert _wait(settings, running).state == "done"
    assert local.cancel(settings, running, OPTIONS).state == "done"  # too late changes nothing
    assert JobStore(settings.database).get(waiting).started is None


def test_a_killed_worker_loses_its_job_and_no_other(settings: Settings) -> None:
    job_id, run = _submit(settings, "stuck")
    stuck = _until_stage(settings, job_id, "Stuck")
    waiting, _ = _submit(settings, "steps", total=1)
    os.kill(int(stuck.worker.split("/")[1]), signal.SIGKILL)
    store = JobStore(settings.database)
    _until(lambda: store.get(job_id).state == "lost", 3)
    job = store.get(job_id)
    assert job.error is not None and "worker" in job.error.what and run.state == "lost"
    assert store.get(waiting).state == "queued"
    assert _wait(settings, waiting).state == "done"
    psutil.Process(int(stuck.message.split()[1])).kill()  # its orphan


def test_the_worker_outlives_the_process_that_started_it(settings: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from state_engine.config import Settings; from state_engine.jobs import local;"
        "from tests.jobs.sample_tasks import Steps; from tests.jobs.test_local_jobs import OPTIONS;"
        "print(local.submit(Settings(Path(sys.argv[1])), Steps(8, 0.1), options=OPTIONS)[0])"
    )
    command = [sys.executable, "-c", code, str(settings.home)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout.strip()
    store = JobStore(settings.database)
    assert store.get(said).state in ("queued", "running")
    _until(lambda: store.get(said).state == "done")


def test_many_at_once_start_one_worker_and_a_second_refuses(settings: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from state_engine.config import Settings; from state_engine.jobs import local;"
        "from tests.jobs.test_local_jobs import OPTIONS; print(local.ensure_worker(Settings(Path(sys.argv[1])), OPTIONS))"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(settings.home)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)]
    said = [starter.communicate()[0].strip() for starter in starters]
    assert sorted(said) == ["False", "False", "True"]
    second = [sys.executable, "-m", "state_engine.jobs.worker", "--home", str(settings.home)]
    refused = subprocess.run(second, capture_output=True, text=True, cwd=root)
    assert refused.returncode == 1 and "runs already" in refused.stderr


def test_an_idle_worker_ends_and_the_next_job_starts_another(settings: Settings) -> None:
    short = replace(OPTIONS, idle_seconds=0.05)
    first = local.wait(settings, local.submit(settings, Cached("a"), options=short)[0], 20, options=short)
    _until(lambda: not worker_lives(settings))
    second = local.wait(settings, local.submit(settings, Cached("a"), options=short)[0], 20, options=short)
    assert second.state == "done" and second.worker != first.worker


def test_a_worker_whose_home_is_deleted_ends(settings: Settings) -> None:
    job_id, _ = _submit(settings, "steps", total=1)
    pid = int(_wait(settings, job_id).worker.split("/")[1])
    settings.home.rename(settings.home.with_name("elsewhere"))  # in one step, unlike a removal
    _until(lambda: not psutil.pid_exists(pid))
    assert "Traceback" not in (settings.home.with_name("elsewhere") / "worker.log").read_text()


def test_asking_whether_a_worker_lives_is_cheap(settings: Settings) -> None:
    local.ensure_worker(settings, OPTIONS)
    spent = []
    for _ in range(20):
        started = time.perf_counter()
        assert not local.ensure_worker(settings, OPTIONS)
        spent.append(time.perf_counter() - started)
    assert min(spent) < 0.005


def test_the_log_is_rotated_when_a_worker_starts(settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "worker.log").write_bytes(b"x" * (5 * 1024**2 + 1))
    assert _wait(settings, _submit(settings, "steps", total=1)[0]).state == "done"
    assert (settings.home / "worker.log").stat().st_size < 10_000
    assert (settings.home / "worker.log.1").stat().st_size > 5 * 1024**2


def test_an_unknown_kind_is_refused_before_anything_is_made(settings: Settings) -> None:
    with pytest.raises(JobError, match="No kind of job takes a PosixPath"):
        local.submit(settings, Path("bread"))
    assert not settings.home.exists()


def test_waiting_has_an_end(settings: Settings) -> None:
    job_id, _ = _submit(settings, "steps", total=100, seconds=0.05)
    with pytest.raises(JobError, match="did not end"):
        local.wait(settings, job_id, timeout=0.2, options=OPTIONS)


def test_pages_can_import_the_jobs_without_torch() -> None:
    code = "import sys, state_engine.jobs.local; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
