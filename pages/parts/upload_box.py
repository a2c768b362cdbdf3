"""The box that large files come through: a component of the browser that sends them in pieces to `upload_route`.

A page holds no bytes: it asks `library.arriving` what is there for its box, and takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.parts import session
from pages.parts.format import md
from pages.parts.upload_route import token_for
from pages.parts.widgets import show_error
from state_engine.config import APP
from state_engine.data.files.other_formats import MATRIX, ZARR_ROOT
from state_engine.errors import StateError, UnsafeFileError
from state_engine.files import scratch_folder
from state_engine.library.arriving import arrived, drop
from state_engine.library.datasets import DataEntry, adopt_upload
from state_engine.library.other_formats import SUFFIXES
from state_engine.sandbox.limits import MB

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


def one_file(
    key: str,
    label: str,
    types: tuple[str, ...],
    most_mb: int,
    keep: Callable[[Path, str], tuple[Path, str]],
    drop: str,
    caption: str = "",
) -> Path | None:
    """Ask for a file, or show the one that was uploaded with a button to let it go; return where it lies, None without one.

    Args:
        key: of the box, one of the whole app.
        label: in the box.
        types: endings without a dot.
        most_mb: that the file may have.
        keep: gets a copy on disk and the user's name of it; returns where it is kept, and words for it.
        drop: words of the button.
        caption: above the box.
    """
    taken = f"{key}_taken"
    if taken in st.session_state:
        path, words = st.session_state[taken]
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":green[:material/check_circle:] {md(words, 200)}")
            if st.button(drop, key=f"{key}_drop", type="tertiary"):
                del st.session_state[taken]
                st.rerun()
        return Path(path)
    if caption:
        st.caption(caption)
    endings = tuple(f".{ending}" for ending in types)
    found = handed_over(label, key, endings, partial(_kept_with_ending, keep), most=int(most_mb * MB))
    if found:
        st.session_state[taken] = found[-1]
        st.rerun()
    return None


def _kept_with_ending(keep: Callable[[Path, str], tuple[Path, str]], place: Path, name: str) -> tuple[Path, str]:
    """Call `keep` with the file under a name that ends as its user's does: readers go by that."""
    settings = session.settings()
    with scratch_folder(settings) as folder:
        named = folder / f"upload{Path(name).suffix.lower()}"
        try:
            named.hardlink_to(place)  # a page that runs again meanwhile finds the upload where it was
        except OSError:  # a file system without links
            place.rename(named)
        return keep(named, name)


def handed_over(
    words: str, name: str, endings: tuple[str, ...], take: Callable[[Path, str], T], *, folders: bool = False,
    most: int | None = None,
) -> list[T]:  # fmt: skip
    """Draw a box for files; return what those became that came through it, and show why others were refused.

    Args:
        words: in the box.
        name: of the box, one of the whole app.
        endings: of names of files, with their dots.
        take: gets the place of a file, which is there for as long as it runs, and the user's name of it.
        folders: whether folders can be data sets, and be searched for files.
        most: bytes of a file; None for what files may have at all.
    """
    settings, refused = session.settings(), f"{name}_refused"
    context = get_script_run_ctx()
    here = context.session_id if context else ""
    largest = min(settings.max_file_bytes, most or settings.max_file_bytes)
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
            "most": largest,
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
                if upload.size > largest:  # the browser says so before; a program may not ask it
                    raise UnsafeFileError(f"{upload.name} is too large.", f"{largest / MB:,.0f} MB are accepted here.")
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
