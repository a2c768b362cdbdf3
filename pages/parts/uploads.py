"""Small uploads (lists, tables, vectors): each is copied to disk, read in a child process, and let go of by the server's memory.

Cells and models come through `upload_box`.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from pages.parts import session
from pages.parts.widgets import show_error
from state_engine.errors import DataError, StateError
from state_engine.files import full_disk_told, scratch_folder
from state_engine.library.datasets import BLOCK

T = TypeVar("T")


def _sharing(upload: UploadedFile, memo: dict[int, object]) -> UploadedFile:
    """Return a copy of an upload that has its bytes in common with it."""
    copy = UploadedFile.__new__(UploadedFile)
    io.BytesIO.__init__(copy, upload.getvalue())
    vars(copy).update(vars(upload))
    return copy


# Streamlit copies the value of each widget for the page: of an upload it would copy every byte, and the server need memory for two
UploadedFile.__deepcopy__ = _sharing  # type: ignore[attr-defined]


def upload_key(name: str) -> str:
    """Return the key of an uploader; after each upload another one, so that the widget is empty again."""
    return f"{name}_{st.session_state.get(f'{name}_n', 0)}"


def handed_over(upload: UploadedFile | None, name: str, take: Callable[[Path, str], T]) -> T | None:
    """Return what an upload became; None without one, or with a sentence why it was refused.

    The page must run again after an upload that was taken.

    Args:
        upload: what the uploader of `upload_key(name)` holds.
        name: which uploader.
        take: gets a copy on disk, which is there for as long as it runs, and the user's name of it.
    """

    def copied(up: UploadedFile) -> T:
        settings = session.settings()
        with scratch_folder(settings) as folder:
            copy = folder / f"upload{Path(up.name).suffix.lower()}"
            with full_disk_told(folder, DataError), copy.open("wb") as out:
                shutil.copyfileobj(up, out, BLOCK)
            return take(copy, Path(up.name).name)

    return _taken(upload, name, copied)


def keep_by_content(path: Path, folder: str) -> Path:
    """Move a file into a folder of the home, named by its content, so that the same file is there once; return its place."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    place = session.settings().home / folder / f"{digest[:16]}{path.suffix}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    return place


def _taken(upload: UploadedFile | None, name: str, take: Callable[[UploadedFile], T]) -> T | None:
    refused = f"{name}_refused"
    if upload is None:
        if refused in st.session_state:
            show_error(st.session_state[refused])
        return None
    try:
        with st.spinner("Copying to disk and checking"):
            found = take(upload)
    except StateError as error:
        # without its trace, which holds the upload
        st.session_state[refused] = type(error)(error.what, error.why, error.fix)
        let_go(upload, name)
        st.rerun()
    st.session_state.pop(refused, None)
    let_go(upload, name)
    return found


def let_go(upload: UploadedFile, name: str) -> None:
    """Empty an uploader: the server forgets the bytes, which it would keep until the session ends."""
    held = st.session_state.get(upload_key(name))  # the session has one of its own, which it may keep for a while
    st.session_state[f"{name}_n"] = st.session_state.get(f"{name}_n", 0) + 1
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(context.session_id, upload.file_id)
    for one in (upload, held):
        if isinstance(one, UploadedFile):
            one.close()
