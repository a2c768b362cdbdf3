"""Pieces that every page shares: its head, its empty state, its errors, and findings."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.format import age, md, sentences
from pages.parts.navigation import script
from state_engine.errors import StateError
from state_engine.files import disk_full
from state_engine.library.datasets import DEMO_ID
from state_engine.library.shown import for_people
from state_engine.library.trash import item_of

log = logging.getLogger("state_explorer")
DEMO_WANTED = "demo_wanted"  # whether the demo was begun and Predict is to show something to predict
STYLE = Path(__file__).resolve().parents[2] / "assets" / "style" / "explorer.css"


def page_head(question: str, line: str) -> None:
    """The page's title is the biologist's question; one line says what answers it."""
    st.html(STYLE)
    st.title(question, anchor=False)
    st.markdown(f":gray[{line}]")


def show_error(error: StateError) -> None:
    """Show what happened, why, and what to do; no traceback, and no folder of the server."""
    error = for_people(error, session.settings())
    what, *rest = map(sentences, (error.what, error.why, error.fix))
    st.error("  \n".join([f"**{what}**", *filter(None, rest)]), icon=":material/error:")


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show errors meant for the user; any other gets an id that is in the log as well.

    Files that anybody may have written raise whatever a parser raises, so no list of exceptions would be complete. Streamlit's own signals
    to stop or to run again are no `Exception` and pass.
    """
    try:
        yield
    except StateError as error:
        show_error(error)
    except Exception as error:  # noqa: BLE001 - see above
        full = disk_full(error, session.settings().home, StateError)
        if full is not None:
            show_error(full)
            return
        kind, identity = type(error).__name__, logged(error)
        st.error(
            f"**Something unexpected happened ({kind}).**  \nIts trace is in the server's log under {identity}.",
            icon=":material/error:",
        )


def logged(error: Exception) -> str:
    """Write the trace of an error that nobody expected to the log; return the id that it has there."""
    identity = secrets.token_hex(4)
    log.error("error %s", identity, exc_info=error)
    return identity


def empty_state(title: str, why: str, page: str, button: str, demo_page: str = "predict") -> None:
    """Teaches what belongs here, why it is empty, and has the one button that fills it; the demo is one click away.

    Where something was deleted that was open, that is why: it says so, and brings it back.
    """
    gone = session.chosen("gone")
    item = item_of(session.settings(), gone) if gone else None
    with st.container(border=True, key="empty_state"):
        if item is not None:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f":material/delete: **{md(item.title)}** was deleted, {age(item.deleted)}.")
                if st.button("Undo", key="empty_undo", icon=":material/undo:"):
                    with errors_shown():
                        session.have_back(item, gone)
                        st.rerun()
        st.markdown(f"## {title}")
        st.markdown(why)
        with st.container(horizontal=True):
            if st.button(button, type="primary", key="empty_go"):
                st.switch_page(script(page), query_params=session.thread_params(page))
            if st.button("Use the demo", key="empty_demo", icon=":material/science:"):
                start_demo(demo_page)


def start_demo(page: str = "predict") -> None:
    """Chooses the simulated data set and its model, and leads to Predict, whose form is filled then, or another page."""
    session.choose("data", DEMO_ID)
    session.choose("model", session.demo_model_id())
    session.choose("run", "")
    st.session_state[DEMO_WANTED] = page == "predict"
    st.switch_page(script(page), query_params=session.thread_params(page))


def go(page: str) -> None:
    """To another page, with the thread in its address."""
    st.switch_page(script(page), query_params=session.thread_params(page))


_MARKS = {"ok": (":material/check_circle:", "green"), "warning": (":material/warning:", "orange")}


def finding(severity: str, title: str, detail: str, fix: str) -> None:
    """Show one line of a report: a mark, the fact with its numbers, and the way out."""
    icon, colour = _MARKS.get(severity, (":material/block:", "red"))
    words = {"ok": "OK", "warning": "Note", "blocking": "Stops"}.get(severity) or md(severity)
    rest = " ".join(filter(None, (sentences(detail), f"*{sentences(fix)}*" if fix else "")))
    st.markdown(f":{colour}[{icon} {words}]&ensp;**{sentences(title)}**  \n{rest}")
