"""How a verb reports what it does: it calls `on_progress(Progress(...))`.

A callback may raise `JobCancelled`; the verb then stops and leaves no half-written file under its final name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["count", "bytes"]


@dataclass(frozen=True)
class Progress:
    """One report. `done` of `total` units of `stage`; `total` 0 means that the length is not known.

    Args:
        stage: what is being done, in the user's words ("Predicting cells").
        done: units finished.
        total: units of this stage.
        message: a remark worth keeping in the log ("Out of memory: 16 sets per batch instead of 32").
        unit: what `done` and `total` count: things, or bytes.
    """

    stage: str
    done: int = 0
    total: int = 0
    message: str = ""
    unit: Unit = "count"

    @property
    def fraction(self) -> float:
        """Return the part of the stage that is done, 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A callback that ignores what it is told; the default of every verb."""
