"""Page scripts are opened one by one here, as if app.py were running."""

from __future__ import annotations

import pytest

from pages.parts import door


@pytest.fixture(autouse=True)
def inside_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script of a page be opened by itself; tests of the whole app open app.py."""
    monkeypatch.setattr(door, "is_open", lambda: True)
