"""Jobs on this machine: submit, wait, cancel, and the worker process that does them. Imports no torch; cheap to call."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from state_engine.config import GB, LOCAL, Settings
from state_engine.errors import JobError, QuotaError, RunError, StateError
from state_engine.files import full_disk_told
from state_engine.jobs.kinds import KINDS, Lane, find_kind, kind_of, known_kinds
from state_engine.jobs.lock import WorkerLock, holder
from state_engine.jobs.processes import identity_of, is_alive, kill_tree, started_at
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.seats import FIRST, Seat, seats
from state_engine.jobs.store import Job, JobStore, new_job_id
from state_engine.jobs.worker import WorkerOptions
from state_engine.library.people import check_quota
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.shards.in_run import is_unfinished

DEFAULT = WorkerOptions()
_ROOT = Path(__file__).resolve().parents[2]
_LOG_BYTES = 5 * 1024**2
_GRACE_SECONDS = 1.2
_POLL_SECONDS = 0.05
_WAKE_SECONDS = 10.0  # a worker that slept with the machine takes its job back within a heartbeat
_STALLED_SECONDS = 120.0  # longer than any step of the warm-up


def ensure_worker(settings: Settings, options: WorkerOptions = DEFAULT, seat: Seat = FIRST) -> bool:
    """Start a worker when none has the seat; return True when this call did. Safe to call from any process, thread and page run."""
    settings = settings.of(LOCAL)
    settings.home.mkdir(parents=True, exist_ok=True)
    with full_disk_told(settings.home, JobError):
        lock = WorkerLock.take(settings.home, seat.lock)
        if lock is None:
            return False
        try:
            process = _spawn(settings, options, lock, seat)
            lock.write_holder(identity_of(process.pid))
        finally:
            lock.close()  # the child has its share
    threading.Thread(target=_see_off, args=(settings, options, process), name="worker-reaper", daemon=True).start()
    return True


def _see_off(settings: Settings, options: WorkerOptions, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a worker, so that no zombie stays; after a crash its job goes on, also where no page is open."""
    if process.wait() == 0 or not settings.database.exists():
        return
    with suppress(StateError, OSError):  # whoever polls next tries again
        look_after(settings, options)


def look_after(settings: Settings, options: WorkerOptions = DEFAULT) -> None:
    """See that jobs get done; whoever polls calls it, from any process, thread and page run.

    Jobs of dead or silent workers become lost and their runs are closed; a worker that stays silent is killed with all its
    children; a worker is started when jobs wait. A damaged database is rebuilt first, whichever of these steps finds it.
    """
    asked_of_store(settings, lambda store: _looked_after(settings, store, options))


def _looked_after(settings: Settings, store: JobStore, options: WorkerOptions) -> None:
    store.mark_lost()
    for job in store.lost_with_worker():
        alive = is_alive(job.worker)
        if alive is None or (alive and time.time() - (job.ended or 0) < _WAKE_SECONDS):
            continue
        # the order matters: once the job is no longer the worker's, that worker takes no other, so the kill cannot hit one
        if store.disown(job.id):
            kill_tree(job.worker)
            _close(settings, job)
    if not store.has_queued():
        return
    _fill_seats(settings, store, options)


def _fill_seats(settings: Settings, store: JobStore, options: WorkerOptions) -> None:
    """See that the first seat has a worker, and the others where all before them are busy while a job waits for them."""
    worker = holder(settings.root)
    if time.time() - started_at(worker) > _STALLED_SECONDS and store.is_stalled(_STALLED_SECONDS):
        kill_tree(worker)
    ensure_worker(settings, options)
    for before, seat in pairwise(seats()):
        if not store.is_busy(holder(settings.root, before.lock)) or not store.has_queued(seat.lane):
            return
        ensure_worker(settings, options, seat)


