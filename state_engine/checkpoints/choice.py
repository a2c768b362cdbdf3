"""Which of several Lightning checkpoints a run directory means, when nobody says. One rule for the disk and for the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_FIRST = {"final.ckpt": 0, "last.ckpt": 1, "best.ckpt": 2}


def ordered_checkpoints(names: Iterable[str]) -> list[str]:
    """Names of .ckpt files, the preferred one first: final, last, best, then by training step, latest first."""

    def rank(name: str) -> tuple[int, int, str]:
        base = PurePosixPath(name).name
        steps = re.findall(r"step[=_-]?(\d+)", base) or re.findall(r"(\d+)", base)
        return _FIRST.get(base, 3), -int(steps[-1]) if steps else 0, name

    return sorted((n for n in names if n.endswith(".ckpt")), key=rank)


def preferred_checkpoint(names: Iterable[str]) -> str | None:
    """The first of `ordered_checkpoints`, or None."""
    return next(iter(ordered_checkpoints(names)), None)
