"""What a path on disk is, from file names alone, and which of several checkpoints is meant. Opens no file.

One rule of preference, for the disk, the hub and every reader: `final.ckpt`, `best.ckpt`, `last.ckpt`, then the latest step.
A checkpoint is named by its file: wherever a model's folder is given, a .ckpt file of an arc-state run directory may be given too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from state_engine.checkpoints.embedding_card import is_embedding_store
from state_engine.checkpoints.store import CARD, WEIGHTS, model_folder
from state_engine.errors import CheckpointError, listed

REQUIRED = (CARD, WEIGHTS)
PERTURBATIONS = "pert_onehot_map.pt"
EMBEDDING_ENDINGS = (".ckpt", ".safetensors", ".pt")
DEPTH = 3
COMPLETE = "Download the whole run directory again, or copy the file from where the model was trained."
_FIRST = {"final.ckpt": 0, "best.ckpt": 1, "last.ckpt": 2}

Kind = Literal["store", "arc", "hub snapshot", "unknown"]


@dataclass(frozen=True)
class Found:
    """What a path is.

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
    """Return what kind of State Transition model a path holds, from file names alone; nothing is opened."""
    folder, named = run_of(path)
    if not folder.is_dir():
        return Found("unknown", f"{path.name} is not a folder.")
    folder = model_folder(folder)  # the folder of a training stands for the model in it
    if (folder / CARD).is_file() and named is None:
        missing = [name for name in REQUIRED if not (folder / name).is_file()]
        return Found("unknown", f"It has {CARD}, but not {listed(missing)}.") if missing else Found("store", "Our own format.")
    checkpoints = candidates(folder)
    if (folder / "config.yaml").is_file() and named is not None:
        return Found("arc", f"A checkpoint of the run directory {folder.name}.", checkpoints=(_relative(named, folder),))
    if (folder / "config.yaml").is_file() and checkpoints:
        return Found("arc", f"A run directory of arc-state with {len(checkpoints)} checkpoint(s).", checkpoints=checkpoints)
    below = _models_below(folder)
    if below:
        return Found("hub snapshot", f"It holds {len(below)} models in folders: {listed(below)}.", models=below)
    return Found("unknown", _why_unknown(folder, checkpoints))


def embedding_kind(path: Path) -> Literal["store", "arc", ""]:
    """Return whether a path is a State Embedding model, ours or arc-state's ("" for none); from file names alone."""
    if path.is_file():
        of_transition = (run_of(path)[0] / PERTURBATIONS).is_file()
        return "arc" if path.suffix in EMBEDDING_ENDINGS and not of_transition else ""
    if is_embedding_store(path):
        return "store"
    beside = all((path / name).is_file() for name in ("model.safetensors", "config.yaml"))
    if (path / "protein_embeddings.pt").is_file() or beside:
        return "arc"
    transition = (path / PERTURBATIONS).is_file() or (path / "checkpoints").is_dir() or (path / CARD).is_file()
    return "arc" if not transition and any(path.glob("*.ckpt")) else ""


def run_of(path: Path) -> tuple[Path, Path | None]:
    """Return the run directory of a path and the checkpoint that it names; a path that is no .ckpt file is the directory."""
    if path.suffix == ".ckpt" and path.is_file():
        return (path.parent.parent if path.parent.name == "checkpoints" else path.parent), path
    return path, None


def candidates(path: Path) -> tuple[str, ...]:
    """Return the .ckpt files of a run directory, relative to it, the one that is meant first."""
    folders = (path, path / "checkpoints")
    return tuple(ordered_checkpoints(_relative(p, path) for f in folders for p in f.glob("*.ckpt") if p.is_file()))


def find_checkpoint(folder: Path, wanted: str | Path | None = None) -> Path:
    """Return the .ckpt file that is meant: the wanted one, or the first of `candidates`.

    Args:
        folder: the run directory.
        wanted: a path, or a name in the directory or its `checkpoints`.

    Raises:
        CheckpointError: it is not there, or the directory has none.
    """
    if wanted is not None:
        for path in (folder / "checkpoints" / wanted, folder / wanted, Path(wanted)):
            if path.is_file():
                return path
        there = f"There are: {listed(candidates(folder), 12)}." if candidates(folder) else ""
        raise CheckpointError(f"There is no checkpoint {wanted} in {folder}.", there, "Leave it out to take the last one.")
    found = candidates(folder)
    if not found and (folder / CARD).is_file():
        what = f"{folder} is in the format of STATE Explorer already."
        raise CheckpointError(what, "It is no run directory of arc-state.", "Use the folder as it is.")
    if not found and (below := _models_below(folder)):
        what = f"{folder.name} is no run directory of arc-state, but holds {len(below):,} below: {listed(below, 12)}."
        raise CheckpointError(what, "A run directory has checkpoints/ in it.", f"Give that folder: {folder.name}/{below[0]}.")
    if not found:
        raise CheckpointError(f"checkpoints/final.ckpt is missing in {folder}.", "It holds the weights.", COMPLETE)
    return folder / found[0]


def choice_notes(folder: Path, path: Path) -> list[str]:
    """Return which checkpoint was read and, where there are several, of which: sentences for the card."""
    names = [PurePosixPath(name).name for name in candidates(folder)]
    notes = [f"Read from {path.name}."]
    if len(names) > 1:
        how = "is the first of" if path.name == names[0] else "was chosen among"
        notes.append(f"{path.name} {how} {len(names)} checkpoints: {listed(names)}.")
    return notes


def stamp(path: Path) -> tuple[tuple[str, int], ...]:
    """Return names and times of a model's files: two stamps differ when the model may have changed."""
    folders = (path, path / "checkpoints", path / "model")
    files = [path] if path.is_file() else [p for f in folders if f.is_dir() for p in f.iterdir() if p.is_file()]
    return tuple(sorted((str(p), p.stat().st_mtime_ns) for p in files))


def ordered_checkpoints(names: Iterable[str]) -> list[str]:
    """Return the names of .ckpt files, the preferred one first: final, best, last, then by training step, latest first."""

    def rank(name: str) -> tuple[int, int, str]:
        base = PurePosixPath(name).name
        steps = re.findall(r"step[=_-]?(\d+)", base) or re.findall(r"(\d+)", base)
        return _FIRST.get(base, 3), -int(steps[-1]) if steps else 0, name

    return sorted((n for n in names if n.endswith(".ckpt")), key=rank)


def preferred_checkpoint(names: Iterable[str]) -> str | None:
    """Return the first of `ordered_checkpoints`, or None."""
    return next(iter(ordered_checkpoints(names)), None)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _models_below(path: Path) -> tuple[str, ...]:
    """Return the folders below, to a small depth, that hold a model."""
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
