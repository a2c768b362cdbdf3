"""Shards on a Ray cluster: an actor for each GPU, or for as many CPUs as a shard has threads, keeps model and data open from shard to shard.

A node that dies costs the shards that were running there: others compute them. Ray is an optional requirement (requirements-ray.txt). What
protects a cluster is Ray's: with RAY_AUTH_MODE=token in the environment of all nodes and of this program, it asks for a token.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from state_engine.device import choose_device, cpu_threads
from state_engine.errors import ConfigError, DeviceError, JobError, StateError
from state_engine.shards.executors import Work, save_and_log
from state_engine.shards.ledger import ShardFile, find_shard, log_line
from state_engine.shards.plan import Bench, Shard, Tick
from state_engine.versions import package_versions

POLL_SECONDS: Final = 0.5  # between two looks whether the job was cancelled
PLACE_SECONDS: Final = 120.0  # that the cluster may take to find room for a first actor
MOST_DEATHS: Final = 3  # of processes that computed one shard
IN_FLIGHT: Final = 2  # shards of an actor: one is written while the next is computed
_ROOT = Path(__file__).resolve().parents[2]


class OnRay:
    """See `state_engine.shards.executors.Executor`.

    Args:
        address: "ray" or "ray://host:port".

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray  # noqa: F401
        except ImportError:
            raise ConfigError(
                "Ray is not installed here.",
                f"The executor is '{address}'.",
                "Install it: pip install -r requirements-ray.txt. Or choose the executor 'local'.",
            ) from None
        self.address = address

    def device_name(self, wanted: str) -> str:
        """Return the name of the device that actors compute on."""
        import ray

        connect(self.address)
        options = {"num_gpus": 1} if takes_gpu(wanted) else {"num_cpus": 1}
        return str(ray.get(ray.remote(_device_name).options(**options).remote(wanted)))

    def run(
        self, work: Work, shards: Sequence[Shard], tick: Tick, bench: Bench | None = None
    ) -> Generator[ShardFile, None, None]:
        """See `Executor`. A bench of this process is of no use here."""
        connect(self.address)
        crew = _Crew(work, deque(shards))
        try:
            yield from crew.work_off(tick)
        finally:
            crew.dismiss()


@dataclass
class _Crew:
    """The actors of one run.

    Args:
        work: what they do.
        todo: shards that nobody has begun.
        starting: what says that an actor is ready -> the actor.
        busy: what a shard will return -> its actor and the shard.
        deaths: shard number -> processes that ended while they had it.
    """

    work: Work
    todo: deque[Shard]
    starting: dict[Any, Any] = field(default_factory=dict)
    ready: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, Shard]] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    waiting_since: float = field(default_factory=time.monotonic)

    def work_off(self, tick: Tick) -> Generator[ShardFile, None, None]:
        """Compute all shards."""
        import ray

        for _ in range(min(len(self.todo), _places(self.work))):
            self._hire()
        while self.todo or self.busy:
            self._hand_out()
            done, _ = ray.wait([*self.starting, *self.busy], num_returns=1, timeout=POLL_SECONDS)
            tick(0)
            for one in done:
                file = self._take(one)
                if file is not None:
                    yield file
            self._check_places()

    def dismiss(self) -> None:
        """End all actors; what they were writing is removed when the plan is gone on with."""
        import ray

        for actor in {*self.starting.values(), *self.ready}:
            with suppress(Exception):
                ray.kill(actor)

    def _hire(self) -> None:
        import ray

        options = {"num_gpus": 1} if takes_gpu(self.work.device) else {"num_cpus": _cpus(self.work)}
        # two calls at a time: one computes, the other writes
        actor = ray.remote(_Hand).options(**options, max_concurrency=IN_FLIGHT, max_restarts=0).remote(self.work)
        self.starting[actor.versions.remote()] = actor

    def _hand_out(self) -> None:
        load = Counter(id(actor) for actor, _ in self.busy.values())
        for actor in self.ready * IN_FLIGHT:  # the first shard of each before the second of any
            if self.todo and load[id(actor)] < IN_FLIGHT:
                shard = self.todo.popleft()
                self.busy[actor.compute.remote(shard)] = actor, shard
                load[id(actor)] += 1

    def _take(self, one: Any) -> ShardFile | None:
        """Take what an actor returned; of one that ended, hand its shards to others."""
        import ray

        actor, shard = (self.starting.pop(one), None) if one in self.starting else self.busy.pop(one)
        try:
            found = ray.get(one)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayActorError as error:
            self._bury(actor, shard, error)
            return None
        if shard is not None:
            return ShardFile(found.number, found.path, found.size)
        check_versions(found)
        self.ready.append(actor)
        return None

    def _bury(self, actor: Any, shard: Shard | None, error: Exception) -> None:
        if shard is not None:
            self.deaths[shard.number] += 1
            if self.deaths[shard.number] >= MOST_DEATHS:
                raise JobError(
                    f"Part {shard.number:,} ended the process that computed it, {MOST_DEATHS} times.",
                    str(error).partition("\n")[0],
                    "Its node may have too little memory; ask for fewer cells, or for smaller parts (STATE_EXPLORER_SHARD_MB).",
                )
            self.todo.appendleft(shard)
        if actor in self.ready:
            self.ready.remove(actor)
            self._hire()  # where the cluster still has a place

    def _check_places(self) -> None:
        if self.ready:
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > PLACE_SECONDS:
            raise DeviceError(
                "The Ray cluster has no place for this job.",
                f"Nothing was free in {PLACE_SECONDS:g} seconds.",
                "Look at `ray status`; add a node, or choose the executor 'local'.",
            )


