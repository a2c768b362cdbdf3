"""Who runs something, written so that another process can tell later whether it still lives: "host/pid/start time"."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress

import psutil

# start times are computed from the clock, which may be corrected while a process runs
_TOLERANCE_SECONDS = 5.0


def identity_of(pid: int | None = None) -> str:
    """Return the identity of a process of this machine (default: this one).

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    process = psutil.Process(pid)
    return f"{socket.gethostname()}/{process.pid}/{process.create_time():.2f}"


def is_alive(identity: str) -> bool | None:
    """Return whether that process lives; None when it is on another machine and cannot be asked."""
    if identity.partition("/")[0] != socket.gethostname():
        return None
    return _find(identity) is not None


def started_at(identity: str) -> float:
    """Return when that process started, in seconds since 1970; 0 when the identity does not tell."""
    try:
        return float(identity.rpartition("/")[2])
    except ValueError:
        return 0.0


def kill_tree(identity: str, wait_seconds: float = 1.0) -> bool:
    """Kill a process, its group when it leads one, and all its children; wait until it is gone.

    Returns:
        True when it no longer lives; False when it is still there, is on another machine, or is the caller itself.
    """
    if is_alive(identity) is None:
        return False
    process = _find(identity)
    if process is None:
        return True
    if process.pid == os.getpid():
        return False
    with suppress(psutil.Error, ProcessLookupError, PermissionError):
        family = process.children(recursive=True)
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        for member in (process, *family):
            with suppress(psutil.NoSuchProcess):
                member.kill()
    deadline = time.monotonic() + wait_seconds
    while is_alive(identity) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(identity)


def end_children() -> None:
    """Kill the children of this process, and theirs."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


def _find(identity: str) -> psutil.Process | None:
    _, _, rest = identity.partition("/")
    pid, _, started = rest.partition("/")
    try:
        process = psutil.Process(int(pid))
        ended = process.status() == psutil.STATUS_ZOMBIE
        same = abs(process.create_time() - float(started)) < _TOLERANCE_SECONDS
    except (psutil.Error, ValueError):
        return None
    return process if same and not ended else None
