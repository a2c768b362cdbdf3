"""Parts of the Admin page: numbers of each owner, never titles or contents of what they have."""

from __future__ import annotations

import shutil
import time

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.format import age, duration, size
from pages.parts.login import login_configured
from state_engine.config import LOCAL, Settings
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.processes import is_alive
from state_engine.jobs.run_folder import list_runs
from state_engine.jobs.seats import holders, lanes
from state_engine.jobs.store import Job, JobStore
from state_engine.library.datasets import DEMO_ID, list_datasets
from state_engine.library.people import homes, is_admin, people, used_bytes


def may_see() -> bool:
    """Return whether this session's owner may see the page."""
    return not session.by_link() and is_admin(session.settings(), login_configured())


def disk_and_limits(settings: Settings) -> None:
    """Show the disk and the limits for each person."""
    disk = shutil.disk_usage(settings.home)
    columns = st.columns(4)
    columns[0].metric("Disk free", size(disk.free), help=f"Of {size(disk.total)}, where HOME lies.")
    columns[1].metric(
        "Disk for each", size(settings.quota_bytes) if settings.quota_bytes else "no limit", help="STATE_EXPLORER_QUOTA_GB"
    )
    columns[2].metric("Waiting, each", settings.most_queued or "no limit", help="STATE_EXPLORER_MAX_QUEUED")
    columns[3].metric("Running, each", settings.most_running or "no limit", help="STATE_EXPLORER_MAX_RUNNING")


def people_table(settings: Settings) -> None:
    """Show a row for each owner."""
    st.subheader("People", anchor=False)
    active = _active(settings)
    last = {person.owner: age(person.last) for person in people(settings)}
    rows = [_row(one, active, last.get(one.owner, "")) for one in homes(settings)]
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="admin_people")


def _row(settings: Settings, active: tuple[Job, ...], last: str) -> dict[str, object]:
    mine = [job.state for job in active if job.owner == settings.owner]
    used = used_bytes(settings)
    row: dict[str, object] = {"Person": _name(settings.owner), "Here last": last, "Disk": size(used)}
    if settings.quota_bytes:
        row["Of the limit"] = f"{used / settings.quota_bytes:.0%}"
    data = sum(entry.id != DEMO_ID for entry in list_datasets(settings))
    row |= {"Data sets": data, "Runs": len(list_runs(settings))}
    return row | {"Waiting": mine.count("queued"), "Running": mine.count("running")}


def queue_table(settings: Settings) -> None:
    """Show what waits and runs, in the order in which it is done, without titles."""
    st.subheader("Queue", anchor=False)
    active, store = _active(settings), JobStore(settings.database)
    if not active:
        st.caption("Nothing waits or runs.")
        return
    rows = []
    for job in sorted(active, key=lambda job: (job.position, job.created)):
        kind = KINDS.get(job.kind)
        seconds = store.seconds_until(job, lanes=lanes()) if job.state == "queued" else None
        rows.append(
            {
                "Place": job.position or "runs",
                "Person": _name(job.owner),
                "What": kind.title if kind is not None else job.kind,
                "Since": duration(time.time() - (job.started or job.created)),
                "Starts in about": "" if seconds is None else duration(seconds),
            }
        )
    st.dataframe(pd.DataFrame(rows).astype(str), hide_index=True, key="admin_queue")


def workers(settings: Settings) -> None:
    """Show how many workers live."""
    st.subheader("Workers", anchor=False)
    alive = sum(is_alive(worker) is not False for worker in holders(settings.root))
    jobs = [job.worker for job in _active(settings) if job.state == "running"]
    st.markdown(
        f"{f'Workers that live: {alive}' if alive else 'No worker lives; one starts with the next job'}. Jobs that run: {len(jobs)}."
    )


def _active(settings: Settings) -> tuple[Job, ...]:
    return JobStore(settings.database).list(states=("queued", "running"), limit=10_000)


def _name(owner: str) -> str:
    return owner if owner != LOCAL else "local owner"
