"""Jobs without a worker process: the run folder that `local.submit` makes of a request, and the jobs that wait done here and now."""

from __future__ import annotations

from state_engine.config import Settings
from state_engine.jobs.kinds import kind_of
from state_engine.jobs.lock import WorkerLock
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import Job
from state_engine.jobs.worker import Worker, WorkerOptions
from state_engine.plain import to_plain


def queued(settings: Settings, request: object, title: str = "", owner: str = "", parent: str = "") -> RunFolder:
    return RunFolder.create(settings, kind_of(request).name, to_plain(request), title, owner, parent)


def work_off(settings: Settings) -> list[Job]:
    """Do the jobs that wait, in this process, as the worker does them; return them as they ended."""
    worker, ended = Worker(settings, WorkerOptions(warm=False), WorkerLock(-1)), []
    while (job := worker.store.claim(worker.identity, worker._start_run)) is not None:
        worker._do(job)
        ended.append(worker.store.get(job.id))
    return ended
