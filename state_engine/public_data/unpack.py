"""A zip from elsewhere, unpacked with care: every name, type and declared size is looked at before a byte is written.

Refused: names that leave the folder, links and devices, encrypted members, two members of one name, more files or bytes than allowed,
and contents that are absurdly larger than the archive. Written to a folder beside, which gets its name when all is there.
"""

from __future__ import annotations

import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from state_engine.errors import DataError, UnsafeFileError
from state_engine.files import PART_PREFIX
from state_engine.progress import OnProgress, Progress, silent

BLOCK = 1 << 20


@dataclass(frozen=True)
class UnpackLimits:
    """What an archive may hold.

    Args:
        files: most members.
        nbytes: most bytes of all members together, unpacked.
        ratio: most bytes unpacked per byte of the archive (the challenge's support set has 5.6).
    """

    files: int = 10_000
    nbytes: int = 200 * 1024**3
    ratio: float = 200.0


def unpack(
    archive: Path, folder: Path, limits: UnpackLimits = UnpackLimits(), on_progress: OnProgress = silent
) -> tuple[Path, ...]:
    """Unpacks `archive` as `folder`, which must not exist, and returns its files, sorted.

    Args:
        on_progress: told of bytes; may raise to stop, and nothing is left.

    Raises:
        UnsafeFileError: a member that is refused.
        DataError: not a zip, damaged, no space, or `folder` exists.
    """
    if folder.exists():
        raise DataError(
            f"{folder.name} exists already.", f"{archive.name} is unpacked into a new folder only.", "Move it away first."
        )
    beside = folder.with_name(f"{PART_PREFIX}{secrets.token_hex(4)}-{folder.name}")
    try:
        with zipfile.ZipFile(archive) as source:
            members = _looked_at(source, archive, limits)
            total = sum(m.file_size for m in members)
            _check_room(folder.parent, archive, total)
            beside.mkdir(parents=True)
            done = 0
            for member in members:
                done = _write(source, member, beside, done, total, on_progress)
        beside.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive.name} is not a zip that can be unpacked.", f"{error}.", "Download it again.") from error
    except OSError as error:
        raise DataError(f"{archive.name} could not be unpacked.", str(error), "Check space and permissions.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return tuple(sorted(p for p in folder.rglob("*") if p.is_file()))


def _looked_at(source: zipfile.ZipFile, archive: Path, limits: UnpackLimits) -> Sequence[zipfile.ZipInfo]:
    """The files to write, after every member was accepted."""
    members, size = source.infolist(), max(archive.stat().st_size, 1)
    if len(members) > limits.files:
        raise _refused(archive, f"It lists {len(members):,} files; up to {limits.files:,} are accepted.")
    total = sum(m.file_size for m in members)
    if total > limits.nbytes:
        raise _refused(archive, f"Its content has {total / 1e9:,.1f} GB; up to {limits.nbytes / 1e9:,.1f} GB are accepted.")
    if total > limits.ratio * size:
        raise _refused(archive, f"Its content is {total / size:,.0f} times as large as the archive.")
    seen: set[str] = set()
    for member in members:
        _check_member(member, archive)
        name = member.filename.rstrip("/").casefold()
        if name in seen:
            raise _refused(archive, f"Two members are called {member.filename!r}.")
        seen.add(name)
    files = [m for m in members if not m.is_dir()]
    names = {m.filename.casefold() for m in files}
    for member in files:
        if any(str(p).casefold() in names for p in PurePosixPath(member.filename).parents):
            raise _refused(archive, f"{member.filename!r} lies below a member that is a file.")
    return files


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    name, mode = member.orig_filename, member.external_attr >> 16
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in parts[0] or any(p in ("", ".", "..") for p in parts):
        raise _refused(archive, f"A member's name leads elsewhere: {name[:200]!r}.")
    if any(len(part.encode()) > 255 for part in parts) or not name.isprintable():
        raise _refused(archive, f"A member's name cannot be a file's: {name[:80]!r}.")
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(archive, f"{name[:200]!r} is a link or a device.")
    if member.flag_bits & 0x1:
        raise _refused(archive, f"{name[:200]!r} is encrypted.")


def _refused(archive: Path, why: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"{archive.name} is not unpacked.", why, "Unpack it yourself if you trust it, and open the files you need."
    )


def _check_room(folder: Path, archive: Path, total: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise DataError(
            f"{archive.name} needs {total / 1e9:.1f} GB unpacked.", f"{free / 1e9:.1f} GB are free.", "Make room first."
        )


def _write(source: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, done: int, total: int, on_progress: OnProgress) -> int:
    """One member; its CRC and declared size are held by the reader. Returns bytes done so far."""
    path = folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with source.open(member) as inside, path.open("xb") as out:
        while block := inside.read(BLOCK):
            out.write(block)
            written += len(block)
            if written > member.file_size:
                raise zipfile.BadZipFile(f"{member.filename} is longer than declared")
            on_progress(Progress("Unpacking", done + written, total, member.filename if written == len(block) else "", "bytes"))
    return done + written
