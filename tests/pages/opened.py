"""Pages opened without a browser: one page by itself, or the whole app on one page."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder
from state_engine.library import arriving

ROOT = Path(__file__).resolve().parents[2]
VIEWS = ROOT / "pages"


def page_at(monkeypatch: pytest.MonkeyPatch, view: str, run: RunFolder | None, home: Path, **thread: str) -> AppTest:
    """Return a page of the installation at `home`, before it is drawn; `thread` are ids that are chosen beside the run."""
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(home))
    st.cache_resource.clear()
    st.cache_data.clear()
    page = AppTest.from_file(str(VIEWS / f"{view}.py"), default_timeout=30)
    for name, value in {"run": run.id if run else "", **thread}.items():
        page.session_state[f"thread_{name}"] = value
    return page


def opened(monkeypatch: pytest.MonkeyPatch, view: str, run: RunFolder | None, home: Path, **thread: str) -> AppTest:
    """Return the page, drawn once."""
    return page_at(monkeypatch, view, run, home, **thread).run()


def app_on(view: str, **thread: str) -> AppTest:
    """Return the whole app on one page, with ids chosen; the home is that of the environment."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    for name, value in thread.items():
        app.session_state[f"thread_{name}"] = value
    app.run()
    if view != "home":
        app.switch_page(f"pages/{view}.py").run()
    assert not app.exception
    return app


def text(page: AppTest) -> str:
    """Return all words of a page, in the order of their kinds."""
    kinds = (page.title, page.markdown, page.caption, page.success, page.warning, page.error, page.info, page.subheader)
    return " ".join(str(element.value) for kind in kinds for element in kind)


def figures(page: AppTest) -> list[dict]:
    """Return the plotly figures of a page, as JSON values."""
    return [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]


def came(home: Path, name: str, content: bytes, box: str = "upload") -> None:
    """Let an upload have come through a box; that of the Data page where none is named."""
    settings, identity = Settings(home), hashlib.md5(f"{box} {name}".encode()).hexdigest()
    arriving.begin(settings, arriving.Arriving(identity, name, len(content), box, "test session id"))
    with arriving.Piece(settings, identity, 0) as piece:
        piece.write(content)
        piece.keep()


def address(page: AppTest) -> dict[str, str]:
    """Return what the address of a page holds."""
    return {name: value if isinstance(value, str) else value[0] for name, value in page.query_params.items()}