def submit(
    settings: Settings,
    request: object,
    title: str = "",
    parent: str = "",
    options: WorkerOptions = DEFAULT,
    lane: Lane | None = None,
    expected: float | None = None,
) -> tuple[str, str]:
    """Queue a job of the settings' owner and see that a worker lives. Return (job id, run id).

    Args:
        settings: of the installation, as the owner has it.
        request: a frozen dataclass; its class tells the kind of job.
        title: for people.
        parent: id of the run that the job is derived from; "" for none.
        options: of the worker.
        lane: None: that of its kind.
        expected: seconds that it was guessed to take, from which later guesses are learnt; None for none.

    Raises:
        JobError: no kind of job takes such a request. TypeError, ValueError: the request is not plain JSON.
        QuotaError: the owner has as many jobs, or uses as much disk, as allowed.
    """
    queued = queue(settings, request, title, parent, options, lane, expected)
    look_after(settings, options)
    return queued


def queue(
    settings: Settings,
    request: object,
    title: str = "",
    parent: str = "",
    options: WorkerOptions = DEFAULT,
    lane: Lane | None = None,
    expected: float | None = None,
) -> tuple[str, str]:
    """Make a run folder and queue a job for it, as `submit`; start no worker."""
    settings.check_changes()
    kind, plain = kind_of(request, options.kinds), to_plain(request)
    _check_may_queue(settings)
    with full_disk_told(settings.home, JobError):
        job_id = new_job_id()
        run = RunFolder.create(settings, kind.name, plain, title, None, parent, job_id)
        try:
            asked = (kind.name, plain, run.id, title, settings.owner, parent, job_id, kind.manner(lane, expected))
            return asked_of_store(settings, lambda store: store.submit(*asked)), run.id
        except JobError:
            run.delete()  # nobody would do it
            raise


def goes_on(run: RunFolder) -> bool:
    """Return whether a run that was stopped, failed or lost has parts that are done, so that it can go on."""
    kind = KINDS.get(run.manifest.kind)
    return kind is not None and kind.resumes and run.state in ("failed", "cancelled", "lost") and is_unfinished(run.path)


def go_on(settings: Settings, run: RunFolder) -> str:
    """Queue the job of a stopped run again: what is done is not done again. Return the job's id.

    Raises:
        JobError: it has nothing to go on with, or waits, runs or is done. QuotaError: see `submit`.
    """
    if not goes_on(run):
        raise JobError(f"Run {run.id} cannot go on.", f"It is {run.state}, or nothing of it is done.", "Start it again.")
    _check_may_queue(settings)
    return queue_again(settings, run)


def queue_again(settings: Settings, run: RunFolder) -> str:
    """Queue a new job for a run that is there, and see that a worker lives. Return the job's id."""
    kind, manifest, job_id = find_kind(run.manifest.kind), run.manifest, new_job_id()
    run.record(job=job_id)
    asked = (kind.name, run.request, run.id, manifest.title, manifest.owner, manifest.parent, job_id, kind.manner())
    asked_of_store(settings, lambda store: store.submit(*asked))
    look_after(settings)
    return job_id


def _check_may_queue(settings: Settings) -> None:
    """Refuse a job of an owner who has as many, or as much, as allowed.

    Raises:
        QuotaError: says which limit.
    """
    check_quota(settings)
    waiting = asked_of_store(settings, lambda store: store.waiting(settings.owner))
    if settings.most_queued is not None and waiting >= settings.most_queued:
        raise QuotaError(
            "You have as many jobs waiting as is allowed.",
            f"{waiting} wait; each person may have {settings.most_queued}.",
            "Wait until one starts, or cancel one on Runs.",
        )


def cancel(
    settings: Settings, job_id: str, options: WorkerOptions = DEFAULT, grace_seconds: float = _GRACE_SECONDS, now: bool = False
) -> Job:
    """Cancel a job, within two seconds: by asking, then by killing the worker. Return the job as it then is.

    A job that ended before it noticed stays what it became. One that saves what it has when it stops (`Kind.saves`) is asked only, and
    may be returned as running and `cancelling`; `now` kills its worker too.
    """
    settings.check_changes()
    job = asked_of_store(settings, lambda store: store.request_cancel(job_id))
    store = JobStore(settings.database)
    deadline = time.monotonic() + grace_seconds
    while _at_work(job) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        job = store.get(job_id)
    kind = known_kinds(options.kinds).get(job.kind)  # none: of another version of the program
    waits = not now and job.cancelling and kind is not None and kind.saves
    # the order matters: once the job is no longer the worker's, that worker takes no other, so the kill cannot hit one
    if not waits and _at_work(job) and store.force_cancelled(job_id):
        kill_tree(job.worker)
    job = store.get(job_id)
    if job.state == "cancelled":
        _close(settings, job)
    look_after(settings, options)
    return job


