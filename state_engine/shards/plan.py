"""A long verb as a plan of shards: pieces that know nothing of each other, so that any process may compute any of them, in any order.

    plan ──> shard ──compute──> file (beside, renamed, with its checksum) ──merge──> result

What is random in a shard is seeded by what the shard is, never by when or where it is computed: a run that was interrupted and went on gives
the same bytes as one that was not. Boundary: what a shard holds is a matter of the verb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]
Write = Callable[[Path], None]
Tick = Callable[[int], None]
_REMARKS = "remarks"


@dataclass(frozen=True)
class Shard:
    """One piece of a plan.

    Args:
        number: place in the plan, from 0.
        what: says what is computed, as plain values.
        units: how much of the plan's progress it is.
        size: bytes of its file, about.
    """

    number: int
    what: Mapping[str, object]
    units: int = 1
    size: int = 0


class Bench(Protocol):
    """A verb that is open and ready: data set and model at hand. It computes one shard after the other, in one thread."""

    def compute(self, shard: Shard, tick: Tick) -> Write:
        """Compute a shard.

        Args:
            shard: of the plan.
            tick: called with the units that are done of it; may raise `JobCancelled`.

        Returns:
            What writes its file; called once, perhaps in another thread while the next shard is computed.
        """


@dataclass(frozen=True)
class Recipe:
    """How another process makes a bench: a function of a module, and what it is called with. Both are pickled."""

    open: Callable[[Any], Bench]
    request: object


@dataclass(frozen=True)
class Plan:
    """What is computed, and in which pieces.

    Args:
        verb: for people.
        stage: of its progress.
        recipe: makes a bench.
        shards: numbered from 0, in the order in which they are begun.
        facts: everything that the numbers depend on beside the shards, as plain values: request, hashes, versions, device.
        threads: of one shard on a CPU, on which the last bits depend; 0 where they do not.
        merged: bytes that the merge writes beside the shards.
        device: that was asked for.
    """

    verb: str
    stage: str
    recipe: Recipe
    shards: tuple[Shard, ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    threads: int = 0
    merged: int = 0
    device: str = "cpu"

    @property
    def units(self) -> int:
        """Of all shards."""
        return sum(shard.units for shard in self.shards)

    def identity(self) -> dict[str, object]:
        """Return what makes it this plan and no other, as plain values."""
        return {"verb": self.verb, "facts": dict(self.facts), "shards": [dict(shard.what) for shard in self.shards]}


def writing(arrays: Arrays, remarks: tuple[str, ...] = ()) -> Write:
    """Return what writes arrays, and sentences worth showing, into one file."""

    def write(path: Path) -> None:
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, path, {_REMARKS: "\n".join(remarks)})

    return write


def read_arrays(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Return the arrays and the remarks of a file that `writing` wrote."""
    with safe_open(path, "np") as file:
        remarks = file.metadata()[_REMARKS]
        return {name: file.get_tensor(name) for name in file.keys()}, tuple(filter(None, remarks.split("\n")))  # noqa: SIM118
