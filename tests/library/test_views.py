"""Named views: kept for their owner alone, read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.errors import RequestError
from state_engine.library.views import MOST_ADDRESS, forget_view, keep_view, views_of


def test_a_view_is_kept_for_its_owner(tmp_path: Path) -> None:
    anna, bert = (Settings(tmp_path).of(name) for name in ("anna", "bert"))
    first = keep_view(anna, "  ISG15 in NK ", "genes", {"run": "r", "gene": "ISG15"})
    second = keep_view(anna, "map", "explore", {"kinds": "predicted,observed"})
    assert views_of(anna) == (second, first) and first.name == "ISG15 in NK" and views_of(bert) == ()
    forget_view(bert, first.id)
    assert len(views_of(anna)) == 2
    forget_view(anna, first.id)
    assert views_of(anna) == (second,)


def test_what_is_no_view_is_refused_or_left_out(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    for name, address in (("", {}), (" ", {}), ("x", {"a": "b" * MOST_ADDRESS})):
        with pytest.raises(RequestError):
            keep_view(settings, name, "genes", address)
    with pytest.raises(RequestError, match="no such view"):
        forget_view(settings, "../../x")
    view = keep_view(settings, "x", "genes", {})
    for name in (f"{view.id}.json", "other.json"):
        (settings.home / "views" / name).write_text("{")
    assert views_of(settings) == ()
