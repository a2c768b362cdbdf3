"""Write numbers, times and states the same way on every page."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "lost": "lost: its worker stopped",
}


def state_words(state: str) -> str:
    """Return the state of a job in words."""
    return _STATES.get(state, state)


def age(created: str) -> str:
    """Return the time since an ISO date: 'just now', '5 min ago', '3 h ago', or its date."""
    then = datetime.fromisoformat(created)
    seconds = (datetime.now(UTC) - then.astimezone(UTC)).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    return then.strftime("%Y-%m-%d")


def duration(seconds: float) -> str:
    """Return a length of time: '8 s', '3 min', '2 h'."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """Return a number of bytes in the largest unit that keeps it above 1."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit in ("B", "kB") else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def p_value(p: float) -> str:
    """Return a p-value: 1.2e-05, or 0.031."""
    if math.isnan(p):
        return "n/a"
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: '1 cell', '1,204 cells'."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
