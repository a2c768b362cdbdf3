"""A jobs database that is damaged: put aside, and made again from the run folders, which know what was asked and how it ended."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from state_engine.config import LOCAL, PEOPLE, Settings
from state_engine.errors import RunError
from state_engine.files import PART_PREFIX
from state_engine.jobs.kinds import KINDS, USUAL
from state_engine.jobs.processes import is_alive, kill_tree
from state_engine.jobs.run_folder import RunFolder, RunInfo, list_runs
from state_engine.jobs.seats import holders
from state_engine.jobs.store import LOST, DamagedDatabaseError, JobFailure, JobStore

T = TypeVar("T")
_CHECK_SECONDS = 10.0
_JOB_ID = re.compile(r"[0-9a-f]{16}")
_sound: dict[tuple[Path, int], float] = {}  # when this process last checked a database (path, inode) as a whole


def asked_of_store(settings: Settings, ask: Callable[[JobStore], T]) -> T:
    """Return what is asked of the store of jobs; a database that is damaged is put aside and rebuilt first.

    Raises:
        JobError: the database cannot be used for another reason.
    """
    try:
        store = JobStore(settings.database, owner=settings.owner)
        place = (settings.database, settings.database.stat().st_ino)
        if time.monotonic() - _sound.get(place, -_CHECK_SECONDS) >= _CHECK_SECONDS:
            store.check()
            _sound[place] = time.monotonic()
        return ask(store)
    except DamagedDatabaseError:
        rebuild(settings)
        return ask(JobStore(settings.database, owner=settings.owner))


def rebuild(settings: Settings) -> Path | None:
    """Put a damaged database aside and make a new one from the run folders of all owners; return where the damaged one lies.

    Runs that waited or ran are queued again, those that ended badly keep their words. None when another process was faster.
    """
    settings = settings.of(LOCAL)
    with _alone(settings.home):
        try:
            JobStore(settings.database).check()
            return None
        except DamagedDatabaseError:
            pass
        waiting = _unfinished(settings)
        for worker in holders(
            settings.home
        ):  # one that ends by itself would take the journal of the new database away with its own
            kill_tree(worker)
        new = settings.home / f"{PART_PREFIX}{settings.database.name}"
        new.unlink(missing_ok=True)
        store = JobStore(new)
        used = set[str]()
        for info in sorted(_every_run(settings), key=lambda i: i.manifest.created if i.manifest else ""):
            run = RunFolder(info.path)
            with suppress(RunError):  # damaged itself
                _restore(store, run, run.id in waiting, used)
        store.fold()
        aside = settings.database.with_name(f"{settings.database.name}.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        for end in ("-wal", "-shm"):
            beside = settings.database.with_name(settings.database.name + end)
            if beside.exists():
                beside.replace(aside.with_name(aside.name + end))
        shutil.copyfile(settings.database, aside)
        new.replace(settings.database)  # in one step: a home without a database is a home that was deleted
        return aside


def _every_run(settings: Settings) -> list[RunInfo]:
    """Return the runs of all owners."""
    homes = [settings, *(replace(settings, home=home) for home in sorted(settings.root.glob(f"{PEOPLE}/*")))]
    return [info for one in homes for info in list_runs(one)]


def _unfinished(settings: Settings) -> set[str]:
    """Ids of the runs that wait or are being done by a process that lives."""
    found = set()
    for info in _every_run(settings):
        manifest = info.manifest
        if manifest is not None and (manifest.state == "queued" or (manifest.state == "running" and is_alive(manifest.process))):
            found.add(info.id)
    return found


def _restore(store: JobStore, run: RunFolder, waits: bool, used: set[str]) -> None:
    """Put what a run folder tells into a new database, under the job's old id.

    Runs that were done before summaries were kept in their folders have no job, as ever: pages read what a job returned.
    """
    manifest = run.manifest
    summary = run.summary if manifest.state == "done" else None
    if manifest.state == "done" and summary is None:
        return
    # folders of earlier versions have none, and two have one where a folder was copied
    old = manifest.job if _JOB_ID.fullmatch(manifest.job) and manifest.job not in used else ""
    manner = KINDS[manifest.kind].manner() if manifest.kind in KINDS else USUAL
    job_id = store.submit(manifest.kind, run.request, run.id, manifest.title, manifest.owner, manifest.parent, old, manner)
    used.add(job_id)
    if waits:
        return
    if summary is not None:
        store.done_restored(job_id, summary)
        return
    if manifest.state == "cancelled":
        store.request_cancel(job_id)
        return
    error = JobFailure(manifest.error) if manifest.error else LOST
    store.fail_restored(job_id, "failed" if manifest.state == "failed" else "lost", error)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Let one process of this home at a time inside."""
    descriptor = os.open(home / "rebuild.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
