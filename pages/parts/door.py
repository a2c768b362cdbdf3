"""The door of the app: every page script passes through it first.

Until app.py has run once, a fresh server takes the files of `pages/` for its pages (Streamlit's older way of having several) and runs the
script of a link that is opened first without app.py: no menu, no style, no session. So each page script begins with `through_app()`.
"""

from __future__ import annotations

import runpy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

APP = Path(__file__).resolve().parents[2] / "app.py"
_run = threading.local()  # a script runs in one thread from its first line to its last


@contextmanager
def opened() -> Iterator[None]:
    """Mark that app.py is running; page scripts run inside."""
    _run.inside = True
    try:
        yield
    finally:
        _run.inside = False


def is_open() -> bool:
    """Return whether app.py is running in this thread."""
    return bool(getattr(_run, "inside", False))


def through_app() -> None:
    """Run the whole app in place of a page script that was opened without it; do nothing inside app.py."""
    if not is_open():
        runpy.run_path(str(APP))
        st.stop()
