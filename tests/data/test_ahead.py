"""Items that a thread computes before they are asked for."""

from __future__ import annotations

import threading
import time

import pytest

from state_engine.data.ahead import Ahead


def test_items_come_in_order_and_are_made_ahead():
    made = []

    def make(k: int) -> int:
        made.append(k)
        return k

    items = Ahead(map(make, range(3, 9)), 2)
    assert next(items) == 3
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made[:4] == [3, 4, 5, 6]  # one taken, two wait, one is at the door
    assert list(items) == [4, 5, 6, 7, 8] and items.waited >= 0


def test_an_error_comes_out_where_the_item_is_asked_for():
    def make(k: int) -> int:
        if k == 1:
            raise ValueError("broken")
        return k

    items = Ahead(map(make, range(5)))
    assert next(items) == 0
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert list(items) == []


def test_closing_stops_the_thread():
    items = Ahead(iter(range(10**9)), name="numbers")
    assert next(items) == 0
    items.close()
    assert "numbers" not in {t.name for t in threading.enumerate()} and list(items) == []
