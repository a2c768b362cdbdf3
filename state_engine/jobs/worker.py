"""The process that does the jobs of one home, one after the other: claim, run, record.

    python -m state_engine.jobs.worker --home DIR

Started by `state_engine.jobs.local.ensure_worker`; it outlives the page that started it, since the truth is in the database.
It ends when it had nothing to do for `--idle` seconds, or when its home is deleted. Cancellation is asked for in the database;
a job that does not look (a long call into C) is ended by killing this process, so nothing here may matter after `kill -9`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from state_engine.config import LOCAL, Settings, load_settings
from state_engine.errors import JobCancelled, JobError, QuotaError, StateError, without_folders
from state_engine.files import disk_full, write_json
from state_engine.jobs.before import request_before
from state_engine.jobs.kinds import (
    FIRST_WARMUP_SECONDS,
    LATE_SECONDS,
    LATE_WARMUP,
    WARMUP,
    Kind,
    Lane,
    WarmCache,
    find_kind,
    load_target,
    request_class,
)
from state_engine.jobs.lock import WorkerLock
from state_engine.jobs.logs import start_log
from state_engine.jobs.processes import end_children, identity_of
from state_engine.jobs.run_folder import SUMMARY, RunFolder
from state_engine.jobs.seats import FIRST, SHORT_IDLE_SECONDS, Seat
from state_engine.jobs.shutdown import Stopping
from state_engine.jobs.store import Job, JobFailure, JobStore
from state_engine.jobs.upgrade import Upgrade
from state_engine.library.people import QuotaWatch
from state_engine.plain import from_plain, to_plain
from state_engine.progress import Progress

log = logging.getLogger("state_engine.worker")
_PROGRESS_SECONDS = 0.2
_FULL_SECONDS = 1.0  # between two looks whether a full disk has room again


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker behaves.

    Args:
        idle_seconds: it ends after so long without a job.
        heartbeat_seconds: how often it says that it lives while a job runs.
        poll_seconds: how often it looks for a job.
        warm: prepare slow imports and compilations while there is nothing to do.
        kinds: kinds of jobs beside the built-in ones.
        seat: name of its lock file; `lane` of its jobs, None for any (`state_engine.jobs.seats`).
    """

    idle_seconds: float = 1800.0
    heartbeat_seconds: float = 0.5
    poll_seconds: float = 0.1
    warm: bool = True
    kinds: tuple[Kind, ...] = ()
    seat: str = FIRST.lock
    lane: Lane | None = None

    def at(self, seat: Seat) -> WorkerOptions:
        """Return the options of a worker in another seat than the first: nobody waits for what it could prepare."""
        if seat.lock == FIRST.lock:
            return self
        idle = min(self.idle_seconds, SHORT_IDLE_SECONDS) if seat.lane == "short" else self.idle_seconds
        return replace(self, seat=seat.lock, lane=seat.lane, warm=False, idle_seconds=idle)

    def arguments(self) -> list[str]:
        """Return the same as arguments of the command line."""
        numbers = [f"--idle={self.idle_seconds}", f"--heartbeat={self.heartbeat_seconds}", f"--poll={self.poll_seconds}"]
        kinds = [f"--kind={kind.name}={kind.request}={kind.target}" for kind in self.kinds]
        where = [f"--seat={self.seat}", *([f"--lane={self.lane}"] if self.lane else [])]
        return [*numbers, *where, *([] if self.warm else ["--cold"]), *kinds]


@dataclass(frozen=True)
class _Outcome:
    state: Literal["done", "failed", "cancelled", "queued"]  # queued: again, since the worker ends
    summary: dict[str, object] = field(default_factory=dict)
    error: JobFailure | None = None


