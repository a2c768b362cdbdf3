"""One command on several nodes of a Ray cluster at once, as a training that several nodes share.

Ray finds the nodes and starts the command on each; how the processes then share their work is a matter of the command (Lightning's DDP reads
MASTER_ADDR, MASTER_PORT and NODE_RANK). What the first node prints is handed on. Nothing is begun again: a command that can go on is asked to.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from state_engine.errors import DeviceError, JobError
from state_engine.shards.on_ray import PLACE_SECONDS, POLL_SECONDS, OnRay, check_versions, connect, node_resources, takes_gpu
from state_engine.versions import package_versions

SHOWN: Final = 5  # last lines of a command that failed
_DIES_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG

Needs: TypeAlias = dict[str, float]
"""Resources of one node, as Ray names them."""


@dataclass(frozen=True)
class Together:
    """What runs where.

    Args:
        address: "ray" or "ray://host:port".
        arguments: of `python -m state_engine`, the same on each node.
        nodes: how many.
        devices: processes that each of them starts.
        device: that was asked for.
    """

    address: str
    arguments: tuple[str, ...]
    nodes: int
    devices: int
    device: str


def run_together(asked: Together, on_line: Callable[[str], None]) -> None:
    """Run a command on all nodes, and wait for it.

    Args:
        asked: see there.
        on_line: gets what the first node prints.

    Raises:
        ConfigError: Ray is not installed. DeviceError: the cluster has no such nodes. JobError: the command failed on one of them.
    """
    import ray

    connect(OnRay(asked.address).address)
    needs = _needs(asked)
    group = _places(asked, needs)
    hands: list[Any] = []
    try:
        for bundle in range(asked.nodes):
            hands.append(_hired(group, bundle, needs))
        for found in ray.get([hand.versions.remote() for hand in hands]):
            check_versions(found)
        host, port = ray.get(hands[0].meeting_place.remote())
        meet = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "OMP_NUM_THREADS": _threads(asked, needs)}
        running = [
            hand.run.remote(list(asked.arguments), meet | {"NODE_RANK": str(n)}, str(Path.cwd())) for n, hand in enumerate(hands)
        ]
        _wait(hands, running, on_line)
    finally:
        for hand in hands:
            with suppress(Exception):
                ray.get(hand.stop.remote(), timeout=5)
            with suppress(Exception):
                ray.kill(hand)
        with suppress(Exception):
            ray.util.remove_placement_group(group)


def _places(asked: Together, needs: Needs) -> Any:
    """Return a place on each of so many nodes."""
    import ray
    from ray.util.placement_group import placement_group

    # nodes of their own only where there are several
    group = placement_group([needs] * asked.nodes, strategy="STRICT_SPREAD" if asked.nodes > 1 else "PACK")
    try:
        ray.get(group.ready(), timeout=PLACE_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.util.remove_placement_group(group)
        words = f"{asked.nodes} nodes with {asked.devices} devices each"
        raise DeviceError(
            f"The Ray cluster has no place for {words}.",
            f"Nothing was free in {PLACE_SECONDS:g} seconds.",
            "Look at `ray status`; ask for fewer nodes or devices, or leave out --executor.",
        ) from None
    return group


def _needs(asked: Together) -> Needs:
    """Return the resources of one node: its GPUs, or as many CPUs as divide among the processes of the smallest node that is large enough."""
    if takes_gpu(asked.device):
        return {"GPU": asked.devices, "CPU": 1}
    enough = sorted(cpus for node in node_resources() if (cpus := int(node.get("CPU", 0))) >= asked.devices)
    least = enough[-asked.nodes] if len(enough) >= asked.nodes else asked.devices
    return {"CPU": least // asked.devices * asked.devices}


def _threads(asked: Together, needs: Needs) -> str:
    """Return the threads of each process: those of this one where that is stated, else the CPUs of a node divided."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, int(needs["CPU"]) // asked.devices))


def _hired(group: Any, bundle: int, needs: Needs) -> Any:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    options = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "scheduling_strategy": place}
    # calls at a time: one waits for the command, another reads what it printed, a third ends it
    return ray.remote(_Node).options(**options, max_concurrency=3, max_restarts=0).remote()


def _wait(hands: list[Any], running: list[Any], on_line: Callable[[str], None]) -> None:
    """Hand on what the first node prints until all have ended well."""
    import ray

    left, shown = list(running), 0
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=POLL_SECONDS)
        for one in done:
            number = running.index(one)
            try:
                code, last = ray.get(one)
            except ray.exceptions.RayError as error:
                code, last = -1, [str(error).partition("\n")[0]]
            if code:
                raise JobError(
                    f"The command failed on node {number + 1} of {len(hands)} (exit code {code}).",
                    " ".join(last),
                    "What it had written is there: a training goes on with --resume.",
                )
        with suppress(ray.exceptions.RayError):
            new = ray.get(hands[0].printed.remote(shown))
            shown += len(new)
            for line in new:
                on_line(line)


class _Node:
    """The actor: one process of the command on one node."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def versions(self) -> dict[str, str]:
        """Return the versions of this node's packages."""
        return dict(package_versions())

    def meeting_place(self) -> tuple[str, int]:
        """Return an address of this node at which the others find it, and a port that is free there."""
        import ray

        host = str(ray.util.get_node_ip_address())
        with socket.socket() as free:
            free.bind((host, 0))
            return host, int(free.getsockname()[1])

    def run(self, arguments: Sequence[str], environment: dict[str, str], folder: str) -> tuple[int, list[str]]:
        """Run the command in a folder; return its exit code and its last lines."""
        command = [sys.executable, "-m", "state_engine", *arguments]
        with subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True, preexec_fn=_die_with_parent,
        ) as self._process:  # fmt: skip
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self._lines.append(line.rstrip("\n"))
        return self._process.returncode, self._lines[-SHOWN:]

    def printed(self, first: int) -> list[str]:
        """Return the lines from one on."""
        return self._lines[first:]

    def stop(self) -> None:
        """End the command with all its processes."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            until = time.monotonic() + 2
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)


def _die_with_parent() -> None:
    """Let the command end with the actor, where the system can (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
