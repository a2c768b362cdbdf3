"""Pieces that every page shares: its head, its empty state, its errors, and findings."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.navigation import script
from state_engine.errors import StateError
from state_engine.library.datasets import DEMO_ID

log = logging.getLogger("state_explorer")
STYLE = Path(__file__).resolve().parents[2] / "assets" / "style" / "explorer.css"


def page_head(question: str, line: str) -> None:
    """The page's title is the biologist's question; one line says what answers it."""
    st.html(STYLE)
    st.title(question, anchor=False)
    st.markdown(f":gray[{line}]")


def show_error(error: StateError) -> None:
    """What happened, why, what to do; no traceback."""
    lines = [f"**{error.what}**", error.why, error.fix]
    st.error("  \n".join(line for line in lines if line), icon=":material/error:")


@contextmanager
def errors_shown() -> Iterator[None]:
    """Shows errors meant for the user; anything else gets an id that is in the log as well."""
    try:
        yield
    except StateError as error:
        show_error(error)
    except (OSError, ValueError, KeyError, TypeError) as error:
        identity = secrets.token_hex(4)
        log.exception("error %s", identity)
        st.error(
            f"**Something unexpected happened ({type(error).__name__}).**  \nIts trace is in the server's log under {identity}.",
            icon=":material/error:",
        )


def empty_state(title: str, why: str, page: str, button: str, demo_page: str = "predict") -> None:
    """Teaches what belongs here, why it is empty, and has the one button that fills it; the demo is one click away."""
    with st.container(border=True, key="empty_state"):
        st.markdown(f"#### {title}")
        st.markdown(why)
        with st.container(horizontal=True):
            if st.button(button, type="primary", key="empty_go"):
                st.switch_page(script(page), query_params=session.thread_params())
            if st.button("Use the demo", key="empty_demo", icon=":material/science:"):
                start_demo(demo_page)


def start_demo(page: str = "predict") -> None:
    """Chooses the simulated data set and its model, and leads to Predict or another page."""
    session.choose("data", DEMO_ID)
    session.choose("model", session.demo_model_id())
    session.choose("run", "")
    st.switch_page(script(page), query_params=session.thread_params())


def go(page: str) -> None:
    """To another page, with the thread in its address."""
    st.switch_page(script(page), query_params=session.thread_params())


_MARKS = {"ok": (":material/check_circle:", "green"), "warning": (":material/warning:", "orange")}


def finding(severity: str, title: str, detail: str, fix: str) -> None:
    """One line of a report: a mark, the fact with its numbers, and the way out."""
    icon, colour = _MARKS.get(severity, (":material/block:", "red"))
    words = {"ok": "OK", "warning": "Note", "blocking": "Stops"}.get(severity, severity)
    rest = " ".join(part for part in (detail, f"*{fix}*" if fix else "") if part)
    st.markdown(f":{colour}[{icon} {words}]&ensp;**{title}**  \n{rest}")
