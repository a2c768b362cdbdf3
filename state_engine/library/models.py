"""The model library: a folder with one folder a model, the bundled demo beside it, and the ways in and out.

Boundary: cards and files, no torch. Foreign run directories are recognised (`what_is`) and then converted by `arc.convert`, in a
job. A model's folder holds the files of `STORE_FILES`. Everything comes in whole or not at all: built hidden, then renamed.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import is_embedding_store
from state_engine.checkpoints.recognise import REQUIRED, Found, candidates, what_is
from state_engine.checkpoints.store import CARD, FEATURES, WEIGHTS, model_folder, read_card
from state_engine.config import Settings
from state_engine.effects.store import EFFECTS
from state_engine.errors import CheckpointError, ModelError, RequestError, listed
from state_engine.files import replacing, size_on_disk
from state_engine.library.allowed import readable

__all__ = [
    "Entry", "Found", "candidates", "export_zip", "find", "import_directory", "import_zip", "list_models", "remove",
    "what_is",
]  # fmt: skip

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo" / "model"
STORE_FILES = (CARD, WEIGHTS, FEATURES, EFFECTS, "README.md", "LICENSE", "download.json")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
MOST_MEMBERS = 32
ANEW = "Import the model again."
CARD_MOST_BYTES = 256 << 20
COPY_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """A model of the library. `card` is None when the folder is damaged; `error` then says how."""

    path: Path
    card: ModelCard | None
    error: str = ""
    demo: bool = False
    nbytes: int = 0


def list_models(settings: Settings) -> tuple[Entry, ...]:
    """Every State Transition model of the library, the demo first, then by name. A damaged one is listed with its error; never raises for one."""
    folders = sorted(p for p in settings.models.iterdir() if _is_visible(p)) if settings.models.is_dir() else []
    folders = [p for p in folders if not is_embedding_store(p)]  # those are listed by `embedding_library`
    entries = sorted((_entry(p) for p in folders), key=lambda e: ((e.card.name if e.card else e.path.name).lower(), e.path))
    return ((_entry(DEMO, demo=True),) if (DEMO / CARD).is_file() else ()) + tuple(entries)


def find(settings: Settings, model_id: str) -> Entry:
    """The model with this id.

    Raises:
        CheckpointError: there is none, or its folder is damaged.
    """
    entries = list_models(settings)
    for entry in entries:
        if entry.card is not None and entry.card.id == model_id:
            return entry
    damaged = next((e for e in entries if e.card is None and e.path.name.endswith(f"-{model_id}")), None)
    if damaged is not None:
        raise CheckpointError(f"The model '{model_id}' is damaged.", damaged.error, ANEW)
    raise CheckpointError(
        f"There is no model '{model_id}' in the library.", "It was removed, or never imported.", "Choose another."
    )


def remove(entry: Entry, settings: Settings) -> None:
    """Deletes a model's folder, damaged or not.

    Raises:
        RequestError: the demo, or a folder that is not in the library.
    """
    if entry.demo or entry.path.resolve() == DEMO:
        raise RequestError("The demo model belongs to the program.", "", "Leave it where it is.")
    if entry.path.parent.resolve() != settings.models.resolve() or not entry.path.is_dir() or entry.path.is_symlink():
        raise RequestError(f"{entry.path.name} is not a folder of the model library.", "", "Reload the list of models.")
    # Renamed first: a half-deleted model must not be listed.
    doomed = settings.models / f".removed-{secrets.token_hex(4)}"
    entry.path.rename(doomed)
    shutil.rmtree(doomed)


def import_directory(path: Path, settings: Settings) -> Entry:
    """Copies a folder of our own format from where `library.allowed` permits. The same weights twice give the entry that is there.

    Raises:
        RequestError: the path is not allowed.
        CheckpointError: it is not our format (an arc run directory is converted instead), or it is damaged.
    """
    folder = readable(path, settings)
    found = what_is(folder)
    if found.kind != "store":
        fix = "Convert it." if found.kind == "arc" else "Choose the folder of one model."
        raise CheckpointError(f"{folder.name} is not a model in STATE Explorer's own format.", found.reason, fix)
    inner = model_folder(folder)
    with incoming(settings) as beside:
        total = 0
        for name in STORE_FILES:
            source = inner / name
            if source.is_file():
                # A link inside the folder must not lead out of what may be read.
                real = readable(source, settings)
                total += real.stat().st_size
                check_size(total, settings)
                shutil.copyfile(real, beside / name)
        return adopt(beside, settings)


def import_zip(path: Path, settings: Settings) -> Entry:
    """Unpacks a zip of our own format into the library. The same weights twice give the entry that is there.

    Raises:
        CheckpointError: not a zip, other files than `STORE_FILES`, links, encryption, too large, damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive, incoming(settings) as beside:
            for name, member in _members(archive, settings).items():
                with archive.open(member) as source, (beside / name).open("wb") as target:
                    _copy(source, target, member.file_size, name)
            return adopt(beside, settings)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"{path.name} is not a readable zip file.", str(error), "Export the model again.") from error