class Reporter:
    """The `on_progress` of a job: writes at most five times a second, and raises JobCancelled when the job is to stop."""

    def __init__(self, store: JobStore, job: Job, worker: str, run: RunFolder, stopping: Stopping) -> None:
        self._store, self._job, self._worker, self._run = store, job, worker, run
        self._stopping = stopping
        self._stage: str | None = None
        self._written, self._waiting = 0.0, False
        self._last, self._remark = Progress(""), ""
        self.stop = threading.Event()  # also set by the heartbeat
        self.refusal: QuotaError | None = None  # set by the heartbeat: the owner's limits end the job

    def __call__(self, progress: Progress) -> None:
        if progress.message:
            self._run.log(progress.message)
            self._remark = progress.message
        self._last, self._waiting = progress, True
        if progress.stage != self._stage or time.monotonic() - self._written >= _PROGRESS_SECONDS:
            self.flush()
        if self.stop.is_set():
            raise JobCancelled("The job was cancelled.")
        if self.refusal is not None:
            raise self.refusal
        self._stopping.check()

    def flush(self) -> None:
        """Write what was held back."""
        if not self._waiting:
            return
        if self._store.progress(self._job.id, self._worker, replace(self._last, message=self._remark)):
            self.stop.set()
        self._stage, self._written, self._waiting = self._last.stage, time.monotonic(), False


