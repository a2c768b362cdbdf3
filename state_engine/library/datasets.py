"""The data sets of this installation: an id for each, where its file lies, and what the user said about it.

An upload is copied to disk at once, a server's file is only pointed to, the demo is always there. Pages hold ids.
Layout: HOME/datasets/ID.json (a `DataEntry`), HOME/uploads/ID.h5ad (uploads, and what was made here).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from state_engine.config import DEMO, Settings, gib
from state_engine.data.dataset import Choices
from state_engine.data.files.folder_archive import FOLDER, zip_of_folder
from state_engine.data.files.other_formats import MATRIX, ZARR_ROOT
from state_engine.errors import ConfigError, DataError, UnsafeFileError
from state_engine.files import full_disk_told, read_json, replacing
from state_engine.library.foreign import OPENING, SLOWEST, call, open_foreign
from state_engine.library.other_formats import as_h5ad, write_h5ad
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.sandbox import Limits
from state_engine.sandbox.limits import MB

DEMO_ID = "demo"
DEMO_PATH = DEMO / "demo.h5ad"
BLOCK = 1 << 20
NAMES = (".h5ad", ".h5mu", ".h5ad.gz", ".zarr.zip", "_matrix.h5")  # ends of names that are offered of a server's files
_ID = re.compile(r"[a-z0-9]{4,24}")


@dataclass(frozen=True)
class DataEntry:
    """A data set that was opened once.

    Args:
        origin: upload, server, public (fetched), made (here, such as an embedding) or demo.
        created: ISO time (UTC).
    """

    id: str
    name: str
    path: str
    origin: str
    created: str
    choices: Choices = Choices()


def demo_entry() -> DataEntry:
    """The simulated data set that comes with STATE Explorer."""
    return DataEntry(DEMO_ID, "Demo: simulated PBMC screen", str(DEMO_PATH), "demo", "2026-11-22T00:00:00+00:00")


def receive_upload(
    settings: Settings, name: str, stream: BinaryIO, size: int, on_progress: OnProgress = silent,
    opened: Callable[[Path, str], object] | None = None,
) -> DataEntry:  # fmt: skip
    """Copy an upload to disk, open it in a child process, and give it an id. What cannot be opened leaves nothing.

    Args:
        settings: where uploads lie.
        name: file name as the user knows it.
        stream: the bytes.
        size: their number.
        on_progress: is told how much was copied.
        opened: opens the copy, given its path and the user's name; default: `open_foreign`.

    Raises:
        UnsafeFileError: the file is larger than the limit.
        DataError: the disk has no room for it, or it cannot be opened.
    """
    name = Path(name).name
    if size > settings.max_file_bytes:
        raise UnsafeFileError(
            f"{name} has {gib(size)}.",
            f"Files up to {gib(settings.max_file_bytes)} are accepted here.",
            "Choose fewer cells, or have the limit raised (STATE_EXPLORER_MAX_FILE_GB).",
        )
    settings.uploads.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.uploads).free
    if size > free:
        raise DataError(f"{name} needs {size / 1e9:.1f} GB.", f"{free / 1e9:.1f} GB of disk are free.", "Make room first.")
    identity = secrets.token_hex(6)
    target = settings.uploads / f"{identity}.h5ad"
    with full_disk_told(settings.uploads, DataError), replacing(target) as beside, beside.open("wb") as out:
        done = 0
        while block := stream.read(BLOCK):
            out.write(block)
            done += len(block)
            on_progress(Progress("Copying the upload", done, size, unit="bytes"))
    return _taken(settings, name, target, on_progress, opened)


def adopt_upload(settings: Settings, name: str, path: Path, opened: Callable[[Path, str], object] | None = None) -> DataEntry:
    """Move a file that was uploaded (on the same disk) to the data sets, open it in a child process, and give it an id.

    What cannot be opened, or is interrupted, is at its old place again. For `name` and `opened` see `receive_upload`. A folder came as
    NAME.folder.tar.

    Raises:
        DataError: it cannot be opened.
    """
    settings.uploads.mkdir(parents=True, exist_ok=True)
    target = settings.uploads / f"{secrets.token_hex(6)}.h5ad"
    if name.endswith(FOLDER):
        name = name.removesuffix(FOLDER)
        limits = Limits(OPENING.seconds + 2 * path.stat().st_size / SLOWEST, written_mb=settings.max_file_bytes // MB + 1)
        with replacing(target) as beside:
            call(zip_of_folder, path, beside, name, path=path, name=name, limits=limits, writes=(settings.uploads,))
        return _taken(settings, name, target, silent, opened)
    path.replace(target)
    return _taken(settings, name, target, silent, opened, path)


def _taken(
    settings: Settings,
    name: str,
    target: Path,
    on_progress: OnProgress,
    opened: Callable[[Path, str], object] | None,
    back: Path | None = None,
) -> DataEntry:
    """Open what lies among the uploads now, converted where need be, and give it an id; else remove it, or put it `back`."""
    try:
        if Path(name).suffix != ".h5ad":
            on_progress(Progress("Converting the upload"))
            with full_disk_told(settings.uploads, DataError):
                write_h5ad(target, target, settings, name)
        if opened is None:
            open_foreign(target, settings=settings, name=name)
        else:
            opened(target, name)
    except BaseException:  # a session that ends, or a page that runs again, is no reason to keep the copy either
        if back is not None:
            target.replace(back)
        else:
            target.unlink(missing_ok=True)
        raise
    return _save(settings, DataEntry(target.stem, name, str(target), "upload", _now()))


def register_file(settings: Settings, path: Path, opened: Callable[[Path, str], object] | None = None) -> DataEntry:
    """Give a file on the server an id, once it could be opened in a child process; the same file gets the same entry again.

    Raises:
        UnsafeFileError: the file is not below an allow-listed folder.
        DataError: it cannot be opened.
    """
    given = path.resolve()
    if not settings.serves(given):
        raise UnsafeFileError(f"{path.name} is outside the data folders.", "", "Add its folder to STATE_EXPLORER_DATA.")
    real = as_h5ad(given, settings)
    known = next((e for e in list_datasets(settings) if e.path == str(real)), None)
    if known is not None:
        return known
    if opened is None:
        open_foreign(real, settings=settings, name=given.name)
    else:
        opened(real, given.name)
    # a copy that was made here goes when it is forgotten
    origin = "server" if real == given else "made"
    return _save(settings, DataEntry(secrets.token_hex(6), given.name, str(real), origin, _now()))


def register_public(settings: Settings, path: Path, name: str) -> DataEntry:
    """Gives a file of a public data set an id; the same file gets the same entry again, and stays when it is forgotten."""
    real = path.resolve()
    known = next((e for e in list_datasets(settings) if e.path == str(real)), None)
    return known or _save(settings, DataEntry(secrets.token_hex(6), name, str(real), "public", _now()))


def register_made(settings: Settings, name: str, path: Path, choices: Choices) -> DataEntry:
    """Takes over a file that a job made (it is moved beside the uploads) and gives it an id; `choices` are those of its source."""
    settings.uploads.mkdir(parents=True, exist_ok=True)
    identity = secrets.token_hex(6)
    target = settings.uploads / f"{identity}.h5ad"
    path.replace(target)
    return _save(settings, DataEntry(identity, name, str(target), "upload", _now(), choices))


def keep_made(settings: Settings, path: Path, name: str, choices: Choices) -> DataEntry:
    """Moves a file that was made here to the data sets and gives it an id; it is deleted when it is forgotten."""
    settings.uploads.mkdir(parents=True, exist_ok=True)
    identity = secrets.token_hex(6)
    target = settings.uploads / f"{identity}.h5ad"
    shutil.move(path, target)
    return _save(settings, DataEntry(identity, name, str(target), "made", _now(), choices))


def server_files(settings: Settings) -> tuple[Path, ...]:
    """The data sets below the allow-listed folders by their names, sorted: .h5ad, what is converted, and folders that hold one."""
    found = {p for folder in settings.data_folders if folder.is_dir() for p in _data_below(folder)}
    return tuple(sorted(p for p in found if settings.serves(p.resolve())))


def _data_below(folder: Path) -> Iterator[Path]:
    """Yield what looks like a data set; what lies in a folder that is one is not looked at."""
    for place, folders, names in os.walk(folder):
        if {*names} & {*ZARR_ROOT, *MATRIX}:
            folders.clear()
            yield Path(place)
            continue
        yield from (path for name in names if name.endswith(NAMES) and (path := Path(place, name)).is_file())


def list_datasets(settings: Settings) -> tuple[DataEntry, ...]:
    """All entries, newest first, the demo last. Damaged entries are left out."""
    if settings.shared:
        return (demo_entry(),)
    folder = settings.home / "datasets"
    entries = []
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            entries.append(from_plain(DataEntry, read_json(path)))
        except (ConfigError, ValueError):
            continue
    entries = [e for e in entries if e.id != DEMO_ID]
    return (*sorted(entries, key=lambda e: e.created, reverse=True), demo_entry())


def get_dataset(settings: Settings, identity: str) -> DataEntry:
    """The entry of an id.

    Raises:
        DataError: there is none.
    """
    if not _ID.fullmatch(identity):
        raise DataError("That is not the id of a data set.", "", "Choose a data set on the Data page.")
    path = settings.home / "datasets" / f"{identity}.json"
    if settings.shared and identity != DEMO_ID:
        path = settings.home / "datasets" / "not-shared"
    if identity == DEMO_ID and not path.exists():
        return demo_entry()
    if not path.exists():
        raise DataError("This data set is not here any more.", "", "Choose or upload another on the Data page.")
    try:
        return from_plain(DataEntry, read_json(path))
    except (ConfigError, ValueError) as error:
        raise DataError("What was noted about this data set cannot be read.", str(error), "Upload it again.") from error


def set_choices(settings: Settings, identity: str, choices: Choices) -> DataEntry:
    """Remembers what the user said about a data set."""
    return _save(settings, replace(get_dataset(settings, identity), choices=choices))


def _save(settings: Settings, entry: DataEntry) -> DataEntry:
    settings.check_changes()
    folder = settings.home / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{entry.id}.json") as beside:
        beside.write_text(json.dumps(to_plain(entry), indent=1))
    return entry


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
