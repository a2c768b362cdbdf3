"""What a folder on disk is, from file names alone, and which of several Lightning checkpoints it means. Opens no file.

One rule of preference for the disk and for the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from state_engine.checkpoints.store import CARD, WEIGHTS, model_folder
from state_engine.errors import listed

REQUIRED = (CARD, WEIGHTS)
DEPTH = 3
_FIRST = {"final.ckpt": 0, "best.ckpt": 1, "last.ckpt": 2}

Kind = Literal["store", "arc", "hub snapshot", "unknown"]


@dataclass(frozen=True)
class Found:
    """What a folder is.

    Args:
        kind: "store" (ours), "arc" (a run directory of arc-state), "hub snapshot" (several models below), "unknown".
        reason: why, a sentence for people.
        models: for a hub snapshot, the folders below that hold a model.
        checkpoints: for an arc run directory, its .ckpt files, the one that is meant first.
    """

    kind: Kind
    reason: str
    models: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()


def what_is(path: Path) -> Found:
    """What kind of model a folder holds, from file names alone; nothing is opened."""
    if not path.is_dir():
        return Found("unknown", f"{path.name} is not a folder.")
    path = model_folder(path)  # a training's folder means the model it made
    if (path / CARD).is_file():
        missing = [name for name in REQUIRED if not (path / name).is_file()]
        return Found("unknown", f"It has {CARD}, but not {listed(missing)}.") if missing else Found("store", "Our own format.")
    checkpoints = candidates(path)
    if (path / "config.yaml").is_file() and checkpoints:
        return Found("arc", f"A run directory of arc-state with {len(checkpoints)} checkpoint(s).", checkpoints=checkpoints)
    below = _models_below(path)
    if below:
        return Found("hub snapshot", f"It holds {len(below)} models in folders: {listed(below)}.", models=below)
    return Found("unknown", _why_unknown(path, checkpoints))


def candidates(path: Path) -> tuple[str, ...]:
    """The .ckpt files of a run directory, relative to it, the one that is meant first (final, best, last, latest step)."""
    found = [
        p.relative_to(path).as_posix() for folder in (path, path / "checkpoints") for p in folder.glob("*.ckpt") if p.is_file()
    ]
    return tuple(ordered_checkpoints(found))


def ordered_checkpoints(names: Iterable[str]) -> list[str]:
    """Names of .ckpt files, the preferred one first: final, best, last, then by training step, latest first."""

    def rank(name: str) -> tuple[int, int, str]:
        base = PurePosixPath(name).name
        steps = re.findall(r"step[=_-]?(\d+)", base) or re.findall(r"(\d+)", base)
        return _FIRST.get(base, 3), -int(steps[-1]) if steps else 0, name

    return sorted((n for n in names if n.endswith(".ckpt")), key=rank)


def preferred_checkpoint(names: Iterable[str]) -> str | None:
    """The first of `ordered_checkpoints`, or None."""
    return next(iter(ordered_checkpoints(names)), None)


def _models_below(path: Path) -> tuple[str, ...]:
    """Folders below, to a small depth, that hold a model."""
    found: list[str] = []
    level = [path]
    for _ in range(DEPTH):
        level = [
            p for folder in level for p in sorted(folder.iterdir()) if p.is_dir() and not (p.name[0] == "." or p.is_symlink())
        ]
        for folder in level:
            is_arc = (folder / "config.yaml").is_file() and candidates(folder)
            if is_arc or all((folder / name).is_file() for name in REQUIRED):
                found.append(folder.relative_to(path).as_posix())
    return tuple(found)


def _why_unknown(path: Path, checkpoints: tuple[str, ...]) -> str:
    if path.name == "checkpoints":
        return "It is the checkpoints of a run directory: choose the folder above."
    if checkpoints:
        return f"It has {listed(checkpoints)}, but no config.yaml beside: the run directory is not complete."
    if (path / "config.yaml").is_file():
        return "It has a config.yaml, but no .ckpt file: the run directory is not complete."
    return f"Neither {CARD} (our format) nor config.yaml with a checkpoint (arc-state) is in it."
