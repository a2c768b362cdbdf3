"""A worker that is asked to end (SIGTERM) leaves no orphan: its job ends if it is about to, else it goes back to the queue.

The job is stopped at its next report of progress. One that does not report within GRACE_SECONDS (a long call into C) is put back by the
heartbeat, and the process ends. A training goes on from its last checkpoint.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Final

from state_engine.errors import JobCancelled

GRACE_SECONDS: Final = 20.0


class WorkerStops(JobCancelled):
    """The worker ends, so its job is stopped; nobody cancelled it."""


class Stopping:
    """Whether this worker is to end, and since when."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._since = 0.0

    def on_terminate(self) -> None:
        """From now on, SIGTERM asks this process to end. Only the main thread may call it."""
        signal.signal(signal.SIGTERM, lambda *_: self.ask())

    def ask(self) -> None:
        """End as soon as the job allows."""
        self._since = self._since or time.monotonic()
        self._asked.set()

    def __bool__(self) -> bool:
        return self._asked.is_set()

    @property
    def patience_is_over(self) -> bool:
        """Whether the job had its time to stop by itself."""
        return bool(self) and time.monotonic() - self._since > GRACE_SECONDS

    def check(self) -> None:
        """Raise WorkerStops when this worker is to end."""
        if self:
            raise WorkerStops("The worker ends.")
