"""A verb in shards for tests: squares of numbers, slowly."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.errors import LabelError
from state_engine.shards.plan import Plan, Recipe, Shard, Tick, Write, writing

ALWAYS = "/dev/null"  # as `mark`: the shard kills its process each time


@dataclass(frozen=True)
class Squares:
    """So many shards.

    Args:
        shards: how many.
        seconds: that each takes.
        values: of each.
        die: number of the shard that kills its process when it is computed for the first time; `mark` remembers that it did.
        refuse: raise an error of the engine with these words.
        slow_write: seconds that writing a shard takes.
    """

    shards: int
    seconds: float = 0.0
    values: int = 4
    die: int = -1
    mark: str = ""
    refuse: str = ""
    slow_write: float = 0.0


class SquaresBench:
    """Computes them."""

    def __init__(self, request: Squares) -> None:
        self.request = request

    def compute(self, shard: Shard, tick: Tick) -> Write:
        time.sleep(self.request.seconds)
        if self.request.refuse:
            raise LabelError(self.request.refuse)
        tick(0)
        number = int(str(shard.what["number"]))
        mark = Path(self.request.mark)
        if number == self.request.die and (self.request.mark == ALWAYS or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        draws = np.random.default_rng([7, number]).random(self.request.values)
        write = writing({"squares": number**2 + draws})

        def slowly(path: Path) -> None:
            time.sleep(self.request.slow_write)
            write(path)

        return slowly


def open_squares(request: Squares) -> SquaresBench:
    return SquaresBench(request)


def plan_of(request: Squares) -> Plan:
    shards = tuple(Shard(i, {"number": i}, size=8 * request.values) for i in range(request.shards))
    return Plan("squares", "Squaring", Recipe(open_squares, request), shards, {"values": request.values})
