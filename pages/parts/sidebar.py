"""The thread in the sidebar: data set -> model -> run, each a link to where it is changed."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages.parts import session
from pages.parts.format import age, md, sentences, state_words
from pages.parts.navigation import script
from pages.parts.widgets import logged
from state_engine.errors import StateError
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.shown import without_places
from state_engine.library.trash import item_of


def show_thread() -> None:
    """Draw the three steps, what is chosen in each, and links that keep the choice in the address.

    It runs before every page, so whatever a damaged data set, model or run raises stops here, with a way out.
    """
    with st.sidebar, st.container(key="thread"):
        _step("Data set", "data", _data_words, "data", ":material/table:")
        _step("Model", "model", _model_words, "models", ":material/deployed_code:")
        _step("Run", "run", _run_words, "runs", ":material/history:")
        if session.chosen("gone"):
            _gone(session.chosen("gone"))


def show_shared() -> None:
    """Draw which run a link shows, in place of the thread; stop where the link leads nowhere."""
    try:
        run = session.enter_share()
    except StateError as error:
        st.error(f"**{sentences(error.what)}**  \n{sentences(error.why)} {sentences(error.fix)}", icon=":material/link_off:")
        _leave()
        st.stop()
    with st.sidebar, st.container(key="shared"):
        st.markdown(f":material/visibility: **{md(run.manifest.title)}**")
        st.caption("Somebody shared this run with you, for looking: nothing can be changed or computed.")
        _leave()


def _leave() -> None:
    """Draw the button that leads from a shared run to one's own."""
    if st.button("To my own runs", key="leave_share", type="tertiary", icon=":material/arrow_back:"):
        for name in session.THREAD:
            session.choose(name, "")
        st.rerun()


def _gone(identity: str) -> None:
    """Say that a run or data set is not there any more, and let it be had back while that can be.

    Its id is in the address, so that another page and a reload say so too, until something is chosen or it is dismissed.
    """
    settings = session.settings()
    item = item_of(settings, identity)
    try:
        if item is not None and identity not in item.runs:
            words = f"**{md(item.title)}** was forgotten, {age(item.deleted)}."
        else:
            RunFolder.open(settings, identity)
            session.choose("gone", "")  # it was had back elsewhere
            return
    except StateError as error:
        words = sentences(without_places(str(error), settings))
    st.warning(words, icon=":material/delete:")
    with st.container(horizontal=True):
        if item is not None and st.button("Undo", key="undo_gone"):
            session.have_back(item, identity)
            st.rerun()
        if st.button("Dismiss", key="dismiss_gone", type="tertiary"):
            session.choose("gone", "")
            st.rerun()


def _step(title: str, choice: str, words: Callable[[], tuple[str, str]], page: str, icon: str) -> None:
    problem = ""
    try:
        name, detail = words()
    except StateError:
        name, detail = session.name_of(choice), ""
        problem = "cannot be read"
    except Exception as error:  # noqa: BLE001 - a parser raises anything, and every page begins here
        name, detail = session.name_of(choice), ""
        problem = f"cannot be read; its trace is in the server's log under {logged(error)}"
    st.page_link(script(page), label=f"**{title}** · {md(name)}", icon=icon, query_params=session.thread_params(page))
    if detail or problem:
        st.caption(md(detail or problem, most=200))
    if problem and st.button("Let go of it", key=f"let_go_{choice}", help="It is no longer chosen; nothing is deleted."):
        session.choose(choice, "")
        st.rerun()


def _data_words() -> tuple[str, str]:
    entry = session.data_entry()
    if entry is None:
        return "none yet", ""
    data = session.understand(entry)
    return entry.name, f"{data.n_cells:,} cells x {data.n_genes:,} genes, {data.scale.scale or 'scale unknown'}"


def _model_words() -> tuple[str, str]:
    entry = session.model_entry()
    if entry is None or entry.card is None:
        return "none yet", ""
    card = entry.card
    return card.name, f"reads {card.input_key}, attention {card.attention}"


def _run_words() -> tuple[str, str]:
    run = session.run_folder()
    if run is None:
        return "none yet", ""
    manifest = run.manifest
    return manifest.title or manifest.kind, f"{state_words(run.state)}, {age(manifest.created)}"