def export_zip(entry: Entry, out: Path) -> Path:
    """Writes a model as a zip that `import_zip` reads; the same model gives the same bytes.

    Raises:
        CheckpointError: the model is damaged.
    """
    if entry.card is None:
        raise CheckpointError(f"{entry.path.name} cannot be exported.", entry.error, "Import the model again first.")
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(n for n in STORE_FILES if (entry.path / n).is_file()):
            member = zipfile.ZipInfo(name, ZIP_DATE)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.create_system = 3
            member.file_size = (entry.path / name).stat().st_size
            with (entry.path / name).open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, COPY_CHUNK)
    return out


def folder_name(card: ModelCard) -> str:
    """Name of a model's folder."""
    return named_folder(card.name, card.id)


def named_folder(name: str, identity: str) -> str:
    """Readable, and with the id so that two of one name can stand side by side."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-').lower()[:48] or 'model'}-{identity}"


# Behind


def _is_visible(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _entry(path: Path, demo: bool = False) -> Entry:
    try:
        card = _checked_card(path)
    except (ModelError, OSError) as error:
        return Entry(path, None, str(error) or repr(error), demo, size_on_disk(path))
    return Entry(path, card, "", demo, size_on_disk(path))


def _checked_card(folder: Path) -> ModelCard:
    """The card, after a look for cheap signs of damage: a file missing, or of another length than its header says.

    Hashes of weights are compared when they are loaded.

    Raises:
        CheckpointError: with the file and the numbers.
    """
    card = read_card(folder)
    # The id becomes part of a folder's name: from a foreign card it could be anything.
    if not re.fullmatch(r"[0-9a-f]{64}", card.weights_hash) or card.id != card.weights_hash[:12]:
        raise CheckpointError(f"The card of '{card.name}' has no valid id.", "It must be the start of its hash.", ANEW)
    names = (*REQUIRED, FEATURES) if card.perturbation_encoding == "features" else REQUIRED
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{listed(missing)} is missing in {folder.name}.", "", ANEW)
    for name in (*names[1:], EFFECTS):
        if name != EFFECTS or (folder / name).is_file():
            check_safetensors(folder / name)
    return card


def check_safetensors(path: Path) -> None:
    """Raises CheckpointError when the file is not whole. Layout: 8 bytes length, a JSON header with the offsets, the numbers."""
    size = path.stat().st_size
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(size - 8, CARD_MOST_BYTES):
            raise CheckpointError(f"{path.name} is truncated or no safetensors file.", f"It has {size:,} bytes.", ANEW)
        try:
            header = json.loads(source.read(length))
            ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise CheckpointError(f"{path.name} has a damaged header.", repr(error), ANEW) from error
    expected = 8 + length + max(ends, default=0)
    if expected != size:
        raise CheckpointError(f"{path.name} has {size:,} bytes instead of {expected:,}.", "It was cut.", ANEW)


@contextmanager
def incoming(settings: Settings) -> Iterator[Path]:
    """A hidden folder in the library, removed unless `adopt` renamed it."""
    settings.models.mkdir(parents=True, exist_ok=True)
    folder = settings.models / f".incoming-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def adopt(folder: Path, settings: Settings) -> Entry:
    """Moves a complete folder of our own format (on the same disk) to its place in the library, unless the model is there already.

    Raises:
        CheckpointError: the folder is damaged.
    """
    card = _checked_card(folder)
    there = next((e for e in list_models(settings) if e.card is not None and e.card.id == card.id), None)
    if there is not None:
        return there
    target = settings.models / folder_name(card)
    if target.exists():  # the same model, damaged: the new one takes its place
        remove(Entry(target, None), settings)
    folder.rename(target)
    return _entry(target)


def _members(archive: zipfile.ZipFile, settings: Settings) -> dict[str, zipfile.ZipInfo]:
    """The files to unpack by their plain name. One folder around them is accepted."""
    members = [m for m in archive.infolist() if not m.is_dir()]
    if len(archive.infolist()) > MOST_MEMBERS:
        raise CheckpointError(f"The zip has {len(archive.infolist()):,} members.", "A model has a handful.", "Export it again.")
    chosen: dict[str, zipfile.ZipInfo] = {}
    tops = {str(PurePosixPath(m.filename).parent) for m in members}
    for member in members:
        name = PurePosixPath(member.filename).name
        _check_member(member, name, tops)
        if name in chosen:
            raise CheckpointError(f"The zip holds {name} twice.", "", "Export the model again.")
        chosen[name] = member
    missing = [name for name in REQUIRED if name not in chosen]
    if missing:
        raise CheckpointError(
            f"The zip lacks {listed(missing)}.", "It is no model of STATE Explorer.", "Export one from its library."
        )
    check_size(sum(m.file_size for m in members), settings)
    return chosen


def _check_member(member: zipfile.ZipInfo, name: str, tops: set[str]) -> None:
    path = PurePosixPath(member.filename)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename or ":" in member.filename
    if unsafe or len(tops) > 1 or len(path.parts) > 2 or name not in STORE_FILES:
        raise CheckpointError(
            f"The zip holds {member.filename!r}.", f"A model has only {listed(STORE_FILES, 9)}.", "Nothing was unpacked."
        )
    if (mode := member.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise CheckpointError(f"{name} in the zip is a link or a device.", "", "Nothing was unpacked.")
    if member.flag_bits & 1:
        raise CheckpointError("The zip is encrypted.", "", "Export it without a password.")
    if name == CARD and member.file_size > CARD_MOST_BYTES:
        raise CheckpointError(
            f"{CARD} in the zip has {member.file_size:,} bytes.", "A card is far smaller.", "Nothing was unpacked."
        )


def check_size(total: int, settings: Settings) -> None:
    """Raises CheckpointError when a model is larger than allowed, or than the free disk."""
    if total > settings.max_file_bytes:
        raise CheckpointError(
            f"The model has {total:,} bytes.", f"Allowed are {settings.max_file_bytes:,}.", "Raise STATE_EXPLORER_MAX_FILE_GB."
        )
    free = shutil.disk_usage(settings.models).free
    if total > free:
        raise CheckpointError(f"The model has {total:,} bytes.", f"Only {free:,} are free on disk.", "Make space first.")


def _copy(source: IO[bytes], target: IO[bytes], size: int, name: str) -> None:
    """Copies at most the declared size: a zip may hold more than it declares."""
    left = size
    while chunk := source.read(min(COPY_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise CheckpointError(f"{name} in the zip is longer than it declares.", "", "Nothing was unpacked.")
        target.write(chunk)
