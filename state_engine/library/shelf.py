"""One kind of model in the library: what is listed, what comes in, what is removed; the same for every kind of card.

Boundary: cards and files, no torch. A model's folder holds only files that its kind knows. Everything comes in whole or not at all:
built hidden, then renamed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.checkpoints.head_card import HeadCard
from state_engine.config import Settings, gib
from state_engine.errors import CheckpointError, RequestError, StateError, door, listed
from state_engine.files import parse_json, read_json, size_on_disk, write_json
from state_engine.library.allowed import readable
from state_engine.library.foreign import call

AGAIN = "Import the model again."
HEADER_MOST_BYTES = 256 << 20
MOST_SEEN: Final = 512
C = TypeVar("C", ModelCard, EmbeddingCard, HeadCard)
# by kind, folder, and names, sizes and times of its files: the card that a child read, or why there is none
_SEEN: dict[tuple[object, ...], ModelCard | EmbeddingCard | HeadCard | StateError] = {}


@dataclass(frozen=True)
class Listed(Generic[C]):
    """A model of the library. `card` is None when the folder is damaged; `error` then says how."""

    path: Path
    card: C | None
    error: str = ""
    demo: bool = False
    nbytes: int = 0


@dataclass(frozen=True)
class Shelf(Generic[C]):
    """One kind of model.

    Args:
        kind: for people ("State Transition model").
        demo_name: folder of the bundled one in `settings.demo`.
        card_file: the file that marks the bundled one.
        files: what a folder may hold; nothing else comes in.
        read: reads the card of a folder.
        holds: whether a folder of the library is listed as this kind.
        needed: the safetensors files that a card needs; those of `optional` are checked when they are there.
        optional: further safetensors files.
        find_inside: where in a folder that is imported the model lies.
        id_with_names: the id of a card's weights and names, for weights that are there by other names.

    Raises:
        CheckpointError: by `find_inside`, when the folder holds no model of this kind in our format.
    """

    kind: str
    demo_name: str
    card_file: str
    files: tuple[str, ...]
    read: Callable[[Path], C]
    holds: Callable[[Path], bool]
    needed: Callable[[C], tuple[str, ...]]
    find_inside: Callable[[Path], Path]
    id_with_names: Callable[[C], str]
    optional: tuple[str, ...] = ()

    def entries(self, settings: Settings) -> tuple[Listed[C], ...]:
        """Return every model of this kind, the demo first, then by name. A damaged one is listed with its error."""
        there = settings.models.iterdir() if settings.models.is_dir() and not settings.shared else []
        found: list[Listed[C]] = [self._entry(p) for p in there if p.is_dir() and not p.name.startswith(".") and self.holds(p)]
        found.sort(key=lambda e: ((e.card.name if e.card else e.path.name).lower(), e.path))
        bundled = settings.demo / self.demo_name
        if (bundled / self.card_file).is_file():
            found.insert(0, self._entry(bundled, demo=True))
        return tuple(found)

    def find(self, settings: Settings, model_id: str) -> Listed[C]:
        """Return the model with an id.

        Raises:
            CheckpointError: there is none, or its folder is damaged.
        """
        entries = self.entries(settings)
        for entry in entries:
            if entry.card is not None and entry.card.id == model_id:
                return entry
        for entry in entries:
            if entry.card is None and entry.path.name.endswith(f"-{model_id}"):
                raise CheckpointError(f"The model '{model_id}' is damaged.", entry.error, AGAIN)
        raise CheckpointError(
            f"There is no model '{model_id}' in the library.",
            f"No {self.kind} has this id: it was removed, or never imported.",
            "Choose another.",
        )

    def remove(self, entry: Listed[C], settings: Settings) -> None:
        """Delete a model's folder, damaged or not. What it predicted or embedded stays.

        Raises:
            RequestError: the demo, or a folder that is not in the library.
        """
        settings.check_changes()
        if entry.demo or entry.path.resolve() == (settings.demo / self.demo_name).resolve():
            raise RequestError("The demo model belongs to the program.", "", "Leave it where it is.")
        inside = entry.path.parent.resolve() == settings.models.resolve() and not entry.path.is_symlink()
        if not inside or not entry.path.is_dir() or not self.holds(entry.path):
            raise RequestError(f"{entry.path.name} is not a folder of the model library.", "", "Reload the list of models.")
        # renamed first: a half-deleted model must not be listed
        doomed = settings.models / f".removed-{secrets.token_hex(4)}"
        entry.path.rename(doomed)
        shutil.rmtree(doomed)

    def import_directory(self, path: Path, settings: Settings) -> Listed[C]:
        """Copy a folder in our format from where it may be read. The same model twice gives the entry that is there.

        Raises:
            RequestError: the path may not be read.
            CheckpointError: it is not our format, or it is damaged.
        """
        folder = self.find_inside(readable(path, settings))
        with incoming(settings) as beside:
            total = 0
            for name in self.files:
                if (folder / name).is_file():
                    source = readable(folder / name, settings)  # a link must not lead out of what may be read
                    total += source.stat().st_size
                    check_size(total, settings)
                    shutil.copyfile(source, beside / name)
            return self.adopt(beside, settings)

    def adopt(self, folder: Path, settings: Settings) -> Listed[C]:
        """Move a complete folder in our format (on the same disk) to its place, unless the model is there already.

        Raises:
            CheckpointError: the folder is damaged.
        """
        with door(folder.name, CheckpointError, AGAIN):
            # a child parses everything first: only what came through is read here
            call(self.read, folder, path=folder)
            for weights in sorted(folder.glob("*.safetensors")):
                call(check_safetensors, weights, path=weights)
            card = self._checked_card(folder)
        known = [(entry, entry.card) for entry in self.entries(settings) if entry.card is not None]
        whole = self.id_with_names(card)
        there = next((entry for entry, other in known if self.id_with_names(other) == whole), None)
        if there is not None:
            return there
        if any(other.id == card.id for _, other in known):  # the same weights by other names are another model
            write_json(folder / self.card_file, read_json(folder / self.card_file) | {"id": whole})
            card = self._checked_card(folder)
        settings.models.mkdir(parents=True, exist_ok=True)
        target = settings.models / folder_name(card)
        if target.exists():  # the same model, damaged: the new one takes its place
            self.remove(Listed(target, None), settings)
        folder.rename(target)
        return self._entry(target)

    def _entry(self, path: Path, demo: bool = False) -> Listed[C]:
        try:
            with door(path.name, CheckpointError, AGAIN):
                card = self._card_apart(path, demo)
        except StateError as error:
            return Listed(path, None, str(error) or repr(error), demo, size_on_disk(path))
        return Listed(path, card, "", demo, size_on_disk(path))

    def _checked_card(self, folder: Path) -> C:
        """Return the card after a look for cheap signs of damage: a file missing, or of another length than its header says.

        Hashes of weights are compared when they are loaded.

        Raises:
            CheckpointError: with the file and the numbers.
        """
        card = self.read(folder)
        for name in self._parts(card, folder):
            check_safetensors(folder / name)
        return card

    def _card_apart(self, folder: Path, demo: bool = False) -> C:
        """Return what `_checked_card` does, read by a child process once for as long as no file of the folder changes.

        The demo is no foreign file: it is read here.
        """
        with os.scandir(folder) as inside:
            stamps = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in inside)
        key = (self.kind, folder, tuple(stamps))
        if key not in _SEEN:
            if len(_SEEN) >= MOST_SEEN:
                _SEEN.clear()
            try:
                _SEEN[key] = self._checked_card(folder) if demo else self._card_of_child(folder)
            except StateError as error:  # one that hangs or fills memory is not tried again for each page
                _SEEN[key] = error
        found = _SEEN[key]
        if isinstance(found, StateError):
            raise found
        return cast(C, found)

    def _card_of_child(self, folder: Path) -> C:
        card = call(self.read, folder, path=folder)
        for name in self._parts(card, folder):
            call(check_safetensors, folder / name, path=folder)
        return card

    def _parts(self, card: C, folder: Path) -> tuple[str, ...]:
        """Return the safetensors files of a model, once its id and their names are as they must be.

        Raises:
            CheckpointError: no valid id, or a file is missing.
        """
        # the id becomes part of a folder's name: from a foreign card it could be anything
        valid = (card.weights_hash[:12], self.id_with_names(card))
        if not re.fullmatch(r"[0-9a-f]{64}", card.weights_hash) or card.id not in valid:
            raise CheckpointError(f"The card of '{card.name}' has no valid id.", "It must be the start of its hash.", AGAIN)
        needed: tuple[str, ...] = self.needed(card)
        missing = [name for name in needed if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{listed(missing)} is missing in {folder.name}.", "", AGAIN)
        return (*needed, *(n for n in self.optional if (folder / n).is_file()))


def folder_name(card: ModelCard | EmbeddingCard | HeadCard) -> str:
    """Return the name of a model's folder: readable, and with the id so that two of one name can stand side by side."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', card.name).strip('-').lower()[:48] or 'model'}-{card.id}"


