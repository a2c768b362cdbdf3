"""Have items ready before they are asked for: a thread reads or draws cells while the caller computes.

Boundary: any iterator; it runs in the thread, its items and its error come out where they are asked for.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
TURN = 0.1  # seconds until a full queue is tried again, and whether the thread is to stop is looked up


class Ahead(Iterator[T]):
    """The items of an iterator, computed in a thread up to `depth` of them ahead.

    Use it as a context manager, or call `close`, so that the thread ends when not all items are taken.

    Args:
        items: runs in the thread.
        depth: most items that wait.
        name: of the thread.

    `waited_first` and `waited` are the seconds that the caller waited for the first item and for all others.
    """

    def __init__(self, items: Iterable[T], depth: int = 2, name: str = "ahead") -> None:
        self.waited_first = self.waited = 0.0
        self._first = True
        self._queue: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(items,), name=name, daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        began = time.perf_counter()
        item = self._queue.get()
        seconds = time.perf_counter() - began
        if self._first:
            self.waited_first, self._first = seconds, False
        else:
            self.waited += seconds
        if isinstance(item, tuple):
            return item[0]
        self._stopped.set()
        if item is None:
            raise StopIteration
        raise item

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and wait for its end; items that wait are dropped."""
        self._stopped.set()
        self._thread.join()

    def _work(self, items: Iterable[T]) -> None:
        last: BaseException | None = None
        try:
            for item in items:
                self._put((item,))  # in a tuple, so that no item can be taken for an error or the end
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the item is asked for
            last = error
        self._put(last)

    def _put(self, item: tuple[T] | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._queue.put(item, timeout=TURN)
                return
