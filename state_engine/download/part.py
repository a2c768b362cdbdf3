"""What has arrived of a file: the part on disk, which bytes it holds, and the check of the whole.

Boundary: files and bytes; nothing is asked of a server.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from state_engine.config import Settings
from state_engine.download.remote import RemoteFile
from state_engine.errors import ConfigError, DownloadError
from state_engine.files import read_json, write_json
from state_engine.plain import from_plain, to_plain

Report = Callable[[int, int], None]  # bytes done, bytes of the file (0: not known)


def silent(done: int, total: int) -> None:
    """Ignore a report."""


@dataclass(frozen=True)
class Arrived:
    """A file that is whole on this machine.

    Args:
        name, size, sha256: of the file as it lies here; bytes and hex.
        url: where it came from; "" when it was here already.
        checked: how it was compared with what is known of it, in words.
    """

    name: str
    size: int
    sha256: str
    url: str
    checked: str


@dataclass(frozen=True)
class Origin:
    """Which bytes a part holds. `validator` is a strong ETag or a date; "" when the server gives neither. `size` -1: not told."""

    url: str
    validator: str
    size: int


@contextmanager
def alone(part: Path, file: RemoteFile) -> Iterator[BinaryIO]:
    """Open the part for writing by one process at a time; the lock goes with the process."""
    with part.open("ab") as out:
        try:
            fcntl.flock(out.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(
                f"{file.name} is being downloaded already.", "Another process writes it.", "Wait for it."
            ) from error
        yield out


def note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def read_note(part: Path) -> Origin | None:
    """Return what the part is; None when it cannot be told, and then the part is worth nothing."""
    try:
        return from_plain(Origin, read_json(note_of(part)))
    except (OSError, ValueError, ConfigError):
        return None


def begin(file: RemoteFile, part: Path, out: BinaryIO, origin: Origin, start: int) -> None:
    """Forget what the part held when the server does not continue it, and note which bytes come now."""
    if file.size is not None and origin.size >= 0 and origin.size != file.size:
        than = "longer than" if origin.size > file.size else "shorter than"
        raise DownloadError(
            f"{file.name} has another size than is known of it.",
            f"The server offers {origin.size:,} bytes, {than} the {file.size:,} bytes that are known.",
            "It may have been replaced by its publisher: look at its source page.",
        )
    out.truncate(start)
    out.seek(start)
    write_json(note_of(part), to_plain(origin))


def check_room(file: RemoteFile, part: Path, total: int, start: int, settings: Settings) -> None:
    if total > settings.max_file_bytes:
        raise DownloadError(
            f"{file.name} has {total / 1e9:.1f} GB.",
            f"This installation accepts {settings.max_file_bytes / 1e9:.1f} GB.",
            "Raise STATE_EXPLORER_MAX_FILE_GB.",
        )
    needed = max(total - start, 0) + (file.unpacked or 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        unpacked = ", unpacked" if file.unpacked else ""
        raise DownloadError(
            f"{file.name} needs {needed / 1e9:.1f} GB more{unpacked}.", f"{free / 1e9:.1f} GB are free.", "Make room first."
        )


def check_whole(file: RemoteFile, path: Path, url: str, verifying: Report) -> Arrived:
    """Read the whole file and compare it with what is known; one that differs is set aside, never used."""
    size, done = path.stat().st_size, 0
    found: dict[str, Any] = {
        "sha256": hashlib.sha256(),
        "md5": hashlib.md5(usedforsecurity=False),
        "git_sha1": hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False),
    }
    declared = {"sha256": file.sha256, "md5": file.md5, "git_sha1": file.git_sha1}
    wanted = {name: digest for name, digest in found.items() if name == "sha256" or declared[name] is not None}
    with path.open("rb") as source:
        while block := source.read(1 << 22):
            for digest in wanted.values():
                digest.update(block)
            done += len(block)
            verifying(done, size)
    got = {name: digest.hexdigest() for name, digest in wanted.items()}
    problems = [f"The size is {size}, not {file.size}"] if file.size not in (None, size) else []
    problems += [
        f"It has another hash: its {name} is {got[name]}, not {known}"
        for name, known in declared.items()
        if known is not None and known != got[name]
    ]
    if problems:
        aside = path.with_name(f"{Path(file.name).name}.refused")
        path.replace(aside)
        note_of(path).unlink(missing_ok=True)
        raise DownloadError(
            f"{file.name} is not the file that is known ({file.hash_source or 'by the catalogue'}).",
            f"{'; '.join(problems)}.",
            f"It was set aside as {aside.name}. Try again; if it repeats, it was replaced or cannot be trusted: ask its publisher.",
        )
    return Arrived(file.name, size, got["sha256"], url, _how_checked(file))


def _how_checked(file: RemoteFile) -> str:
    hashes = [name for name, known in (("sha256", file.sha256), ("md5", file.md5), ("git hash", file.git_sha1)) if known]
    if hashes:
        names = hashes if file.size is None else ["size", *hashes]
        return f"Its {' and '.join(names)} are as known ({file.hash_source or 'by the catalogue'})."
    if file.size is not None:
        return "Its size is as known; no hash is published: that of what came is recorded."
    return "Neither its size nor a hash is published: the hash of what came is recorded."