class _Hand:
    """The actor: a bench in a process of a node, made for the first shard and kept."""

    def __init__(self, work: Work) -> None:
        self._work, self._turn = work, threading.Lock()
        self._bench: Bench | None = None

    def versions(self) -> dict[str, str]:
        """Return the versions of this node's packages."""
        return dict(package_versions())

    def compute(self, shard: Shard) -> ShardFile:
        """Compute and write one shard; what a process whose driver died has written already is taken as it is."""
        work = self._work
        with self._turn, cpu_threads(work.threads):
            there = find_shard(work.folder, shard.number)
            if there is not None:
                return there
            if self._bench is None:
                self._bench = work.recipe.open(work.recipe.request)
            began = time.monotonic()
            log_line(work.folder, begun=shard.number, process=os.getpid())
            write = self._bench.compute(shard, lambda units: None)
        return save_and_log(work.folder, shard, write, began)


def connect(address: str) -> None:
    """Connect this process to the cluster, or start one on this machine where there is none.

    Ray lets such a cluster listen to the network, not to the loopback alone; what keeps others out is its token.
    """
    import ray

    if ray.is_initialized():
        return
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    shared: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path, **_settings()}}, "log_to_driver": False, "logging_level": "ERROR",
    }  # fmt: skip
    try:
        ray.init(None if address == "ray" else address, **shared)
    except Exception as error:
        raise DeviceError(
            "The Ray cluster cannot be reached.",
            f"{address}: {type(error).__name__}: {str(error).partition(chr(10))[0][:300]}.",
            "Check the address, that the cluster runs, and its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN).",
        ) from error


def _settings() -> dict[str, str]:
    """Return the settings of this installation, which the processes of other nodes need as well."""
    return {name: value for name, value in os.environ.items() if name.startswith("STATE_EXPLORER_")}


def takes_gpu(wanted: str) -> bool:
    """Return whether a device that was asked for is a GPU of the cluster."""
    import ray

    return wanted == "cuda" or (wanted == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def _device_name(wanted: str) -> str:
    return choose_device(wanted).name


def node_resources() -> list[dict[str, float]]:
    """Return what each node that lives has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _cpus(work: Work) -> int:
    """Return the CPUs of an actor: as many as a shard has threads, where there is such a node."""
    most = max((int(node.get("CPU", 0)) for node in node_resources()), default=1)
    return max(1, min(work.threads or 1, most))


def _places(work: Work) -> int:
    """Return how many actors the cluster has room for."""
    nodes = node_resources()
    if takes_gpu(work.device):
        return max(1, sum(int(node.get("GPU", 0)) for node in nodes))
    cpus = _cpus(work)
    return max(1, sum(int(node.get("CPU", 0)) // cpus for node in nodes))


def check_versions(found: dict[str, str]) -> None:
    """Raise a `DeviceError` where a node has other packages: its numbers could differ."""
    here = dict(package_versions())
    other = [f"{name} {found.get(name)} instead of {here[name]}" for name in here if found.get(name) != here[name]]
    if other:
        raise DeviceError(
            "A node of the Ray cluster has other packages.", f"{', '.join(other)}.", "Install the same on all nodes."
        )


def _cause(error: Exception) -> Exception:
    """Return what a shard raised."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, StateError) else error
