"""Work off a plan: compute what is not done, tell how far it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.config import load_settings
from state_engine.errors import ConfigError, RequestError
from state_engine.files import full_disk_told
from state_engine.progress import OnProgress, Progress
from state_engine.shards.executors import Executor, Local, Work
from state_engine.shards.in_run import FOLDER
from state_engine.shards.ledger import Ledger
from state_engine.shards.plan import Arrays, Bench, Shard, read_arrays

LOCAL: Final = "local"
_NAME = re.compile(r"local|ray|ray://[A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5}")


@dataclass(frozen=True)
class InShards:
    """That a verb works in shards, so that it can go on after an interruption.

    Args:
        folder: of the shards; what an interrupted run of the same request left there is gone on with.
        executor: computes them.
        size: bytes of a shard, about.
        temporary: the folder goes when the verb is done; otherwise its log stays.
    """

    folder: Path
    executor: Executor = Local()
    size: int = 64 << 20
    temporary: bool = False


def executor_of(name: str) -> Executor:
    """Return the executor of a name.

    Raises:
        ConfigError: there is none of that name, or Ray is not installed.
    """
    check_executor(name)
    if name == LOCAL:
        return Local()
    from state_engine.shards.on_ray import OnRay

    return OnRay(name)


def check_executor(name: str) -> None:
    """Raise a `ConfigError` where there is no executor of that name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"There is no executor '{name[:80]}'.", "", "Known: local, ray, ray://host:port.")


def beside(output: Path, executor: str = "") -> InShards:
    """Return how a command works in shards: in a hidden folder beside its output, which goes when the output is there.

    Args:
        output: the file that is written.
        executor: that was asked for; "": that of the installation.

    Raises:
        ConfigError: there is no such executor.
    """
    settings = load_settings()
    found = executor_of(executor or settings.executor)
    return InShards(output.with_name(f".shards-{output.name}"), found, settings.shard_bytes, temporary=True)


def in_run(run: Path, executor: str = "") -> InShards:
    """Return how a job works in shards: in its run folder, whose log of shards stays.

    Args:
        run: the folder.
        executor: that was asked for; "": that of the installation.

    Raises:
        ConfigError: there is no such executor.
    """
    settings = load_settings()
    return InShards(run / FOLDER, executor_of(executor or settings.executor), settings.shard_bytes)


def complete(
    ledger: Ledger, executor: Executor, on_progress: OnProgress, bench: Bench | None = None, only: Sequence[Shard] | None = None
) -> None:
    """Compute the shards that are not done.

    Args:
        ledger: of the plan.
        executor: see `state_engine.shards.executors`.
        on_progress: told at least for each shard; may raise `JobCancelled`.
        bench: one that is open in this process already.
        only: shards of the plan to compute; None: all of it.

    Raises:
        RequestError: the disk is full; what is done stays done. StateError: what the verb raises.
    """
    plan = ledger.plan
    finished = reported = plan.units - sum(shard.units for shard in ledger.todo)
    todo = [shard for shard in ledger.todo if only is None or shard in only]

    def tick(units: int) -> None:
        nonlocal reported
        reported = max(reported, finished + units)  # what is computed but not written yet counts
        on_progress(Progress(plan.stage, reported, plan.units))

    if ledger.done:
        words = f"{len(ledger.done):,} of {len(plan.shards):,} parts were done before and are not computed again."
        on_progress(Progress(plan.stage, finished, plan.units, words))
    ledger.check_room()
    if not todo:
        return
    work = Work(plan.recipe, ledger.folder, ledger.threads, plan.device)
    with full_disk_told(ledger.folder, RequestError), closing(executor.run(work, todo, tick, bench)) as files:
        for file in files:
            ledger.note(file)
            finished += plan.shards[file.number].units
            tick(0)


def arrays_in_order(ledger: Ledger) -> Iterator[tuple[Arrays, tuple[str, ...]]]:
    """Yield what each shard holds, and its remarks, in the order of the plan; all must be done."""
    for shard in ledger.plan.shards:
        yield read_arrays(ledger.path(shard))
