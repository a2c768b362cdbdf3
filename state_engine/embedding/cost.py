"""What embedding a cell takes on a CPU, before anything is computed: by what was measured on this machine, or roughly. No torch: pages import this.

What `embedding.speed` measured is remembered in a file of the installation, for each machine that uses it.

Notation: t tokens of a sentence, d width, f width within the feed-forward part.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from state_engine.errors import ConfigError
from state_engine.files import read_json, write_json
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.plain import from_plain, to_plain

SPEEDS = "embedding-speeds.json"

_RATE = 2e10  # multiplications and additions a second that one core reaches; rough
MUCH_SMALLER = 4.0  # a model is offered in place of one that takes so many times as long
MOST_REMEMBERED = 50  # networks, of all machines
LONG = 60.0  # seconds for a data set, from which a smaller model is offered


@dataclass(frozen=True)
class EmbeddingCost:
    """Seconds for one cell on this machine's CPU; `measured` here, with this network (`same`) or with another."""

    seconds_a_cell: float
    measured: bool
    same: bool = False


@dataclass(frozen=True)
class Speed:
    """Seconds for a cell of a network on the CPU of a machine (its name)."""

    config: EmbeddingConfig
    seconds_a_cell: float
    machine: str


@dataclass(frozen=True)
class _Speeds:
    """The file: the newest first."""

    speeds: tuple[Speed, ...] = ()


def remember_speed(folder: Path, config: EmbeddingConfig, seconds_a_cell: float) -> None:
    """Remember how long a cell takes here, in place of what was remembered of this network.

    Args:
        folder: of the installation (`Settings.root`).
        config: the network.
        seconds_a_cell: as measured.
    """
    new = Speed(config, seconds_a_cell, socket.gethostname())
    others = [s for s in _remembered(folder) if (s.config, s.machine) != (config, new.machine)]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SPEEDS, to_plain(_Speeds((new, *others[: MOST_REMEMBERED - 1]))))


def speeds_here(folder: Path) -> list[tuple[EmbeddingConfig, float]]:
    """Return the networks that were measured on this machine and their seconds for a cell, the newest first."""
    return [(s.config, s.seconds_a_cell) for s in _remembered(folder) if s.machine == socket.gethostname()]


def _remembered(folder: Path) -> tuple[Speed, ...]:
    try:
        return from_plain(_Speeds, read_json(folder / SPEEDS)).speeds
    except (OSError, ValueError, ConfigError):  # not there, or damaged: it is measured again
        return ()


def operations(config: EmbeddingConfig) -> float:
    """Return multiplications and additions of one cell: all layers but the last read every position, that one only two of them."""
    t, d = config.tokens, config.hidden
    layer = 4.0 * d * d + 2.0 * d * config.feed_forward + 2.0 * t * d
    return (config.layers - 1) * t * layer + 2.0 * config.heads * t * d * 2 + 512.0 * t


def embedding_cost(config: EmbeddingConfig, before: Sequence[tuple[EmbeddingConfig, float]] = ()) -> EmbeddingCost:
    """Estimate a model's time for a cell.

    Args:
        config: of the model.
        before: networks whose cells were timed on this machine's CPU, with their seconds for a cell, the newest first. One of
            the same network counts as it is; else the newest tells how fast this machine is.
    """
    same = next((seconds for other, seconds in before if other == config), None)
    if same is not None:
        return EmbeddingCost(same, True, same=True)
    if before:
        other, seconds = before[0]
        return EmbeddingCost(seconds * operations(config) / operations(other), True)
    return EmbeddingCost(operations(config) / (_RATE * (os.cpu_count() or 1)), False)
