"""The workers of a home: one for each GPU, or one for the CPU, and one for short work while these are busy with long work.

A seat is a lock file, which the process that sits there holds. The first seat is filled whenever a job waits, another one only when all before
it that could do the job are busy; each does any job of its lane.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.jobs.kinds import Lane
from state_engine.jobs.lock import NAME, holder

_DRIVER: Final = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU; asking torch would take seconds
SHORT_IDLE_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Seat:
    """One place for a worker.

    Args:
        lock: name of its lock file.
        lane: of its jobs; None: any.
        gpu: that it may use, as CUDA_VISIBLE_DEVICES names it; None: all.
    """

    lock: str = NAME
    lane: Lane | None = None
    gpu: str | None = None


FIRST: Final = Seat()
SHORT: Final = Seat("worker-short.lock", "short")


def seats() -> tuple[Seat, ...]:
    """Return the seats of this machine, the first one first."""
    found = gpus()
    if len(found) < 2:
        return FIRST, SHORT
    more = (Seat(f"worker-{number}.lock", None, gpu) for number, gpu in enumerate(found[1:], 1))
    return Seat(gpu=found[0]), *more, SHORT


def lanes() -> tuple[Lane | None, ...]:
    """Return the lane of each worker that this machine can have."""
    return tuple(seat.lane for seat in seats())


def holders(home: Path) -> tuple[str, ...]:
    """Return the identity of the worker that has each seat of a home, or had it last; seats that nobody ever had are left out."""
    return tuple(filter(None, (holder(home, seat.lock) for seat in seats())))


def gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(filter(None, (name.strip() for name in chosen.split(","))))
    return tuple(str(number) for number, _ in enumerate(_DRIVER.iterdir())) if _DRIVER.is_dir() else ()