def wait(
    settings: Settings,
    job_id: str,
    timeout: float = 3600.0,
    on_progress: OnProgress = silent,
    options: WorkerOptions = DEFAULT,
) -> Job:
    """Return the job when it has ended, however it ended.

    Raises:
        JobError: no such job, or it did not end within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        look_after(settings, options)
        job = asked_of_store(settings, lambda store: store.get(job_id))
        on_progress(Progress(job.stage, job.done, job.total, job.message, job.unit))
        if not job.active:
            return job
        if time.monotonic() > deadline:
            raise JobError(f"Job {job_id} did not end.", f"It is {job.state} after {timeout:g} seconds.")
        time.sleep(_POLL_SECONDS)


def _at_work(job: Job) -> bool:
    """Return whether a worker may still do this job: it runs, or it is lost because its worker, which lives, was silent."""
    return job.state == "running" or (job.state == "lost" and bool(is_alive(job.worker)))


def _close(settings: Settings, job: Job) -> None:
    """Close the run folder of a job that was cancelled before it ran, or whose worker died or was killed."""
    try:
        run = RunFolder.open(settings.of(job.owner), job.run_id)
    except RunError:
        return  # deleted meanwhile
    later = JobStore(settings.database).for_run(job.run_id)  # a training may have been gone on with
    if later is not None and later.id != job.id:
        return
    if job.state == "cancelled" and run.manifest.state != "cancelled":
        run.finish("cancelled")
    elif job.state == "lost" and run.manifest.state in ("queued", "running"):
        run.finish("lost", str(job.error or ""), datetime.fromtimestamp(job.ended, UTC) if job.ended else None)


def _spawn(settings: Settings, options: WorkerOptions, lock: WorkerLock, seat: Seat) -> subprocess.Popen[bytes]:
    log_path = settings.home / "worker.log"
    if log_path.exists() and log_path.stat().st_size > _LOG_BYTES:
        log_path.replace(settings.home / "worker.log.1")
    # -P: the current folder is no place to import from
    command = [sys.executable, "-P", "-m", "state_engine.jobs.worker", "--home", str(settings.home)]
    with log_path.open("ab") as log:
        return subprocess.Popen(
            [*command, "--lock-descriptor", str(lock.descriptor), *options.at(seat).arguments()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(settings) | ({} if seat.gpu is None else {"CUDA_VISIBLE_DEVICES": seat.gpu}),
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
        "STATE_EXPLORER_OWNER": settings.owner,
        "STATE_EXPLORER_DATA": os.pathsep.join(str(folder) for folder in settings.data_folders),
        "STATE_EXPLORER_MAX_FILE_GB": repr(settings.max_file_bytes / GB),
        "STATE_EXPLORER_MAX_DECLARED_GB": repr(settings.max_declared_bytes / GB),
        "STATE_EXPLORER_MAX_CELLS": str(settings.max_cells),
        "STATE_EXPLORER_TRASH_DAYS": repr(settings.trash_days),
        "STATE_EXPLORER_EXECUTOR": settings.executor,
        "STATE_EXPLORER_SHARD_MB": repr(settings.shard_bytes / 1024**2),
        "HF_ENDPOINT": settings.hub_endpoint,
        "STATE_EXPLORER_QUOTA_GB": "" if settings.quota_bytes is None else repr(settings.quota_bytes / GB),
        "STATE_EXPLORER_MAX_RUNNING": str(settings.most_running or ""),
    }
