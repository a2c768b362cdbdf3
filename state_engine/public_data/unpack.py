"""A zip from elsewhere, unpacked with care: every name, type and declared size is looked at before a byte is written.

Refused: names that leave the folder, links and devices, encrypted members, two members of one name, more files or bytes than allowed,
and contents that are absurdly larger than the archive. Written to a folder beside, which gets its name when all is there.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from state_engine.data.files.unpacking import BLOCK, RATIO, Unpacking
from state_engine.errors import DataError, StateError, UnsafeFileError
from state_engine.files import part_beside
from state_engine.progress import OnProgress, Progress, silent


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
    ratio: float = RATIO


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
    try:
        with part_beside(folder) as beside, zipfile.ZipFile(archive) as source:
            members = _looked_at(source, archive, limits)
            total = sum(m.file_size for m in members)
            beside.mkdir(parents=True)
            meter = Unpacking(archive.name, archive.stat().st_size, beside, limits.nbytes, limits.ratio)
            meter.expect(total)
            for member in members:
                _write(source, member, meter, total, on_progress)
            beside.rename(folder)
    except StateError:
        raise
    except OSError as error:
        raise DataError(f"{archive.name} could not be unpacked.", str(error), "Check space and permissions.") from error
    except Exception as error:  # zipfile raises many kinds on damaged bytes
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{archive.name} is not a zip that can be unpacked.", f"{why}.", "Download it again.") from error
    return tuple(sorted(p for p in folder.rglob("*") if p.is_file()))


def _looked_at(source: zipfile.ZipFile, archive: Path, limits: UnpackLimits) -> Sequence[zipfile.ZipInfo]:
    """The files to write, after every member was accepted."""
    members = source.infolist()
    if len(members) > limits.files:
        raise _refused(archive, f"It lists {len(members):,} files; up to {limits.files:,} are accepted.")
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


def _write(source: zipfile.ZipFile, member: zipfile.ZipInfo, meter: Unpacking, total: int, on_progress: OnProgress) -> None:
    """Write one member; its CRC and declared size are held by the reader."""
    path = meter.folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with source.open(member) as inside, path.open("xb") as out:
        while block := inside.read(BLOCK):
            written += len(block)
            if written > member.file_size:
                raise zipfile.BadZipFile(f"{member.filename} is longer than declared")
            meter.write(block, out)
            on_progress(Progress("Unpacking", meter.done, total, member.filename if written == len(block) else "", "bytes"))
