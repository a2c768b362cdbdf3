"""Parts of the Runs page."""

from __future__ import annotations

import streamlit as st

from pages.parts import session
from pages.parts.format import age, duration, size, state_words
from pages.parts.widgets import errors_shown, go
from state_engine.files import size_on_disk
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder, RunInfo
from state_engine.jobs.store import JobStore


@st.fragment(run_every=2.0)
def queue() -> None:
    """Jobs that wait or run, with cancel; polls."""
    store = JobStore(session.settings().database)
    store.mark_lost()
    active = store.list(states=("queued", "running"))
    before = st.session_state.get("queue_length", 0)
    st.session_state["queue_length"] = len(active)
    if before and not active:
        st.rerun()
    for job in active:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            place = (
                f"waiting, place {job.position}" if job.state == "queued" else f"{job.stage or 'starting'}, {job.fraction:.0%}"
            )
            st.markdown(f"**{job.title or job.kind}**  \n:gray[{place}]")
            if st.button("Cancel", key=f"cancel_{job.id}"):
                local.cancel(session.settings(), job.id)
                st.rerun()


def run_card(info: RunInfo) -> None:
    """One run: what, when, state, and what can be done with it."""
    with st.container(border=True, key=f"run_{info.id}"):
        manifest = info.manifest
        if manifest is None:
            st.markdown(f"**{info.id}**  \n:red[{info.problem}]")
        else:
            parts = [manifest.kind, state_words(info.state), age(manifest.created), size(size_on_disk(info.path))]
            if manifest.elapsed:
                parts.insert(2, f"took {duration(manifest.elapsed)}")
            current = "&ensp;:green[:material/check: open]" if info.id == session.chosen("run") else ""
            st.markdown(f"**{manifest.title or manifest.kind}**{current}  \n:gray[{', '.join(parts)}]")
            if manifest.error:
                st.caption(manifest.error)
        with st.container(horizontal=True):
            if manifest is not None and manifest.kind == "predict":
                label = "Look at it" if info.state == "done" else "Open"
                if st.button(label, key=f"open_{info.id}"):
                    session.choose("run", info.id)
                    go("explore" if info.state == "done" else "predict")
            if manifest is not None and manifest.kind == "embed" and st.button("Open", key=f"open_{info.id}"):
                session.choose("embedding", info.id)
                go("embed")
            if manifest is not None and manifest.kind == "train" and st.button("Open", key=f"open_{info.id}"):
                session.choose("training", info.id)
                go("train")
            if manifest is not None and manifest.kind in ("evaluate", "test") and st.button("Open", key=f"open_{info.id}"):
                session.choose("evaluation", info.id)
                go("evaluate")
            if manifest is not None and manifest.kind == "submit" and st.button("Open", key=f"open_{info.id}"):
                st.session_state["submission"], st.session_state["submit_tab"] = info.id, "Challenge file"
                go("submit")
            if st.button("Delete", key=f"delete_{info.id}", type="tertiary"):
                with errors_shown():
                    RunFolder(info.path).delete()
                    if session.chosen("run") == info.id:
                        session.choose("run", "")
                    st.rerun()
        if manifest is not None:
            with st.expander("Details"):
                st.code(manifest.command or "This kind of run has no command line.", language="bash", wrap_lines=True)
                st.json(
                    {"request": RunFolder(info.path).request, "versions": manifest.versions, "device": manifest.device},
                    expanded=False,
                )
