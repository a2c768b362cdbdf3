"""Parts of the Runs page."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from pages.parts import session
from pages.parts.format import age, duration, md, plural, sentences, size, state_words
from pages.parts.jobs import start_text
from pages.parts.undo import remember
from pages.parts.widgets import errors_shown, go
from state_engine.errors import listed
from state_engine.files import size_on_disk
from state_engine.jobs import local, trash
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.run_folder import RunFolder, RunInfo, list_runs
from state_engine.library.shown import without_places
from state_engine.library.trash import items as trashed
from state_engine.library.trash import restore

TABS = {"submission": "Challenge file", "scoring": "Score"}  # the tab of Submit that shows a choice
APPLIED = {"finetuning": False, "annotation": True}  # whether Fine-tune shows a choice under "Apply a head"


@st.fragment(run_every=2.0)
def queue() -> None:
    """Show the jobs that wait or run, each with a button to cancel it; poll, and see that they get done."""
    with errors_shown():
        _queue()


def _queue() -> None:
    local.look_after(session.settings())
    active = asked_of_store(session.settings(), lambda store: store.list(states=("queued", "running")))
    before = st.session_state.get("queue_length", 0)
    st.session_state["queue_length"] = len(active)
    if before and not active:
        st.rerun()
    for job in active:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            place = (
                f"waiting, place {job.position}{start_text(job)}"
                if job.state == "queued"
                else f"{job.stage or 'starting'}, {job.fraction:.0%}"
            )
            st.markdown(f"**{md(job.title or job.kind)}**  \n:gray[{md(place)}]")
            if st.button("Cancel", key=f"cancel_{job.id}"):
                local.cancel(session.settings(), job.id)
                st.rerun()


def listed_runs() -> list[RunInfo]:
    """Return the runs that Runs lists, newest first: damaged ones too, derived ones not."""
    infos = list_runs(session.settings())
    return [i for i in infos if i.manifest is None or (kind := KINDS.get(i.manifest.kind)) is None or kind.listed]


def run_card(info: RunInfo) -> None:
    """Draw one run: what, when, state, and what can be done with it."""
    with st.container(border=True, key=f"run_{info.id}"):
        manifest = info.manifest
        if manifest is None:
            st.markdown(f"**{md(info.id)}**  \n:red[{sentences(without_places(info.problem, session.settings()))}]")
        else:
            parts = [md(kind_words(manifest.kind)), state_words(info.state), age(manifest.created), size(size_on_disk(info.path))]
            if manifest.elapsed:
                parts.insert(2, f"took {duration(manifest.elapsed)}")
            current = "&ensp;:green[:material/check: open]" if info.id == session.chosen("run") else ""
            st.markdown(f"**{md(manifest.title or manifest.kind)}**{current}  \n:gray[{', '.join(parts)}]")
            if manifest.error:
                st.caption(sentences(without_places(manifest.error, session.settings())))
        with st.container(horizontal=True):
            open_button(info, f"open_{info.id}")
            if st.button("Delete", key=f"delete_{info.id}", type="tertiary"):
                st.session_state["asked_to_delete"] = info.id
        if st.session_state.get("asked_to_delete") == info.id:
            _ask(info)
        if manifest is not None:
            with st.expander("Details"):
                st.code(manifest.command or "This kind of run has no command line.", language="bash", wrap_lines=True)
                st.json(
                    {"request": RunFolder(info.path).request, "versions": manifest.versions, "device": manifest.device},
                    expanded=False,
                )


def kind_words(name: str) -> str:
    """Return what a run of a kind is, for people; the kind as it is written where it is not known."""
    kind = KINDS.get(name)
    return kind.title if kind is not None else name


def open_button(info: RunInfo, key: str, tertiary: bool = False) -> None:
    """Draw the button that leads to the page of a run; none for a kind without one."""
    kind = KINDS.get(info.manifest.kind) if info.manifest is not None else None
    if kind is None or not kind.page:
        return
    answered = info.state == "done" and kind.answer
    label = "Look at it" if answered or tertiary else "Open"
    if st.button(label, key=key, type="tertiary" if tertiary else "secondary"):
        session.choose(kind.choice, info.id)
        if kind.choice in TABS:
            st.session_state["submit_tab"] = TABS[kind.choice]
        if kind.choice in APPLIED:
            st.session_state["finetune_view_wanted"] = APPLIED[kind.choice]
        go(kind.answer if answered else kind.page)


def dependents(infos: Sequence[RunInfo]) -> str:
    """Say which runs need something that is to be deleted."""
    names = [i.manifest.title or i.manifest.kind for i in infos if i.manifest is not None]
    if not names:
        return "No other run needs it."
    return f"{plural(len(names), 'run needs', 'runs need')} it: {md(listed(names), 300)}."


def deleted_lately() -> None:
    """List what was deleted and can be had back, each with a button that does it."""
    settings = session.settings()
    items = trashed(settings)
    if not items:
        return
    with st.expander(f"Deleted lately ({len(items)})"):
        st.caption(f"It goes for good {settings.trash_days:g} days after it was deleted.")
        for item in items:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{md(item.title)}** :gray[deleted {age(item.deleted)}]")
                if st.button("Undo", key=f"undo_{item.id}"):
                    with errors_shown():
                        restore(settings, item)
                        st.rerun()


def _ask(info: RunInfo) -> None:
    """Say what depends on a run, and ask whether it is to be deleted."""
    needing = trash.runs_that_need_run(session.settings(), info.id)
    st.warning(f"Delete this run? {dependents(needing)} What is derived from it goes with it; Undo will stand in its place.")
    with st.container(horizontal=True):
        if st.button("Yes, delete it", key=f"sure_{info.id}"):
            with errors_shown():
                _delete(info)
                del st.session_state["asked_to_delete"]
                st.rerun()
        if st.button("Keep it", key=f"keep_{info.id}"):
            del st.session_state["asked_to_delete"]
            st.rerun()


def _delete(info: RunInfo) -> None:
    """Move a run to the trash, with what is derived from it: those runs are not listed, so that nobody else could."""
    for job in asked_of_store(session.settings(), lambda store: store.list(states=("queued", "running"), parent=info.id)):
        local.cancel(session.settings(), job.id)
    trash.delete_run(session.settings(), info.id)
    for choice in session.THREAD:
        if session.chosen(choice) == info.id:
            session.choose(choice, "")
    session.choose("gone", info.id)
    remember("runs", info.id, info.id)
