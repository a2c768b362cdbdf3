"""One worker a home: a lock that its process holds from birth to death, whatever death it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

NAME = "worker.lock"


class WorkerLock:
    """A lock on HOME/worker.lock that is held; the file says by whom.

    `flock` belongs to the open file, so a child that inherits the descriptor holds the lock even after the parent closed its own.
    The kernel frees it when the last holder ends, also after `kill -9`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, home: Path, name: str = NAME) -> Self | None:
        """Return the lock (of a seat), or None when another process has it. Do not wait."""
        descriptor = os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    @classmethod
    def inherited(cls, descriptor: int) -> Self:
        """Return the lock that the parent took for this process; not passed on to this process's own children."""
        os.set_inheritable(descriptor, False)
        return cls(descriptor)

    def write_holder(self, identity: str) -> None:
        """Say who holds it."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, identity.encode(), 0)

    def close(self) -> None:
        """Let go of this process's share. The lock is free once no process has a share."""
        os.close(self.descriptor)


def holder(home: Path, name: str = NAME) -> str:
    """Return the identity of the worker that has the lock (of a seat), or had it last; "" when there never was one."""
    path = home / name
    return path.read_text() if path.exists() else ""
