"""Whether another version of the program has taken over: a worker that was started before still has the old code, and takes no more jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import state_engine
from state_engine.jobs.store import JobStore

LOOK_SECONDS: Final = 5.0
"""Between two looks at the files of the program."""


def newest_source() -> int:
    """Return when a file of the package was changed last, nanoseconds since 1970."""
    return max(path.stat().st_mtime_ns for path in Path(state_engine.__file__).parent.rglob("*.py"))


class Upgrade:
    """True from the moment at which the files of the program, or the jobs database, are those of another version.

    Args:
        store: the jobs.
    """

    def __init__(self, store: JobStore) -> None:
        self._store, self._source, self._next = store, newest_source(), time.monotonic() + LOOK_SECONDS
        self._happened = False

    def __bool__(self) -> bool:
        if not self._happened and time.monotonic() >= self._next:
            try:
                self._happened = newest_source() != self._source
            except (OSError, ValueError):  # they are being replaced
                self._happened = True
            self._next = time.monotonic() + LOOK_SECONDS
        return self._happened or self._store.outgrown()
