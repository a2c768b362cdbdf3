"""Jobs on this machine: submit, wait, cancel, and the worker process that does them. Imports no torch; cheap to call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from state_engine.config import GB, Settings
from state_engine.errors import JobError, RunError
from state_engine.jobs.kinds import check_kind
from state_engine.jobs.lock import WorkerLock, holder
from state_engine.jobs.processes import identity_of, is_alive, kill_tree
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import Job, JobStore
from state_engine.jobs.worker import WorkerOptions
from state_engine.progress import OnProgress, Progress, silent

DEFAULT = WorkerOptions()
_ROOT = Path(__file__).resolve().parents[2]
_LOG_BYTES = 5 * 1024**2
_GRACE_SECONDS = 1.2
_POLL_SECONDS = 0.05


def ensure_worker(settings: Settings, options: WorkerOptions = DEFAULT) -> bool:
    """Start a worker when none lives; True when this call did. Safe to call from any process, thread and page run."""
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = WorkerLock.take(settings.home)
    if lock is None:
        return False
    try:
        process = _spawn(settings, options, lock)
        lock.write_holder(identity_of(process.pid))
    finally:
        lock.close()  # the child has its share
    # waits for the end, so that no zombie stays
    threading.Thread(target=process.wait, name="worker-reaper", daemon=True).start()
    return True


def stop_worker(settings: Settings) -> bool:
    """Kill the worker of this home, if one lives; True when none lives afterwards. Its running job becomes lost."""
    identity = holder(settings.home)
    return not identity or kill_tree(identity)


def worker_alive(settings: Settings) -> bool:
    """Whether a worker lives."""
    return bool(is_alive(holder(settings.home)))


def submit(
    settings: Settings,
    kind: str,
    request: dict[str, Any],
    title: str = "",
    owner: str = "",
    options: WorkerOptions = DEFAULT,
) -> tuple[str, str]:
    """Make a run folder, queue a job for it, and see that a worker lives. Returns (job id, run id).

    Raises:
        JobError: no such kind. TypeError, ValueError: the request is not plain JSON.
    """
    check_kind(kind, options.kinds)
    run = RunFolder.create(settings, kind, request, title, owner)
    job_id = JobStore(settings.database).submit(kind, request, run.id, title, owner)
    ensure_worker(settings, options)
    return job_id, run.id


def cancel(settings: Settings, job_id: str, options: WorkerOptions = DEFAULT, grace_seconds: float = _GRACE_SECONDS) -> Job:
    """Cancel a job, within two seconds: by asking, then by killing the worker. Returns the job as it then is.

    A job that ended before it noticed stays what it became.
    """
    store = JobStore(settings.database)
    job = store.request_cancel(job_id)
    deadline = time.monotonic() + grace_seconds
    while job.state == "running" and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        job = store.get(job_id)
    # the order matters: once the job is no longer the worker's, that worker takes no other, so the kill cannot hit one
    if job.state == "running" and store.force_cancelled(job_id):
        kill_tree(job.worker)
    job = store.get(job_id)
    if job.state == "cancelled":
        _close(settings, job)
    if store.has_queued():
        ensure_worker(settings, options)
    return job


def wait(
    settings: Settings,
    job_id: str,
    timeout: float = 3600.0,
    on_progress: OnProgress = silent,
    options: WorkerOptions = DEFAULT,
) -> Job:
    """The job when it has ended, however it ended.

    Raises:
        JobError: no such job, or it did not end within `timeout` seconds.
    """
    store = JobStore(settings.database)
    deadline = time.monotonic() + timeout
    while True:
        job = store.get(job_id)
        on_progress(Progress(job.stage, job.done, job.total, job.message))
        if not job.active:
            return job
        if time.monotonic() > deadline:
            raise JobError(f"Job {job_id} did not end.", f"It is {job.state} after {timeout:g} seconds.")
        if job.state == "queued":
            ensure_worker(settings, options)
        time.sleep(_POLL_SECONDS)


def _close(settings: Settings, job: Job) -> None:
    """The run folder of a job that was cancelled before it ran, or whose worker was killed."""
    try:
        run = RunFolder.open(settings, job.run_id)
    except RunError:
        return  # deleted meanwhile
    if run.manifest.state != "cancelled":
        run.finish("cancelled")


def _spawn(settings: Settings, options: WorkerOptions, lock: WorkerLock) -> subprocess.Popen[bytes]:
    log_path = settings.home / "worker.log"
    if log_path.exists() and log_path.stat().st_size > _LOG_BYTES:
        log_path.replace(settings.home / "worker.log.1")
    # -P: the current folder is no place to import from
    command = [sys.executable, "-P", "-m", "state_engine.jobs.worker", "--home", str(settings.home)]
    with log_path.open("ab") as log:
        return subprocess.Popen(
            [*command, "--lock-descriptor", str(lock.descriptor), *options.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(settings),
            cwd=_ROOT,
            pass_fds=(lock.descriptor,),
            start_new_session=True,
        )


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment with these settings, and the project importable."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "PYTHONPATH": path,
        "STATE_EXPLORER_HOME": str(settings.home),
        "STATE_EXPLORER_DATA": os.pathsep.join(str(folder) for folder in settings.data_folders),
        "STATE_EXPLORER_MAX_FILE_GB": repr(settings.max_file_bytes / GB),
        "STATE_EXPLORER_MAX_DECLARED_GB": repr(settings.max_declared_bytes / GB),
        "STATE_EXPLORER_MAX_CELLS": str(settings.max_cells),
        "HF_ENDPOINT": settings.hub_endpoint,
    }
