"""Places for children that run at the same time, shared between callers: no one person's files hold up those of the others.

A caller is who asks: on a server one browser, on the command line nobody in particular. Each may hold `each` places; the last free one is
for a caller who holds none.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOBODY = ""  # a caller without a name: a command, a worker


class Places:
    """A number of places, handed out so that each caller gets one as long as any is free.

    Args:
        total: places at the same time.
        each: most places that one caller holds at the same time; a caller without a name may hold all.
    """

    def __init__(self, total: int, each: int) -> None:
        self.total, self.each = total, each
        self._holders: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._who: Callable[[], str] = lambda: NOBODY

    def callers_are(self, who: Callable[[], str]) -> None:
        """Tell who calls: a function that names the caller of the thread it runs in."""
        self._who = who

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a place for the caller; waits until there is one."""
        caller = self._who()
        with self._changed:
            self._changed.wait_for(lambda: self._is_free_for(caller))
            self._holders[caller] += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders[caller] -= 1
                self._holders += Counter()  # forgets callers who hold none
                self._changed.notify_all()

    def _is_free_for(self, caller: str) -> bool:
        free, own = self.total - self._holders.total(), self._holders[caller]
        if caller == NOBODY or own == 0:
            return free > 0
        return own < self.each and free > 1
