"""Jobs on a page: the panel with state, progress, time left and a button to stop; and the jobs that belong to a run.

The panel polls while the job runs and survives a reload, since the run is in the address.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from pages.parts import session
from pages.parts.format import duration, md, sentences, size
from pages.parts.widgets import errors_shown, show_error
from state_engine.errors import JobError, StateError
from state_engine.jobs import local
from state_engine.jobs.kinds import KINDS, Lane, kind_of
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.run_folder import RunFolder, derived_runs
from state_engine.jobs.seats import lanes
from state_engine.jobs.store import LOST, Job, JobFailure, JobStore
from state_engine.plain import to_plain

ONE_WISH = 3.0
"""Seconds within which the same request is the second click of a double click, also where its job was over meanwhile."""
LEAVE = "You can leave this page: the job goes on, and this address brings you back."


def job_of(run_id: str) -> Job | None:
    """Return the newest job of a run, or None; whoever looks sees that jobs get done."""
    local.look_after(session.settings())
    return asked_of_store(session.settings(), lambda store: store.for_run(run_id))


def start_job(request: object, title: str, *, parent: str = "", lane: Lane | None = None, expected: float | None = None) -> str:
    """Submit a job and return the id of its run: the way of every button that starts one.

    Who clicks twice wishes once: where the same was asked for and is not over, or a moment ago, that run is returned.

    Args:
        request: a frozen dataclass; its class tells the kind of job.
        title: for people.
        parent: id of the run that the job is derived from; "" for none.
        lane: None: that of its kind.
        expected: seconds that were guessed for it, from which later guesses are learnt.

    Raises:
        StateError: as `local.submit`.
    """
    settings = session.settings()
    there = _asked_already(kind_of(request).name, to_plain(request), parent)
    if there is not None:
        return there.run_id
    more: dict[str, Any] = {"parent": parent} if parent else {}
    if lane is not None:
        more["lane"] = lane
    if expected is not None:
        more["expected"] = expected
    return local.submit(settings, request, title, **more)[1]


def _asked_already(kind: str, request: object, parent: str) -> Job | None:
    settings = session.settings()
    jobs = asked_of_store(settings, lambda store: store.list(owner=settings.owner, parent=parent))
    for job in jobs:
        if (job.kind, job.request) != (kind, request) or job.cancelling:
            continue
        if job.active or (job.state == "done" and time.time() - job.created < ONE_WISH):
            return job
    return None


def derived_run(parent: RunFolder, request: object, *, active: bool = False) -> RunFolder | None:
    """Return the newest run that such a job derived from another run and nobody cancelled; None without one.

    Args:
        parent: the run that it is derived from.
        request: what was asked; the class of such requests stands for any of them.
        active: only one whose job waits or runs, as after a reload of the page.
    """
    for info in derived_runs(session.settings(), parent.id, kind_of(request).name):
        run = RunFolder(info.path)
        if info.state == "cancelled" or not (isinstance(request, type) or run.request == to_plain(request)):
            continue
        job = job_of(run.id) if active else None
        if not active or (job is not None and job.active):
            return run
    return None


def job_panel(run_id: str, *, title: str, key: str) -> bool:
    """Show a run's job while it is not over, or how it failed; True when it ended well or there is none.

    Args:
        run_id: the run.
        title: what is done, in the user's words.
        key: unique on the page.
    """
    try:
        return _panel(run_id, title, key)
    except StateError as error:
        show_error(error)
        return False


def _panel(run_id: str, title: str, key: str) -> bool:
    job = job_of(run_id)
    if job is None:
        lost = (session.settings().runs / run_id).is_dir() and RunFolder.open(session.settings(), run_id).state == "lost"
        if lost:
            show_error(JobError(LOST.what, LOST.why, LOST.fix))
        return not lost
    if job.active:
        live_panel(run_id, title, key)
        return False
    kept = job.state != "done" and local.goes_on(RunFolder.open(session.settings(), run_id))
    if job.state in ("failed", "lost"):
        error = job.error or JobFailure(f"{title} failed.")
        show_error(JobError(error.what, error.why, error.fix))
    elif job.state == "cancelled":
        words = "What was done is kept, and it can go on." if kept else "Nothing was kept."
        st.warning(f"Cancelled. {words}", icon=":material/stop_circle:")
    if kept and st.button("Go on", key=f"go_on_{key}", icon=":material/resume:", help="What is done is not computed again."):
        local.go_on(session.settings(), RunFolder.open(session.settings(), run_id))
        st.rerun()
    return job.state == "done"


def live_panel(
    run_id: str,
    title: str,
    key: str,
    *,
    stop: str = "Cancel",
    stop_help: str | None = None,
    leave: str = LEAVE,
    below: Callable[[], None] | None = None,
    every: float = 0.6,
) -> None:
    """Draw the panel of a job that waits or runs, again and again until it is over; then the whole page runs.

    Args:
        run_id: the run.
        title: what is done, in the user's words.
        key: unique on the page.
        stop: label of the button; `stop_help` says what it does.
        leave: says what happens when the page is left.
        below: draws what grows while the job runs.
        every: seconds between two looks.
    """

    def draw() -> None:
        with errors_shown():
            look()

    def look() -> None:
        job = job_of(run_id)
        if job is None or not job.active:
            st.rerun()
        with st.container(border=True, key=f"{key}_panel"):
            left, right = st.columns([5, 1], vertical_alignment="center")
            left.markdown(f"**{md(title)}** · {state_text(job)}")
            with right:
                stop_button(job, stop, f"{key}_{stop.lower()}", stop_help)
            st.progress(job.fraction, text=sentences(stage_text(job)))
            st.caption(leave)
        if below is not None:
            below()

    st.fragment(draw, run_every=every)()


def stop_button(job: Job, label: str, key: str, help: str | None = None) -> None:
    """Draw the button that stops an active job; while it saves what it has, one that does not wait for that."""
    now = job.cancelling
    if now:
        label, key, help = "Stop now", f"{key}_now", "What was done since it was saved last is lost."
    if st.button(label, key=key, icon=":material/stop_circle:", help=help):
        with st.spinner("Stopping"):
            local.cancel(session.settings(), job.id, now=now)
        st.rerun()


def state_text(job: Job) -> str:
    """Say where an active job stands."""
    if job.state == "queued":
        return _waiting_text(job)
    if job.cancelling:
        return "stopping: what is done is saved first" if job.kind in KINDS and KINDS[job.kind].saves else "stopping"
    if job.seconds_left is None:
        return "running"
    about = "about " if job.seconds_left >= 1 else ""  # not "about under 1 s"
    return f"running, {about}{duration(job.seconds_left)} left in this stage"


def _waiting_text(job: Job) -> str:
    """Say how many jobs are before one that waits, which of them keeps its worker, and when it is expected to start."""

    def ask(store: JobStore) -> tuple[float | None, tuple[Job, ...]]:
        return store.seconds_until(job, lanes=lanes()), store.list(states=("running",))

    seconds, running = asked_of_store(session.settings(), ask)
    if seconds is not None and seconds < 1:
        return "waiting for the worker"
    before = f", {job.position - 1} before it" if job.position > 1 else ""
    behind = f", behind '{md(running[-1].title)}'" if running else ", behind work of others"
    return f"waiting{before}{behind}{_start_words(seconds)}"


def start_text(job: Job) -> str:
    """Say when a job that waits is expected to start, behind other words; nothing where that cannot be known."""
    return _start_words(asked_of_store(session.settings(), lambda store: store.seconds_until(job, lanes=lanes())))


def _start_words(seconds: float | None) -> str:
    return f", starts in about {duration(seconds)}" if seconds is not None and seconds >= 1 else ""


def stage_text(job: Job) -> str:
    """Say what an active job does, and how much of it is done."""
    in_bytes = job.unit == "bytes"
    done, total = (size(job.done), size(job.total)) if in_bytes else (f"{job.done:,}", f"{job.total:,}")
    counts = f" {done} of {total}" if job.total else f" {done}" if in_bytes and job.done else ""
    return f"{job.stage or 'Starting'}{counts}"
