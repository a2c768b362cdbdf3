"""Parts of the Runs page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.format import age, duration, md, plural, sentences, size, state_words
from pages.parts.jobs import stage_text, start_text, stop_button
from pages.parts.result import stamp
from pages.parts.runs.details import show_details
from pages.parts.undo import remember
from pages.parts.widgets import errors_shown, go
from state_engine.errors import listed
from state_engine.files import size_on_disk
from state_engine.jobs import ages, local, trash
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.run_folder import RunInfo, list_runs
from state_engine.jobs.store import Job
from state_engine.library.shown import without_places
from state_engine.library.trash import items as trashed
from state_engine.library.trash import restore

TABS = {"submission": "Challenge file", "scoring": "Score"}  # the tab of Submit that shows a choice
APPLIED = {"finetuning": False, "annotation": True}  # whether Fine-tune shows a choice under "Apply a head"


COLUMNS = (4, 2, 3, 2.6)


@dataclass(frozen=True)
class Filter:
    """Which runs are shown: of these kinds and states (none: all), with this text in title, kind or id."""

    kinds: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    text: str = ""

    def admits(self, kind: str, state: str, words: str) -> bool:
        """Return whether a run is shown."""
        return (
            (not self.kinds or kind in self.kinds)
            and (not self.states or state in self.states)
            and self.text.lower() in words.lower()
        )


def chosen_filter(infos: Sequence[RunInfo]) -> Filter:
    """Draw what narrows the list, where it is long enough, and return it."""
    if len(infos) < 2:
        return Filter()
    left, middle, right = st.columns(3)
    known = list(dict.fromkeys(i.manifest.kind for i in infos if i.manifest is not None))
    kinds = left.multiselect("Kind", known, key="run_kinds", format_func=kind_words, placeholder="All", select_all=False)
    states = list(dict.fromkeys([*(i.state for i in infos), *st.session_state.get("run_states", [])]))
    wanted = middle.multiselect("State", states, key="run_states", format_func=state_words, placeholder="All", select_all=False)
    text = right.text_input("Text", key="run_text", placeholder="Perturbation, cell type or kind")
    return Filter(tuple(kinds), tuple(wanted), text.strip())


@st.fragment(run_every=2.0)
def queue(narrowed: Filter) -> None:
    """Show the jobs that wait or run, a row each, with a bar and a button to cancel it; poll, and see that they get done."""
    with errors_shown():
        _queue(narrowed)


def _queue(narrowed: Filter) -> None:
    local.look_after(session.settings())
    active = active_jobs()
    before = st.session_state.get("queue_ids", ())
    st.session_state["queue_ids"] = tuple(job.id for job in active)
    if set(before) - {job.id for job in active}:
        st.rerun()  # a run that is over has a row of its own
    for job in active:
        if narrowed.admits(job.kind, job.state, f"{job.title} {job.kind} {kind_words(job.kind)} {job.run_id}"):
            _active_row(job)


def active_jobs() -> tuple[Job, ...]:
    """Return the jobs of this owner that wait or run."""
    owner = session.settings().owner
    return asked_of_store(session.settings(), lambda store: store.list(owner=owner, states=("queued", "running")))


def _active_row(job: Job) -> None:
    with st.container(border=True, key=f"active_{job.id}"):
        what, kind, state, buttons = st.columns(COLUMNS, vertical_alignment="center")
        what.markdown(f"**{md(job.title or job.kind)}**")
        kind.markdown(f":gray[{md(kind_words(job.kind))}]")
        waits = f"waiting, place {job.position}{start_text(job)}"
        state.progress(job.fraction, text=md(waits if job.state == "queued" else stage_text(job)))
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            stop_button(job, "Cancel", f"cancel_{job.id}")


def listed_runs() -> list[RunInfo]:
    """Return the runs that Runs lists, newest first: damaged ones too, derived ones not."""
    infos = list_runs(session.settings())
    return [i for i in infos if i.manifest is None or (kind := KINDS.get(i.manifest.kind)) is None or kind.listed]


def run_row(info: RunInfo, goes: date | None = None) -> None:
    """Draw one run as a row: what, kind, state, time, size, and what can be done with it; its details below while they are asked for.

    Args:
        info: the run.
        goes: the day on which it will be deleted for its age, or None.
    """
    with st.container(border=True, key=f"run_{info.id}"):
        what, kind, state, buttons = st.columns(COLUMNS, vertical_alignment="center")
        manifest = info.manifest
        if manifest is None:
            what.markdown(f"**{md(info.id)}**  \n:red[{sentences(without_places(info.problem, session.settings()))}]")
        else:
            current = "&ensp;:green[:material/check: open]" if info.id == session.chosen("run") else ""
            what.markdown(f"**{md(manifest.title or manifest.kind)}**{current}")
            kind.markdown(f":gray[{md(kind_words(manifest.kind))}]")
            took = f" in {duration(manifest.elapsed)}" if manifest.elapsed else ""
            kept = size(_bytes(str(info.path), stamp(info.path / "manifest.json")))
            state.markdown(f":gray[{state_words(info.state)}{took}, {age(manifest.created)} · {kept}]")
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            open_button(info, f"open_{info.id}", tertiary=True)
            open_details = st.session_state.get("run_details") == info.id
            if manifest is not None and st.button(
                "Close" if open_details else "Details", key=f"details_{info.id}", type="tertiary"
            ):
                st.session_state["run_details"] = "" if open_details else info.id
                st.rerun()
            if st.button("Delete", key=f"delete_{info.id}", type="tertiary"):
                st.session_state["asked_to_delete"] = info.id
        if manifest is not None and manifest.error:
            st.caption(sentences(without_places(manifest.error, session.settings())))
        if goes is not None:
            _warn_of_age(info, goes)
        if st.session_state.get("asked_to_delete") == info.id:
            _ask(info)
        if st.session_state.get("run_details") == info.id and manifest is not None:
            show_details(info, manifest)


@st.cache_data(max_entries=2048, show_spinner=False)
def _bytes(path: str, written: int) -> int:
    """Return the size of a run's folder; what was derived into it since its end counts when the server starts again."""
    return size_on_disk(Path(path))


def _warn_of_age(info: RunInfo, goes: date) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        days = session.settings().run_days or 0
        st.caption(f":orange[:material/schedule: Will be deleted on {goes:%Y-%m-%d}: runs stay {days:g} days here.]")
        if st.button("Keep it for good", key=f"stay_{info.id}", type="tertiary"):
            with errors_shown():
                ages.keep(session.settings(), info.id)
                st.rerun()


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
