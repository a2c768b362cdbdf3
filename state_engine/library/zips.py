"""A State Transition model as one zip: written for another installation, and read as what it is, a foreign file.

Boundary: files, no torch. Only the files of a model come out of a zip, by their plain names, up to their declared sizes. `Contents` says
the same of zips of another kind, such as those of runs (`state_engine.jobs.packed`).
"""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from state_engine.checkpoints.recognise import REQUIRED
from state_engine.checkpoints.store import CARD
from state_engine.config import Settings
from state_engine.data.files.unpacking import BLOCK, Unpacking
from state_engine.errors import CheckpointError, StateError, door, listed
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


@dataclass(frozen=True)
class Contents:
    """What a zip of some kind may hold.

    Args:
        what: such a thing ("A model").
        place_of: where a member goes, below the new folder; "" when it does not belong there.
        required: places that must be among them.
        belongs: says what belongs there, for people.
        most: members.
        small: places whose files are read whole.
        kind: class of the errors.
        again: what to do about a zip that is refused.
    """

    what: str
    place_of: Callable[[PurePosixPath], str]
    required: tuple[str, ...]
    belongs: str
    most: int
    small: tuple[str, ...]
    kind: type[StateError]
    again: str


def _plain_name(path: PurePosixPath) -> str:
    """Return the plain name of a file of a model; one folder around them is accepted."""
    return path.name if len(path.parts) <= 2 and path.name in TRANSITION.files else ""


MODEL = Contents(
    "A model",
    _plain_name,
    REQUIRED,
    f"A model has only {listed(TRANSITION.files, 9)}.",
    MOST_MEMBERS,
    (CARD,),
    CheckpointError,
    AGAIN,
)


def import_zip(path: Path, settings: Settings, name: str = "") -> Entry:
    """Unpack a zip of our own format into the library. The same model twice gives the entry that is there.

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
        unpack_contents(path, folder, settings, name, MODEL)


def unpack_contents(path: Path, folder: Path, settings: Settings, name: str, contents: Contents) -> None:
    """Write the files of a zip into a folder, once all of its members are known to belong there.

    Raises:
        StateError: of the kind of the contents; see `import_zip`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, settings, contents)
            fix = contents.again
            meter = Unpacking(name, path.stat().st_size, folder, settings.max_file_bytes, kind=contents.kind, fix=fix)
            meter.expect(sum(member.file_size for member in members.values()))
            for place, member in members.items():
                inner = PurePosixPath(place).parent
                if inner.parts:  # the folder itself is there, and where it lies is not for the child to see
                    (folder / inner).mkdir(exist_ok=True)
                _copy(archive, member, folder / place, meter, contents)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise contents.kind(f"{name} is not a readable zip file.", str(error), contents.again) from error


def export_zip(entry: Entry, out: Path) -> Path:
    """Write a model as a zip that `import_zip` reads; the same model gives the same bytes.

    Raises:
        CheckpointError: the model is damaged.
    """
    if entry.card is None:
        raise CheckpointError(f"{entry.path.name} cannot be exported.", entry.error, "Import the model again first.")
    files = sorted(n for n in TRANSITION.files if (entry.path / n).is_file())
    return pack(out, entry.path, files)


def pack(out: Path, folder: Path, names: Iterable[str], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write files of a folder, by their places below it, as a zip; the same files give the same bytes."""
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", compression) as archive:
        for name in names:
            member = zipfile.ZipInfo(name, ZIP_DATE)
            member.compress_type = compression
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.create_system = 3
            member.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, COPY_CHUNK)
    return out


def _members(archive: zipfile.ZipFile, settings: Settings, contents: Contents) -> dict[str, zipfile.ZipInfo]:
    """Return the files to unpack by their places. One folder around the files of a model is accepted."""
    members, kind = [m for m in archive.infolist() if not m.is_dir()], contents.kind
    if len(archive.infolist()) > contents.most:
        few = "a handful" if contents.most < 100 else f"up to {contents.most:,}"
        raise kind(f"The zip has {len(archive.infolist()):,} members.", f"{contents.what} has {few}.", "Export it again.")
    chosen: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        place = _place(member, contents)
        if place in chosen:
            raise kind(f"The zip holds {place} twice.", "", contents.again)
        chosen[place] = member
    if contents is MODEL and len({str(PurePosixPath(m.filename).parent) for m in members}) > 1:
        raise kind("The zip holds files in several folders.", contents.belongs, "Nothing was unpacked.")
    missing = [name for name in contents.required if name not in chosen]
    if missing:
        raise kind(
            f"The zip lacks {listed(missing)}.", f"It is no {contents.what[2:]} of STATE Explorer.", "Export one from there."
        )
    if contents is MODEL:
        check_size(sum(m.file_size for m in members), settings)
    return chosen


def _place(member: zipfile.ZipInfo, contents: Contents) -> str:
    """Return where a member goes; refuse one that does not belong there, is no file, or is locked or too large."""
    path, kind = PurePosixPath(member.filename), contents.kind
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename or ":" in member.filename
    place = "" if unsafe else contents.place_of(path)
    if not place:
        raise kind(f"The zip holds {member.filename!r}.", contents.belongs, "Nothing was unpacked.")
    if (mode := member.external_attr >> 16) and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise kind(f"{path.name} in the zip is a link or a device.", "", "Nothing was unpacked.")
    if member.flag_bits & 1:
        raise kind("The zip is encrypted.", "", "Export it without a password.")
    if place in contents.small and member.file_size > HEADER_MOST_BYTES:
        why = "A card is far smaller." if contents is MODEL else "It is far smaller."
        raise kind(f"{place} in the zip has {member.file_size:,} bytes.", why, "Nothing was unpacked.")
    return place


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, meter: Unpacking, contents: Contents) -> None:
    """Write a member, up to its declared size: a zip may hold more than it declares."""
    left = member.file_size
    with archive.open(member) as source, path.open("wb") as target:
        while piece := source.read(min(BLOCK, left + 1)):
            left -= len(piece)
            if left < 0:
                raise contents.kind(f"{path.name} in the zip is longer than it declares.", "", "Nothing was unpacked.")
            meter.write(piece, target)
