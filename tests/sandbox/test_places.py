"""Four hanging files of one person leave room for everybody else's."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from state_engine.errors import UnsafeFileError
from state_engine.sandbox import Limits, client, isolated
from state_engine.sandbox.places import NOBODY, Places
from tests.sandbox import calls

ROOT = Path(__file__).resolve().parents[2]  # the whole: a folder that changed meanwhile is listed again to find the test package
of_thread = threading.local()


def caller() -> str:
    return str(getattr(of_thread, "name", NOBODY))


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    found = Places(client.AT_ONCE, client.FOR_EACH_CALLER)
    found.callers_are(caller)
    monkeypatch.setattr(client, "PLACES", found)
    return found


def ask(who: str, hangs: bool) -> float:
    """Return the seconds that a call of somebody takes; a hanging one ends after 4 s."""
    of_thread.name = who
    started = time.monotonic()
    if hangs:
        with pytest.raises(UnsafeFileError):
            isolated(calls.hangs, reads=(ROOT,), limits=Limits(seconds=4, memory_mb=512))
    else:
        assert isolated(calls.echo, 1, reads=(ROOT,), limits=Limits(seconds=60, memory_mb=512)) == 1
    return time.monotonic() - started


def test_another_caller_is_served_at_once(places: Places) -> None:
    ask("second", hangs=False)  # starts the server of children
    with ThreadPoolExecutor(8) as pool:
        first = [pool.submit(ask, "first", True) for _ in range(4)]
        third = [pool.submit(ask, "third", True) for _ in range(4)]
        time.sleep(0.5)
        ask("second", hangs=False)
        assert not any(call.done() for call in (*first, *third)), "it waited until one of the others ended"
        waits = sorted(done.result() for done in (*first, *third))
    assert waits[-1] > 8, "two of four waited for the others"
    assert not places._holders, "each place is given back"


def test_a_command_may_use_all_places(places: Places) -> None:
    ask(NOBODY, hangs=False)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(NOBODY, hangs=True), range(4)))
    assert time.monotonic() - started < 8, "two of four waited for the others"
