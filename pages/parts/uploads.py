"""Uploads: each is copied to disk in blocks, opened in a child process, and let go of by the server's memory."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from pages.parts import session
from pages.parts.widgets import show_error
from state_engine.errors import StateError
from state_engine.library.datasets import DataEntry, receive_upload


def upload_key(name: str) -> str:
    """Return the key of an uploader; after each upload another one, so that the widget is empty again."""
    return f"{name}_{st.session_state.get(f'{name}_n', 0)}"


def received(upload: UploadedFile | None, name: str) -> DataEntry | None:
    """Return the data set that an upload became; None without one, or with a sentence why it was refused.

    The page must run again after an upload that was taken.

    Args:
        upload: what the uploader of `upload_key(name)` holds.
        name: which uploader.
    """
    refused = f"{name}_refused"
    if upload is None:
        if refused in st.session_state:
            show_error(st.session_state[refused])
        return None
    try:
        with st.spinner("Copying to disk and checking"):
            entry = receive_upload(session.settings(), upload.name, upload, upload.size, opened=session.opened)
    except StateError as error:
        st.session_state[refused] = error
        let_go(upload, name)
        st.rerun()
    st.session_state.pop(refused, None)
    let_go(upload, name)
    return entry


def let_go(upload: UploadedFile, name: str) -> None:
    """Empty an uploader: the server forgets the bytes, which it would keep until the session ends."""
    st.session_state[f"{name}_n"] = st.session_state.get(f"{name}_n", 0) + 1
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(context.session_id, upload.file_id)
    upload.close()
