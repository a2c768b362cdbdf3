"""Items are written in order by one thread, a bounded number of them waits, and an error comes out as it was raised."""

from __future__ import annotations

import threading

import pytest

from state_engine.data.behind import Behind


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("a writer")]


def test_items_are_written_in_order_in_a_thread_of_its_own() -> None:
    written: list[tuple[int, str]] = []
    with Behind(lambda item: written.append((item, threading.current_thread().name)), name="a writer") as behind:
        for item in range(50):
            behind.put(item)
    assert [item for item, _ in written] == list(range(50))
    assert {name for _, name in written} == {"a writer_0"} and not names()
    assert behind.writing > 0


def test_the_caller_goes_on_while_an_item_is_written_and_waits_when_too_many_are() -> None:
    allowed, written, given = threading.Semaphore(0), list[int](), list[int]()

    def write(item: int) -> None:
        assert allowed.acquire(timeout=60)
        written.append(item)

    def give() -> None:
        with Behind(write, depth=2) as behind:
            for item in range(5):
                behind.put(item)
                given.append(item)

    thread = threading.Thread(target=give)
    thread.start()
    while len(given) < 2:
        thread.join(0.01)
    assert written == [] and given == [0, 1]  # the third is not taken before the first is written
    allowed.release(5)
    thread.join(60)
    assert written == given == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("items", [1, 10])
def test_an_error_comes_out_as_it_was_raised_and_nothing_is_written_after_it(items: int) -> None:
    error, written = OSError(28, "No space left on device"), list[int]()

    def write(item: int) -> None:
        written.append(item)
        raise error

    with pytest.raises(OSError) as caught, Behind(write, name="a writer") as behind:
        for item in range(items):
            behind.put(item)
    assert caught.value is error and written == [0] and not names()


def test_what_waits_is_dropped_when_the_block_ends_badly() -> None:
    begun, go_on, written = threading.Event(), threading.Event(), list[int]()

    def write(item: int) -> None:
        begun.set()
        assert go_on.wait(60)
        written.append(item)

    def fail() -> None:
        with Behind(write, depth=3, name="a writer") as behind:
            for item in range(3):
                behind.put(item)
            assert begun.wait(60)
            threading.Timer(0.01, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert written == [0] and not names()