class Worker:
    """The loop. Needs the lock of its home; `serve` returns when there is no reason to stay."""

    def __init__(self, settings: Settings, options: WorkerOptions, lock: WorkerLock) -> None:
        self.settings, self.options, self.lock = settings, options, lock
        self.store = JobStore(settings.database)
        self.identity = identity_of()
        self.warm = WarmCache()
        self.stopping = Stopping()
        self.upgrade = Upgrade(self.store)
        self._to_warm = list(WARMUP) if options.warm else []
        self._warm_from = time.monotonic() + FIRST_WARMUP_SECONDS
        self._to_warm_late = list(LATE_WARMUP) if options.warm else []

    def serve(self) -> None:
        """Do jobs until idle for too long, the home is gone, or another version of the program has taken over."""
        while True:
            try:
                with self.store.kept_open():
                    self._serve_until_idle()
            except JobError as error:
                if self._waits_for_disk(error):
                    continue
                if self.settings.database.exists():
                    raise
            self.lock.close()
            if self.stopping:
                end_children()  # a job that was stopped may have left one
                return
            # a job that came between the last look and the lock's end found no reason to start another worker
            if not self.settings.database.exists() or self.upgrade or not self.store.has_queued(self.options.lane):
                return
            lock = WorkerLock.take(self.settings.home, self.options.seat)
            if lock is None:
                return
            lock.write_holder(self.identity)
            self.lock = lock

    def _serve_until_idle(self) -> None:
        last_work = time.monotonic()
        while time.monotonic() - last_work < self.options.idle_seconds and self.settings.database.exists() and not self.stopping:
            if self.upgrade:
                log.info("another version of the program has taken over; this worker ends")
                return
            self.store.mark_lost()
            job = self.store.claim(self.identity, self._start_run, self.settings.most_running, self.options.lane)
            if job is not None:
                self._do(job)
            elif self._to_warm and time.monotonic() > self._warm_from:
                _warm_up(self._to_warm.pop(0))
            elif self._to_warm_late and time.monotonic() - last_work > LATE_SECONDS:
                _warm_up(self._to_warm_late.pop(0))
            else:
                time.sleep(self.options.poll_seconds)
                continue
            last_work = time.monotonic()

    def _start_run(self, job: Job) -> None:
        """Mark a run as running in the step that claims its job; what prevents that fails the job afterwards."""
        with suppress(StateError, OSError):
            RunFolder.open(self.settings.of(job.owner), job.run_id).start()

    def _do(self, job: Job) -> None:
        about = {"run": job.run_id, "job": job.id, "kind": job.kind, "owner": job.owner}
        log.info("job %s (%s), run %s", job.id, job.kind, job.run_id, extra=about)
        outcome = self._attempt(job)
        if not self._record(job, outcome):
            log.info("job %s was ended by another process; this worker ends too", job.id, extra=about)
            raise SystemExit(0)
        log.info("job %s: %s", job.id, outcome.state, extra=about)

    def _record(self, job: Job, outcome: _Outcome) -> bool:
        """Record the end of a job, when the disk has room for it; False when the job is no longer this worker's."""
        while True:
            try:
                if (state := outcome.state) == "queued":
                    return self.store.put_back(job.id, self.identity)
                ended = self.store.finish(job.id, self.identity, state, outcome.summary, outcome.error)
            except JobError as error:
                if not self._waits_for_disk(error):
                    raise
                continue
            with suppress(StateError):
                run = RunFolder.open(self.settings.of(job.owner), job.run_id)
                if run.manifest.state == "running":  # its end did not fit on the disk before
                    _close(run, outcome)
            return ended

    def _waits_for_disk(self, error: JobError) -> bool:
        """Wait a moment when a full disk is what is wrong, and return whether it is: the worker lives on."""
        if not self.settings.database.exists() or disk_full(error, self.settings.home, JobError) is None:
            return False
        log.warning("%s", error)
        time.sleep(_FULL_SECONDS)
        return True

    def _attempt(self, job: Job) -> _Outcome:
        """Run the job and close its run folder; whatever happens becomes an outcome."""
        run: RunFolder | None = None
        try:
            run = RunFolder.open(self.settings.of(job.owner), job.run_id)
            if run.manifest.process != self.identity:  # it could not be started when its job was claimed
                run.start()
            summary = self._call(job, run)
            write_json(run.file(SUMMARY), summary)
            run.finish("done")
            return _Outcome("done", summary)
        except BaseException as error:  # a verb's code may raise anything, and the page must be told of all of it
            outcome = _outcome_of(error, run, self.settings.of(job.owner))
            if self.stopping and outcome.state == "cancelled" and not self.store.get(job.id).cancelling:
                outcome = _Outcome("queued")
            if run is not None:
                _close(run, outcome)
            if isinstance(error, KeyboardInterrupt):
                self.store.finish(job.id, self.identity, "failed", {}, outcome.error)
                raise
            return outcome

    def _call(self, job: Job, run: RunFolder) -> dict[str, object]:
        """Call the task. Here plain values become a request, and the summary becomes plain values."""
        kind = find_kind(job.kind, self.options.kinds)
        task = load_target(kind.target)
        # the run folder says what was asked: a training that goes on was queued without its request by earlier versions
        request = from_plain(request_class(kind), request_before(kind.name, run.request))
        report = Reporter(self.store, job, self.identity, run, self.stopping)
        os.environ["STATE_EXPLORER_OWNER"] = job.owner  # the task asks load_settings() where things lie
        with self._heart(job, report):
            summary = task(request, run, report, self.warm)
            report.flush()
        plain = dict(to_plain(summary))
        json.dumps(plain, allow_nan=False)  # fails here, inside the job, rather than when it is recorded
        return plain

    def _leave(self, job: Job) -> None:
        """Put a job that does not stop by itself back, and end this process with its children."""
        if self.store.put_back(job.id, self.identity):
            with suppress(StateError, OSError):
                RunFolder.open(self.settings.of(job.owner), job.run_id).wait_again()
        log.info("job %s did not stop; it waits again", job.id, extra={"run": job.run_id, "job": job.id})
        end_children()
        os._exit(0)

    @contextmanager
    def _heart(self, job: Job, report: Reporter) -> Iterator[None]:
        """A thread that says that the job lives, hears when it is to stop, and looks whether its owner's disk is used up."""
        ended = threading.Event()
        watch = QuotaWatch(self.settings.of(job.owner))

        def beat() -> None:
            while not ended.wait(self.options.heartbeat_seconds):
                try:
                    if self.store.heartbeat(job.id, self.identity):
                        report.stop.set()
                    report.refusal = report.refusal or watch.look()
                    if self.stopping.patience_is_over:
                        self._leave(job)
                except JobError as error:
                    if not self.settings.database.exists():
                        os._exit(0)  # the home was deleted: nobody is left to tell
                    log.warning("heartbeat: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _outcome_of(error: BaseException, run: RunFolder | None, settings: Settings) -> _Outcome:
    if isinstance(error, JobCancelled):
        return _Outcome("cancelled")
    full = disk_full(error, settings.home, JobError)
    if full is not None:
        log.error("%s", "".join(traceback.format_exception(error)))
        return _Outcome("failed", error=_failure(full, settings))
    if isinstance(error, StateError):
        failure = _failure(error, settings)
        if run is not None and str(failure) != str(error):
            _log_in(run, f"failed: {error}")  # with the places of files, for whoever runs the server
        return _Outcome("failed", error=failure)
    error_id = secrets.token_hex(4)
    text = f"unexpected error {error_id}\n{''.join(traceback.format_exception(error))}"
    log.error("%s", text)
    if run is not None:
        _log_in(run, text)
    if isinstance(error, MemoryError):
        failure = JobFailure(
            "The machine's memory was not enough.",
            without_folders(str(error)),
            "Ask for fewer cells or perturbations.",
            error_id,
        )
    else:
        words = without_folders(f"{type(error).__name__}: {error}")
        why, fix = words, f"Please report it with error {error_id}; the run's log has the details."
        failure = JobFailure("There was an unexpected error.", why[:500], fix, error_id)
    return _Outcome("failed", error=failure)


def _failure(error: StateError, settings: Settings) -> JobFailure:
    """Return an error as it is stored and shown: with the names of files as their users know them."""
    from state_engine.library.shown import for_people  # with numpy, which whoever submits a job need not import

    shown = for_people(error, settings)
    return JobFailure(shown.what, shown.why, shown.fix)


def _log_in(run: RunFolder, text: str) -> None:
    try:
        run.log(text)
    except OSError as error:
        log.warning("log of %s: %s", run.id, error)


def _close(run: RunFolder, outcome: _Outcome) -> None:
    """Write the end into the run folder; a folder that was deleted or a full disk must not hide the outcome."""
    try:
        if outcome.state == "queued":
            run.wait_again()
            return
        run.finish(outcome.state, str(outcome.error or ""))
    except (StateError, OSError) as error:
        log.warning("run %s: %s", run.id, error)


def _warm_up(target: str) -> None:
    started = time.monotonic()
    try:
        load_target(target)()
    except Exception as error:  # noqa: BLE001 - a convenience; the job that needs it will say what is wrong
        log.warning("warm-up %s: %s", target, error)
        return
    log.info("warm-up %s: %.1f s", target, time.monotonic() - started)


def main(arguments: list[str] | None = None) -> None:
    """The command line of the worker."""
    parser = argparse.ArgumentParser(prog="python -m state_engine.jobs.worker", description="Does the jobs of one home.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--idle", type=float, default=WorkerOptions.idle_seconds)
    parser.add_argument("--heartbeat", type=float, default=WorkerOptions.heartbeat_seconds)
    parser.add_argument("--poll", type=float, default=WorkerOptions.poll_seconds)
    parser.add_argument("--cold", action="store_true", help="do not prepare imports and compilations")
    parser.add_argument("--kind", action="append", default=[], metavar="NAME=REQUEST=TARGET", help="one more kind of job")
    parser.add_argument("--seat", default=WorkerOptions.seat, metavar="FILE", help="name of its lock file in the home")
    parser.add_argument("--lane", choices=get_args(Lane), help="do only such jobs")
    parser.add_argument("--lock-descriptor", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    start_log()
    home = given.home.expanduser().resolve()
    # job functions ask load_settings() where things lie
    os.environ["STATE_EXPLORER_HOME"] = str(home)
    os.environ["STATE_EXPLORER_OWNER"] = LOCAL
    home.mkdir(parents=True, exist_ok=True)
    kinds = tuple(Kind(*kind.split("=")) for kind in given.kind)
    options = WorkerOptions(given.idle, given.heartbeat, given.poll, not given.cold, kinds, given.seat, given.lane)
    worker = Worker(load_settings(), options, _lock(home, given.seat, given.lock_descriptor))
    worker.stopping.on_terminate()
    worker.serve()


def _lock(home: Path, seat: str, descriptor: int | None) -> WorkerLock:
    lock = WorkerLock.take(home, seat) if descriptor is None else WorkerLock.inherited(descriptor)
    if lock is None:
        raise SystemExit(f"A worker runs already for {home}.")
    lock.write_holder(identity_of())
    return lock


if __name__ == "__main__":
    main()
