"""Files of a run to take home: sent through the browser where they are small enough, and made by a job first where they are not there yet."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import streamlit as st

from pages.parts.format import size
from pages.parts.jobs import derived_run, job_panel, start_job
from state_engine.jobs.run_folder import RunFolder

MOST_BYTES = 500_000_000
"""Larger files are not sent through the browser: Streamlit would hold them in memory."""


def file_button(path: Path, label: str, name: str, key: str, mime: str, primary: bool = False) -> None:
    """A download that is read from disk when it is asked for; of a file too large for the browser, its path."""
    n_bytes = path.stat().st_size
    if n_bytes > MOST_BYTES:
        st.caption(f"{size(n_bytes)} is too large to send through the browser. Copy it from the server:")
        st.code(str(path), language=None, wrap_lines=True)
        return
    st.download_button(
        f"{label} ({size(n_bytes)})",
        data=partial(path.open, "rb"),
        file_name=name,
        mime=mime,
        key=key,
        icon=":material/download:",
        on_click="ignore",
        type="primary" if primary else "secondary",
    )


def made_by_a_job(run: RunFolder, request: object, path: Path, words: str, help: str | None = None) -> bool:
    """Return whether a file of a run is there; show the button that makes it, and the job, where it is not yet."""
    if path.exists():
        return True
    key = words.removeprefix("the ").replace(" ", "_")
    asked = derived_run(run, request)
    if asked is not None:
        if not job_panel(asked.id, title=f"Making {words}", key=f"{key}_job") and asked.active:
            return False
        if path.exists():
            st.rerun()
    if st.button(f"Make {words}", key=f"make_{key}", icon=":material/table_view:", help=help):
        start_job(request, f"{words.removeprefix('the ').capitalize()} of {run.manifest.title}", parent=run.id)
        st.rerun()
    return False
