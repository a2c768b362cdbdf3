"""Where shards are computed: one interface, chosen by STATE_EXPLORER_EXECUTOR or --executor.

    local                in this process; a shard is written while the next one is computed
    ray                  on a Ray cluster: the one that this machine belongs to, or one of this machine for a while
    ray://host:port      on a Ray cluster elsewhere, by its client port

Which one it is changes no number. The folder of the shards must be seen by every node under the same path.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from state_engine.device import choose_device, cpu_threads
from state_engine.shards.ledger import ShardFile, log_line, save_shard
from state_engine.shards.plan import Bench, Recipe, Shard, Tick, Write


@dataclass(frozen=True)
class Work:
    """What an executor is given.

    Args:
        recipe: how a bench is made.
        folder: of the files.
        threads: of one shard; 0: as they are.
        device: that was asked for.
    """

    recipe: Recipe
    folder: Path
    threads: int = 0
    device: str = "cpu"


class Executor(Protocol):
    """Computes shards into files."""

    def device_name(self, wanted: str) -> str:
        """Return the name of the device that shards are computed on, when `wanted` was asked for."""

    def run(
        self, work: Work, shards: Sequence[Shard], tick: Tick, bench: Bench | None = None
    ) -> Generator[ShardFile, None, None]:
        """Compute shards; yield the file of each when it is whole, in any order.

        Args:
            work: see there.
            shards: that are not done.
            tick: called now and then with the units of unfinished shards that are done; may raise `JobCancelled`.
            bench: one that is open in this process already.

        Raises:
            StateError: what the verb raises, the disk is full, or the executor cannot be used.
        """


class Local:
    """In this process, one shard after the other; a thread writes a shard while the next one is computed."""

    def device_name(self, wanted: str) -> str:
        """See `Executor`."""
        return choose_device(wanted).name

    def run(
        self, work: Work, shards: Sequence[Shard], tick: Tick, bench: Bench | None = None
    ) -> Generator[ShardFile, None, None]:
        """See `Executor`."""
        with cpu_threads(work.threads), ThreadPoolExecutor(1, "shard-writer") as writer:
            bench = bench or work.recipe.open(work.recipe.request)
            pending: deque[Future[ShardFile]] = deque()
            written = 0  # units of the shard that is being written
            for shard in shards:
                began = time.monotonic()
                log_line(work.folder, begun=shard.number, process=os.getpid())
                write = bench.compute(shard, _beyond(tick, written))
                if pending:  # one at a time, so that no more than two shards are in memory
                    yield pending.popleft().result()
                pending.append(writer.submit(save_and_log, work.folder, shard, write, began))
                written = shard.units
            while pending:
                yield pending.popleft().result()


def _beyond(tick: Tick, units: int) -> Tick:
    return lambda more: tick(units + more)


def save_and_log(folder: Path, shard: Shard, write: Write, began: float) -> ShardFile:
    """Write a shard's file and note in the log that it is done."""
    file = save_shard(folder, shard, write)
    log_line(folder, done=shard.number, process=os.getpid(), seconds=round(time.monotonic() - began, 3), bytes=file.size)
    return file