def check_safetensors(path: Path) -> None:
    """Check that a safetensors file is whole: 8 bytes length, a JSON header with the offsets, the numbers.

    Raises:
        CheckpointError: it is not.
    """
    size = path.stat().st_size
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_MOST_BYTES):
            raise CheckpointError(f"{path.name} is truncated or no safetensors file.", f"It has {size:,} bytes.", AGAIN)
        try:
            header = parse_json(source.read(length))
            ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
        except Exception as error:  # an endless number, a list in a list in a list: no list of types covers it
            raise CheckpointError(
                f"{path.name} has a damaged header.", f"{type(error).__name__}: {error}"[:200], AGAIN
            ) from error
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise CheckpointError(f"{path.name} has {size:,} bytes instead of {expected:,}.", "It was cut.", AGAIN)


@contextmanager
def incoming(settings: Settings) -> Iterator[Path]:
    """Make a hidden folder in the library, removed unless `adopt` renamed it."""
    settings.check_changes()
    settings.models.mkdir(parents=True, exist_ok=True)
    folder = settings.models / f".incoming-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_size(total: int, settings: Settings) -> None:
    """Check that a model is not larger than allowed, nor than the free disk.

    Raises:
        CheckpointError: it is.
    """
    if total > settings.max_file_bytes:
        raise CheckpointError(
            f"The model has {gib(total)}.", f"Allowed are {gib(settings.max_file_bytes)}.", "Raise STATE_EXPLORER_MAX_FILE_GB."
        )
    free = shutil.disk_usage(settings.models).free
    if total > free:
        raise CheckpointError(f"The model has {total:,} bytes.", f"Only {free:,} are free on disk.", "Make space first.")
