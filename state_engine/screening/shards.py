"""The predictions of a screen on the disk: means and a sample of cells, a shard for each context and block of perturbations.

    shards/screen.json        what was predicted (`ShardKey`); a folder holds one screen
    shards/C-BBBB.npz         context C, block B: perturbations (k,) str, effects (k, g), folds (k, g) float32, up, down (k,) int64
    shards/C-BBBB.h5ad        the first cells of each condition and their basal cells, in the layout of a result
    shards/C-BBBB.json        sizes and sha256 of the two, written last: without it the block is predicted again
    shards/C-control.*        control cells of the context; no effects

Each file appears only when it is complete, so a screen that was killed goes on with the first block that is not done.

Notation: k perturbations, g genes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.errors import RequestError, RunError
from state_engine.files import read_json, remove_parts, replacing, sha256_of, write_json
from state_engine.plain import read_json_as, to_plain

SHARDS: Final = "shards"
KEY: Final = "screen.json"
CONTROL: Final = "control"


@dataclass(frozen=True)
class ShardKey:
    """What predictions depend on; shards of equal keys hold the same numbers.

    Args:
        data_hash, weights_hash, effects_hash: of the files.
        choices: how the data set is read, as JSON values.
        perturbations, contexts: all of them, in order.
        blocks: perturbations of a block.
        cells, sample, seed, set_size, method, precision: of the request.
        allow_other_embedding: of the request.
        format: of the files.
    """

    data_hash: str
    weights_hash: str
    effects_hash: str
    choices: str
    perturbations: tuple[str, ...]
    contexts: tuple[str, ...]
    blocks: int
    cells: int
    sample: int
    seed: int
    set_size: int
    method: str
    precision: str
    allow_other_embedding: bool
    format: int = 1


@dataclass(frozen=True)
class Done:
    """Sizes in bytes and sha256 of the files of a shard, by ending."""

    files: dict[str, tuple[int, str]]


@dataclass(frozen=True, eq=False)
class Block:
    """Effects of a shard.

    Args:
        perturbations: (k,).
        effects: (k, g) float32 difference of mean log1p expression.
        folds: (k, g) float32 log2 fold changes.
        up, down: (k,) genes that change.
    """

    perturbations: tuple[str, ...]
    effects: NDArray[np.float32]
    folds: NDArray[np.float32]
    up: NDArray[np.int64]
    down: NDArray[np.int64]


class Shards:
    """The shards of a screen.

    Args:
        output: folder of the screen.
        key: what is predicted.
    """

    def __init__(self, output: Path, key: ShardKey) -> None:
        self.folder, self.key = output / SHARDS, key
        self._whole = set[Path]()  # notes whose files were found as they were written: they are hashed once

    @property
    def blocks(self) -> list[tuple[str, ...]]:
        """Perturbations of each block."""
        names = self.key.perturbations
        return [names[i : i + self.key.blocks] for i in range(0, len(names), self.key.blocks)]

    def begin(self) -> None:
        """Make the folder, or make sure that what is in it belongs to this screen.

        Raises:
            RequestError: it holds another screen.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        there = read_json_as(ShardKey, self.folder / KEY, "screen", "Choose another folder.")
        if there is not None and there != self.key:
            raise RequestError(
                f"{self.folder.parent.name} holds another screen.",
                f"It differs by {', '.join(differences(there, self.key))}.",
                "Choose another folder for this one, or remove the old one.",
            )
        write_json(self.folder / KEY, to_plain(self.key))
        remove_parts(self.folder)  # of a process that was killed

    def take(self, earlier: Path) -> None:
        """Take over the shards of an earlier screen of the same predictions, as links where the disk allows it.

        Raises:
            RequestError: it is none, or one of other predictions.
        """
        there = read_json_as(ShardKey, earlier / SHARDS / KEY, "screen", "Run the screen again.")
        if there is None:
            raise RequestError(f"{earlier.name} holds no screen.", f"It has no {SHARDS}/{KEY}.", "Give the folder of a screen.")
        if there != self.key:
            raise RequestError(
                f"The screen in {earlier.name} predicted something else.",
                f"It differs by {', '.join(differences(there, self.key))}.",
                "Only the goal may differ. Leave --earlier out to predict.",
            )
        for file in sorted((earlier / SHARDS).iterdir()):
            target = self.folder / file.name
            if file.suffix in (".npz", ".h5ad", ".json") and file.is_file() and not target.exists():
                _link(file, target)

    def place(self, context: str, block: int | str, ending: str) -> Path:
        """Return where a file of a shard is."""
        number = block if isinstance(block, str) else f"{block:04d}"
        return self.folder / f"{self.key.contexts.index(context)}-{number}{ending}"

    def done(self, context: str, block: int | str) -> bool:
        """Return whether a shard is complete: its files have the sizes and checksums that were noted."""
        note = self.place(context, block, ".json")
        if note in self._whole:
            return True
        try:
            found = {ending: (int(size), str(digest)) for ending, (size, digest) in read_json(note)["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        files = {ending: self.place(context, block, ending) for ending in found}
        whole = all(path.is_file() and (path.stat().st_size, sha256_of(path)) == found[e] for e, path in files.items())
        if whole:
            self._whole.add(note)
        return whole

    def finish(self, context: str, block: int | str) -> None:
        """Note that the files of a shard are complete."""
        files = [self.place(context, block, ending) for ending in (".npz", ".h5ad")]
        noted = {path.suffix: (path.stat().st_size, sha256_of(path)) for path in files if path.exists()}
        write_json(self.place(context, block, ".json"), to_plain(Done(noted)))

    def write(self, context: str, block: int, found: Block) -> None:
        """Write the effects of a shard."""
        with replacing(self.place(context, block, ".npz")) as beside, beside.open("wb") as file:
            np.savez(
                file, perturbations=np.array(found.perturbations, str), effects=found.effects, folds=found.folds, up=found.up,
                down=found.down,
            )  # fmt: skip

    def read(self, context: str, block: int) -> Block:
        """Return the effects of a shard.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.place(context, block, ".npz")
        try:
            with np.load(path, allow_pickle=False) as stored:
                names = tuple(stored["perturbations"].tolist())
                return Block(names, stored["effects"], stored["folds"], stored["up"], stored["down"])
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{path.name} cannot be read.", "It is missing or damaged.", "Run the screen again.") from error

    def read_context(self, context: str) -> Block:
        """Return the effects of all perturbations in a context."""
        parts = [self.read(context, block) for block in range(len(self.blocks))]
        names = tuple(p for part in parts for p in part.perturbations)
        effects, folds = np.concatenate([p.effects for p in parts]), np.concatenate([p.folds for p in parts])
        return Block(names, effects, folds, np.concatenate([p.up for p in parts]), np.concatenate([p.down for p in parts]))


def differences(one: ShardKey, other: ShardKey) -> Sequence[str]:
    """Return in what two screens differ, in words."""
    first, second = to_plain(one), to_plain(other)
    return [name.replace("_", " ") for name in first if first[name] != second[name]]


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without links
        with replacing(target) as beside:
            shutil.copyfile(file, beside)
