"""Page scripts are opened one by one here, as if app.py were running."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st

from pages.parts import door
from state_engine.jobs import local


@pytest.fixture(autouse=True)
def inside_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script of a page be opened by itself; tests of the whole app open app.py."""
    monkeypatch.setattr(door, "is_open", lambda: True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of an installation of its own: no worker process, files of tmp_path/data may be opened."""
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    st.cache_resource.clear()
    st.cache_data.clear()
    for name in ("home", "data"):
        (tmp_path / name).mkdir()
    return tmp_path / "home"
