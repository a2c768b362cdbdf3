"""Write items while the caller computes the next ones: the counterpart of `Ahead`.

Boundary: any items; what writes them runs in one thread, in their order, and its error comes out where the next item is given.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Behind(Generic[T]):
    """Hands items to a thread that writes them; at most `depth` of them wait or are being written.

    Use it as a context manager: a block that ends well waits until all is written, one that ends badly drops what waits.

    Args:
        write: called for each item, in the thread.
        depth: most items in memory here; `put` waits for the oldest when there are as many.
        name: of the thread.

    `writing` and `waited` are the seconds that items took to be written, and that the caller waited for it.
    """

    def __init__(self, write: Callable[[T], None], depth: int = 2, name: str = "writer") -> None:
        self.writing = self.waited = 0.0
        self._write, self._depth, self._failed = write, depth, False
        self._pending: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, name)

    def put(self, item: T) -> None:
        """Have an item written.

        Raises:
            whatever an earlier item's writing raised, as it was raised.
        """
        while self._pending and (len(self._pending) >= self._depth or self._pending[0].done()):
            self._wait()
        self._pending.append(self._pool.submit(self._work, item))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while self._pending and error is None:
                self._wait()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        began = time.perf_counter()
        try:
            self._pending.popleft().result()
        finally:
            self.waited += time.perf_counter() - began

    def _work(self, item: T) -> None:
        if self._failed:  # what came before it is missing
            return
        began = time.perf_counter()
        try:
            self._write(item)
        except BaseException:
            self._failed = True
            raise
        finally:
            self.writing += time.perf_counter() - began
