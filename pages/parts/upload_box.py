"""The box that large files come through: a component of the browser that sends them in pieces to `upload_route`.

A page holds no bytes: it asks `library.arriving` what is there for its box, and takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.parts import session
from pages.parts.upload_route import token_for
from pages.parts.widgets import show_error
from state_engine.config import APP
from state_engine.data.files.other_formats import MATRIX, ZARR_ROOT
from state_engine.errors import StateError
from state_engine.library.arriving import arrived, drop
from state_engine.library.datasets import DataEntry, adopt_upload
from state_engine.library.other_formats import SUFFIXES

T = TypeVar("T")
_PLACE = APP / "assets" / "upload"


def received(words: str, name: str) -> DataEntry | None:
    """Draw a box for data sets; return the last one that came through it and could be opened, None without one.

    The page must run again after one that was taken.

    Args:
        words: in the box.
        name: of the box, one of the whole app.
    """
    settings = session.settings()
    found = handed_over(
        words, name, SUFFIXES, lambda path, file: adopt_upload(settings, file, path, session.opened), folders=True
    )
    return found[-1] if found else None


def handed_over(
    words: str, name: str, endings: tuple[str, ...], take: Callable[[Path, str], T], *, folders: bool = False
) -> list[T]:
    """Draw a box for files; return what those became that came through it, and show why others were refused.

    Args:
        words: in the box.
        name: of the box, one of the whole app.
        endings: of names of files, with their dots.
        take: gets the place of a file, which is there for as long as it runs, and the user's name of it.
        folders: whether folders can be data sets, and be searched for files.
    """
    settings, refused = session.settings(), f"{name}_refused"
    context = get_script_run_ctx()
    here = context.session_id if context else ""
    box = st.components.v2.component(
        "upload_box",
        html=(_PLACE / "box.html").read_text(),
        css=(_PLACE / "box.css").read_text(),
        js=(_PLACE / "box.js").read_text(),
    )
    box(
        key=f"{name}_box",
        data={
            "token": token_for(settings.owner, here, name),
            "address": f"{_base()}/api/upload/",
            "box": name,
            "words": words,
            "endings": list(endings),
            "folders": folders,
            "marks": [*ZARR_ROOT, *MATRIX],
            "most": settings.max_file_bytes,
        },
        on_arrived_change=lambda: None,
        on_asked_change=lambda: None,
    )
    came = arrived(settings, name, here)
    if came:
        st.session_state.pop(refused, None)
    for error in st.session_state.get(refused, ()):
        show_error(error)
    found, wrong = [], []
    for upload, place in came:
        try:
            with st.spinner("Reading the file"):
                found.append(take(place, upload.name))
        except StateError as error:
            wrong.append(type(error)(error.what, error.why, error.fix))  # without its trace
        drop(settings, upload.id)  # not when the page runs again meanwhile, which takes it then
    if wrong:
        st.session_state[refused] = wrong
        if not found:
            st.rerun()
    return found


def _base() -> str:
    path = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{path}" if path else ""
