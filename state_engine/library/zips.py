"""A State Transition model as one zip: written for another installation, and read as what it is, a foreign file.

Boundary: files, no torch. Only the files of a model come out of a zip, by their plain names, up to their declared sizes.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from state_engine.checkpoints.recognise import REQUIRED
from state_engine.checkpoints.store import CARD
from state_engine.config import Settings
from state_engine.data.files.unpacking import BLOCK, Unpacking
from state_engine.errors import CheckpointError, door, listed
from state_engine.files import replacing
from state_engine.library.foreign import SLOWEST, call
from state_engine.library.models import TRANSITION, Entry
from state_engine.library.shelf import HEADER_MOST_BYTES, check_size, incoming
from state_engine.sandbox import Limits
from state_engine.sandbox.limits import MB

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
MOST_MEMBERS = 32
COPY_CHUNK = 1 << 22
AGAIN = "Export the model again."


def import_zip(path: Path, settings: Settings, name: str = "") -> Entry:
    """Unpack a zip of our own format into the library. The same weights twice give the entry that is there.

    Args:
        name: how the user calls the file; default: the name of the path.

    Raises:
        CheckpointError: not a zip, other files than those of a model, links, encryption, too large, damaged.
    """
    name = name or path.name
    with incoming(settings) as beside:
        try:
            with door(name, CheckpointError, AGAIN):
                limits = Limits(60 + settings.max_file_bytes / SLOWEST, written_mb=settings.max_file_bytes // MB + 1)
                call(unpack, path, beside, settings, name, path=path, name=name, limits=limits, writes=(beside,))
                return TRANSITION.adopt(beside, settings)
        except CheckpointError as error:
            # the files lie in a hidden folder whose drawn name tells the user nothing
            parts = [part.replace(f"{beside}/", "").replace(beside.name, name) for part in (error.what, error.why, error.fix)]
            raise CheckpointError(*parts) from error


def unpack(path: Path, folder: Path, settings: Settings, name: str) -> None:
    """Write the files of a model from a zip into a folder; runs in a child that may write nowhere else.

    Raises:
        CheckpointError: see `import_zip`.
    """
    with door(name, CheckpointError, AGAIN):
        try:
            with zipfile.ZipFile(path) as archive:
                members = _members(archive, settings)
                meter = Unpacking(name, path.stat().st_size, folder, settings.max_file_bytes, kind=CheckpointError, fix=AGAIN)
                meter.expect(sum(member.file_size for member in members.values()))
                for plain, member in members.items():
                    _copy(archive, member, folder / plain, meter)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
            raise CheckpointError(f"{name} is not a readable zip file.", str(error), AGAIN) from error


def export_zip(entry: Entry, out: Path) -> Path:
    """Write a model as a zip that `import_zip` reads; the same model gives the same bytes.

    Raises:
        CheckpointError: the model is damaged.
    """
    if entry.card is None:
        raise CheckpointError(f"{entry.path.name} cannot be exported.", entry.error, "Import the model again first.")
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(n for n in TRANSITION.files if (entry.path / n).is_file()):
            member = zipfile.ZipInfo(name, ZIP_DATE)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.create_system = 3
            member.file_size = (entry.path / name).stat().st_size
            with (entry.path / name).open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, COPY_CHUNK)
    return out


def _members(archive: zipfile.ZipFile, settings: Settings) -> dict[str, zipfile.ZipInfo]:
    """Return the files to unpack by their plain name. One folder around them is accepted."""
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
    if unsafe or len(tops) > 1 or len(path.parts) > 2 or name not in TRANSITION.files:
        raise CheckpointError(
            f"The zip holds {member.filename!r}.", f"A model has only {listed(TRANSITION.files, 9)}.", "Nothing was unpacked."
        )
    if (mode := member.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise CheckpointError(f"{name} in the zip is a link or a device.", "", "Nothing was unpacked.")
    if member.flag_bits & 1:
        raise CheckpointError("The zip is encrypted.", "", "Export it without a password.")
    if name == CARD and member.file_size > HEADER_MOST_BYTES:
        raise CheckpointError(
            f"{CARD} in the zip has {member.file_size:,} bytes.", "A card is far smaller.", "Nothing was unpacked."
        )


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, meter: Unpacking) -> None:
    """Write a member, up to its declared size: a zip may hold more than it declares."""
    left = member.file_size
    with archive.open(member) as source, path.open("wb") as target:
        while piece := source.read(min(BLOCK, left + 1)):
            left -= len(piece)
            if left < 0:
                raise CheckpointError(f"{path.name} in the zip is longer than it declares.", "", "Nothing was unpacked.")
            meter.write(piece, target)
