"""What comes into Runs from outside: a run of another installation, and several requests in one file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import streamlit as st

from pages.parts import session
from pages.parts.format import md, plural, sentences
from pages.parts.jobs import start_job
from pages.parts.runs.list import kind_words
from pages.parts.upload_box import handed_over
from pages.parts.widgets import errors_shown
from state_engine.jobs.checks import check
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.many import Asked, checked, placed, requests_of
from state_engine.jobs.packed import import_run
from state_engine.library.foreign import TEXT, call
from state_engine.library.shown import without_places


def take_in() -> None:
    """Draw both, each behind its button."""
    with st.container(horizontal=True):
        with st.popover("Bring in a run", icon=":material/folder_zip:"), errors_shown():
            _bring_in()
        with st.popover("Ask for several at once", icon=":material/data_object:"), errors_shown():
            _several()


def _bring_in() -> None:
    settings = session.settings()
    came = handed_over(
        "Zip of a run of another installation", "run_zip", (".zip",), lambda path, name: import_run(settings, path, name)
    )
    if came:
        session.choose(KINDS[came[-1].manifest.kind].choice, came[-1].id)
        st.rerun()


def _several() -> None:
    st.caption("A JSON file with one or several requests, as a run offers its own under Details. Each is checked by itself.")
    entries = asked_in_file("requests")
    well = [asked for asked in entries if asked.request is not None]
    label = f"Ask for {plural(len(well), 'run')}" if well else "None can be asked for"
    if entries and st.button(label, key="requests_submit", type="primary", disabled=not well):
        for asked in well:
            start_job(asked.request, asked.title)
        st.session_state["requests_read"] = ("", ())
        st.rerun()


def asked_in_file(key: str, kinds: tuple[str, ...] = ()) -> tuple[Asked, ...]:
    """Draw where a file of requests is dropped, and a line for each entry: it is well, or why it is not; return the entries.

    Args:
        key: of the widgets. kinds: that are meant here; () for all.
    """
    file = st.file_uploader("File", type=["json"], key=f"{key}_file", max_upload_size=16)
    if file is None:
        return ()
    known: tuple[str, tuple[Asked, ...]] = st.session_state.get(f"{key}_read", ("", ()))
    if known[0] != file.file_id:
        settings = session.settings()
        with st.spinner("Checking each request"):
            found: tuple[Asked, ...] = call(requests_of, file.getvalue(), name=file.name, limits=TEXT)
            meant = (_of_kinds(asked, kinds) for asked in placed(settings, found))
            known = file.file_id, tuple(checked(asked, partial(check, settings)) for asked in meant)
        st.session_state[f"{key}_read"] = known
    for number, asked in enumerate(known[1], 1):
        mark = ":green[:material/check_circle:]" if asked.request is not None else ":red[:material/block:]"
        words = sentences(without_places(asked.problem, session.settings())) or md(kind_words(asked.kind))
        st.markdown(f"{mark} {number}. **{md(asked.title or asked.kind or 'Entry')}**  \n:gray[{words}]")
    return known[1]


def _of_kinds(asked: Asked, kinds: tuple[str, ...]) -> Asked:
    if asked.request is None or not kinds or asked.kind in kinds:
        return asked
    return replace(asked, request=None, problem=f"It is a {kind_words(asked.kind)}: Runs takes it.")
