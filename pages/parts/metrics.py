"""What the server tells a monitor: `/metrics` in Prometheus' text form: jobs, queue, worker, disk, memory.

Where people log in, and wherever STATE_EXPLORER_METRICS_TOKEN is set, a request needs `Authorization: Bearer TOKEN`; with a login and without a
token there is nothing to see. Names of people, data sets and runs are in no number.

Source: Prometheus' text exposition format.
"""

from __future__ import annotations

import hmac
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pages.parts.login import login_configured
from state_engine import __version__
from state_engine.config import LOCAL, Settings, load_settings
from state_engine.errors import JobError
from state_engine.jobs.processes import is_alive
from state_engine.jobs.seats import holders
from state_engine.jobs.store import JOB_STATES, Job, JobStore

MOST_JOBS = 100_000


def metrics(request: Request) -> Response:
    """Answer with the numbers, to whoever may see them."""
    token = os.environ.get("STATE_EXPLORER_METRICS_TOKEN", "")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if (token or login_configured()) and not (token and hmac.compare_digest(given.encode(), token.encode())):
        return PlainTextResponse("A token is needed.\n", status_code=401)
    return Response(generate_latest(numbers(load_settings().of(LOCAL))), media_type=CONTENT_TYPE_LATEST)


def numbers(settings: Settings) -> CollectorRegistry:
    """Return the numbers of an installation as they are now."""
    found = CollectorRegistry()

    def gauge(name: str, help: str, value: float, **labels: str) -> None:
        known = found._names_to_collectors.get(f"state_explorer_{name}")
        one = known if isinstance(known, Gauge) else Gauge(f"state_explorer_{name}", help, list(labels), registry=found)
        (one.labels(**labels) if labels else one).set(value)

    gauge("info", "1, with the version", 1, version=__version__)
    gauge("page_process_resident_bytes", "Resident memory of the page process", psutil.Process().memory_info().rss)
    gauge(
        "worker_up",
        "Whether a worker process lives on this machine",
        float(any(is_alive(worker) for worker in holders(settings.root))),
    )
    there = next(folder for folder in (settings.root, *settings.root.parents) if folder.exists())
    disk = shutil.disk_usage(there)
    gauge("disk_free_bytes", "Free bytes of the disk with the home", disk.free)
    gauge("disk_total_bytes", "All bytes of that disk", disk.total)
    jobs = _jobs(settings)
    gauge("database_up", "Whether the database of jobs can be read", float(jobs is not None))
    waiting = [job for job in jobs or () if job.state == "queued"]
    gauge("queue_length", "Jobs that wait", len(waiting))
    oldest = max((time.time() - job.created for job in waiting), default=0.0)
    gauge("queue_oldest_seconds", "How long the job that waits longest has waited", oldest)
    for (kind, state), count in Counter((job.kind, job.state) for job in jobs or ()).items():
        gauge("jobs", "Jobs in the database by kind and state", count, kind=kind, state=state)
    for kind in sorted({job.kind for job in jobs or ()}):
        seconds = sum((job.ended or 0) - job.started for job in jobs or () if job.kind == kind and job.started and job.ended)
        gauge("job_seconds", "Seconds that jobs that are over have run, by kind", seconds, kind=kind)
    return found


def _jobs(settings: Settings) -> Sequence[Job] | None:
    """Return the jobs of everybody; none before the first; None where the database cannot be read."""
    if not settings.database.exists():
        return ()
    try:
        return JobStore(settings.database).list(states=JOB_STATES, limit=MOST_JOBS)
    except JobError:
        return None
