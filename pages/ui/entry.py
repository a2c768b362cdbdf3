"""Runs app.py for a page that Streamlit found by its file.

Until app.py has run once, a server takes the files of `pages/` for its pages (its older way of having several). A link to a page that
is opened first on a fresh server therefore needs a file of that name there, or the visitor is told that the page is not found. Those
files do nothing but run app.py, whose `st.navigation` then finds the page in `pages/views`.
"""

from __future__ import annotations

import runpy
from pathlib import Path

APP = Path(__file__).resolve().parents[2] / "app.py"


def run_app() -> None:
    """The whole app, as if it had been opened at its own address."""
    runpy.run_path(str(APP))
