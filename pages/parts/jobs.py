"""The job panel: state, progress, time left, cancel; it polls while the job runs and survives a reload (the run is in the address)."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages.parts import session
from pages.parts.format import duration, size
from pages.parts.widgets import show_error
from state_engine.errors import JobError
from state_engine.jobs import local
from state_engine.jobs.store import Job, JobFailure, JobStore


def job_of(run_id: str) -> Job | None:
    """The newest job of a run, or None."""
    store = JobStore(session.settings().database)
    store.mark_lost()
    return store.for_run(run_id)


def job_panel(run_id: str, *, title: str, key: str, when_done: Callable[[Job], None] | None = None) -> bool:
    """Shows a run's job and says whether it is over.

    Args:
        run_id: the run.
        title: what is being done, in the user's words.
        key: unique on the page.
        when_done: called once inside the full page when the job has ended well.
    """
    job = job_of(run_id)
    if job is None:
        return True
    if job.active:
        _poll(run_id, title, key)
        return False
    _ended(job, title)
    if job.state == "done" and when_done is not None:
        when_done(job)
    return job.state == "done"


@st.fragment(run_every=0.6)
def _poll(run_id: str, title: str, key: str) -> None:
    job = job_of(run_id)
    if job is None or not job.active:
        st.rerun()
    with st.container(border=True, key=f"{key}_panel"):
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.markdown(f"**{title}** · {_state(job)}")
        if right.button("Cancel", key=f"{key}_cancel", icon=":material/stop_circle:"):
            local.cancel(session.settings(), job.id)
            st.rerun()
        st.progress(job.fraction, text=_stage(job))
        st.caption("You can leave this page: the job goes on, and this address brings you back.")


def _state(job: Job) -> str:
    if job.state == "queued":
        return "waiting for the worker" if job.position <= 1 else f"waiting, {job.position - 1} before it"
    if job.cancelling:
        return "stopping"
    left = f", about {duration(job.seconds_left)} left" if job.seconds_left is not None else ""
    return f"running{left}"


def _stage(job: Job) -> str:
    in_bytes = job.stage.split(" ")[0] in ("Downloading", "Unpacking", "Verifying")
    done, total = (size(job.done), size(job.total)) if in_bytes else (f"{job.done:,}", f"{job.total:,}")
    counts = f" {done} of {total}" if job.total else f" {done}" if in_bytes and job.done else ""
    return f"{job.stage or 'Starting'}{counts}"


def _ended(job: Job, title: str) -> None:
    if job.state in ("failed", "lost"):
        error = job.error or JobFailure(f"{title} failed.")
        show_error(JobError(error.what, error.why, error.fix))
    elif job.state == "cancelled":
        st.warning("Cancelled. Nothing was kept.", icon=":material/stop_circle:")
