"""Uploads on their way: bytes that come in pieces, each whole on disk before the next one counts, so that one that stopped goes on.

HOME/incoming/ID/note.json     `Arriving`
HOME/incoming/ID/part          the bytes that are there

The name of the folder is drawn by the browser from the file's name, size and time: the same file chosen again goes on where it stopped.
Boundary: bytes and their number. What they are is found out when they are all there, by whoever takes them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from state_engine.config import Settings, gib
from state_engine.errors import ConfigError, DataError, QuotaError, RequestError, UnsafeFileError
from state_engine.files import full_disk_told, read_json, sha256_of, write_json
from state_engine.library.people import check_disk, check_quota
from state_engine.plain import from_plain, to_plain

PIECE: Final = 16 << 20  # most bytes at once
MOST: Final = 500  # of an owner, on their way
KEPT_SECONDS: Final = 3 * 86400.0  # what nobody goes on with
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Arriving:
    """A file on its way.

    Args:
        id: of the upload.
        name: of the file, as its user knows it.
        size: bytes of it.
        box: which uploader of which page it is meant for.
        session: of the browser's tab that sends it and takes it.
    """

    id: str
    name: str
    size: int
    box: str
    session: str = ""


def begin(settings: Settings, upload: Arriving) -> int:
    """Return how many bytes of an upload are there already: 0 for a new one, for which there is room.

    Raises:
        UnsafeFileError: it is larger than files may be. QuotaError, DataError: the owner or the disk has no room for it.
        RequestError: no id, no name, or too many are on their way.
    """
    settings.check_changes()
    folder = _folder(settings, upload.id)
    known = _note(folder)
    if known is not None and replace(known, session=upload.session) == upload:
        return offset(settings, upload.id, upload.session)
    name = PurePosixPath(upload.name.replace("\\", "/")).name
    if not name or name != upload.name or len(name) > 255 or upload.size < 0:
        raise RequestError("That is not the name of a file.", "", "Rename it.")
    if upload.size > settings.max_file_bytes:
        raise UnsafeFileError(
            f"{name} has {gib(upload.size)}.",
            f"Files up to {gib(settings.max_file_bytes)} are accepted here.",
            "Choose fewer cells, or have the limit raised (STATE_EXPLORER_MAX_FILE_GB).",
        )
    shutil.rmtree(folder, ignore_errors=True)
    others = _all(settings)
    if len(others) >= MOST:
        raise QuotaError("Too many files are on their way.", f"{MOST} are.", "Wait until they are there.")
    coming = sum(other.size - (_folder(settings, other.id) / "part").stat().st_size for other in others)
    check_quota(settings, upload.size + coming)
    folder.mkdir(parents=True)
    try:
        check_disk(folder, upload.size + coming, name)
        (folder / "part").touch()
        write_json(folder / "note.json", to_plain(upload))  # last: what has no note is not there
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return 0


def offset(settings: Settings, identity: str, session: str) -> int:
    """Return how many bytes of an upload are there; 0 for one that is not. From now on it is this session's, as after a reload.

    Raises:
        RequestError: no id of an upload.
    """
    folder = _folder(settings, identity)
    note = _note(folder)
    if note is None:
        return 0
    if note.session != session:
        write_json(folder / "note.json", to_plain(replace(note, session=session)))
    return (folder / "part").stat().st_size


class Piece:
    """The next bytes of an upload. They count once `keep` was called; otherwise they are gone at the end of the block.

    Args:
        settings: of the owner.
        identity: of the upload.
        start: how many bytes are there, as whoever sends them believes.

    Raises:
        RequestError: another number of bytes is there, or more come than were declared.
    """

    def __init__(self, settings: Settings, identity: str, start: int) -> None:
        self._folder, self._start, self._whole = _folder(settings, identity), start, False
        note = _note(self._folder)
        if note is None or (self._folder / "part").stat().st_size != start:
            raise RequestError("These are not the next bytes of the upload.", "", "Ask how many are there.")
        self._most, self._done, self._sum = note.size, start, hashlib.sha256()

    def __enter__(self) -> Piece:
        self._file = (self._folder / "part").open("r+b", buffering=0)
        self._file.seek(self._start)
        return self

    def __exit__(self, *error: object) -> None:
        if not self._whole:
            self._file.truncate(self._start)
        self._file.close()

    def write(self, block: bytes) -> None:
        """Write bytes.

        Raises:
            RequestError: the file is longer than declared. DataError: the disk is full.
        """
        if self._done + len(block) > self._most or self._done + len(block) - self._start > PIECE:
            raise RequestError("More bytes came than were declared.", "The file was changed meanwhile.", "Choose it again.")
        with full_disk_told(self._folder, DataError):
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
        self._sum.update(block)
        self._done += len(block)

    def keep(self, checksum: str = "") -> int:
        """Let the bytes count; return how many are there now.

        Args:
            checksum: sha256 of the piece, hex; "" when whoever sent it knows none.

        Raises:
            RequestError: other bytes came than were sent.
        """
        if checksum and checksum != self._sum.hexdigest():
            raise RequestError("The bytes were damaged on their way.", "Their checksum differs.", "Send them again.")
        self._whole = True
        return self._done


def check_whole(settings: Settings, identity: str, checksum: str) -> None:
    """Compare an upload that is there with the sha256 of the file; one that differs is dropped.

    Raises:
        RequestError: it differs.
    """
    if sha256_of(_folder(settings, identity) / "part") != checksum.lower():
        drop(settings, identity)
        raise RequestError("The file was damaged on its way.", "Its checksum differs.", "Upload it again.")


def arrived(settings: Settings, box: str, session: str) -> tuple[tuple[Arriving, Path], ...]:
    """Return what a session sent whole to a box, by name, each with its place."""
    found = [(one, _folder(settings, one.id) / "part") for one in _all(settings) if (one.box, one.session) == (box, session)]
    return tuple(sorted(((one, place) for one, place in found if place.stat().st_size == one.size), key=lambda f: f[0].name))


def drop(settings: Settings, identity: str) -> None:
    """Remove what is left of an upload.

    Raises:
        RequestError: no id of an upload.
    """
    shutil.rmtree(_folder(settings, identity), ignore_errors=True)


def _all(settings: Settings) -> list[Arriving]:
    """Return what is on its way; what nobody went on with for days goes."""
    found = []
    for folder in (settings.home / "incoming").glob("*"):
        note = _note(folder)
        if note is not None and time.time() - (folder / "part").stat().st_mtime < KEPT_SECONDS:
            found.append(note)
        elif time.time() - folder.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _note(folder: Path) -> Arriving | None:
    try:
        return from_plain(Arriving, read_json(folder / "note.json")) if (folder / "part").is_file() else None
    except (OSError, ValueError, ConfigError):
        return None


def _folder(settings: Settings, identity: str) -> Path:
    if not _ID.fullmatch(identity):
        raise RequestError("That is not the id of an upload.", "", "Choose the file again.")
    return settings.home / "incoming" / identity
