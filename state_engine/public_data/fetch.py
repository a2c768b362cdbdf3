"""The verb: a public data set comes to this machine, checked, unpacked, its split plan pointed to the files.

FOLDER/kang_2018.h5ad            the files
FOLDER/competition_support_set/  what was in an archive, which is removed once it is unpacked
FOLDER/fetched.json              `Fetched`: where it came from, hashes, licence
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from state_engine.config import Settings, load_settings
from state_engine.download import Arrived, download
from state_engine.errors import ConfigError, DataError
from state_engine.files import PART_PREFIX, read_json, size_on_disk, write_json
from state_engine.library.trash import forget_below
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.public_data.catalogue import PublicData, PublicFile, find
from state_engine.public_data.split_paths import point_to_files
from state_engine.public_data.unpack import UnpackLimits, unpack

RECORD = "fetched.json"
CELLS = (".h5ad", ".h5")


@dataclass(frozen=True)
class Fetched:
    """What lies in a folder, and where it came from: `fetched.json`.

    Args:
        name, title, licence, licence_url, citation, source: from the catalogue.
        when: ISO time (UTC).
        arrived: each downloaded file with its hash and how it was checked.
        data: files of cells, relative to the folder.
        plans: split plans (TOML) whose paths lead to these files, relative to the folder.
        others: everything else that came.
    """

    name: str
    title: str
    licence: str
    licence_url: str
    citation: str
    source: str
    when: str
    arrived: tuple[Arrived, ...]
    data: tuple[str, ...]
    plans: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def fetch(data: PublicData | str, folder: Path, on_progress: OnProgress = silent, settings: Settings | None = None) -> Fetched:
    """Brings a public data set into `folder`. What is there already, whole or in part, is not downloaded again.

    Args:
        data: an entry of the catalogue, or its name.
        folder: made when it is not there.
        on_progress: told of bytes; may raise to stop. What has arrived stays and is used the next time.

    Raises:
        RequestError: no such name.
        DownloadError: no network, no space, another size or hash.
        UnsafeFileError, DataError: an archive that is not safe, or damaged; a plan whose files are missing.
    """
    entry = find(data) if isinstance(data, str) else data
    settings = settings or load_settings()
    before = read_record(folder)
    if before is not None and before.name == entry.name and _complete(before, folder):
        on_progress(Progress("Already here", 1, 1, f"{entry.title} was fetched at {before.when}"))
        return before
    if before is not None and before.name != entry.name:
        raise DataError(f"{folder.name} holds another data set: {before.title}.", "", "Choose another folder.")
    arrived, came = [], []
    made_folders: list[Path] = []
    try:
        for file in entry.files:
            got = bring(file, folder, settings, on_progress)
            on_progress(
                Progress(
                    f"Verifying {file.name}", got.size, got.size, f"{file.name}: sha256 {got.sha256}. {got.checked}", "bytes"
                )
            )
            arrived.append(got)
            if file.is_archive:
                came += _unpacked(folder / file.name, made_folders, settings, on_progress)
            else:
                came.append(folder / file.name)
        for plan in came:
            if plan.suffix == ".toml":
                point_to_files(plan, folder)
    except BaseException:
        for made_folder in made_folders:  # the archive is still there to unpack again
            shutil.rmtree(made_folder, ignore_errors=True)
        raise
    made = _record(entry, folder, arrived, came)
    write_json(folder / RECORD, to_plain(made))
    for archive in (folder / f.name for f in entry.files if f.is_archive):
        archive.unlink(missing_ok=True)
    return made


def _record(entry: PublicData, folder: Path, arrived: list[Arrived], came: list[Path]) -> Fetched:
    """Return what `folder` has now: the files that were downloaded, and those that came out of them by kind."""
    kinds: dict[str, list[str]] = {"data": [], "plans": [], "others": []}
    for path in came:
        kind = "data" if path.suffix in CELLS else "plans" if path.suffix == ".toml" else "others"
        kinds[kind].append(_relative(path, folder))
    return Fetched(
        entry.name, entry.title, entry.licence, entry.licence_url, entry.citation, entry.source,
        datetime.now(UTC).isoformat(timespec="seconds"), tuple(arrived),
        tuple(kinds["data"]), tuple(kinds["plans"]), tuple(kinds["others"]),
    )  # fmt: skip


def bring(file: PublicFile, folder: Path, settings: Settings, on_progress: OnProgress = silent) -> Arrived:
    """Download one file of a public data set into a folder; see `state_engine.download.download`."""
    stage, check = f"Downloading {file.name}", f"Verifying {file.name}"
    return download(
        file.remote,
        folder,
        settings,
        report=lambda done, total: on_progress(Progress(stage, done, total, unit="bytes")),
        verifying=lambda done, total: on_progress(Progress(check, done, total, unit="bytes")),
        remark=lambda words: on_progress(Progress(stage, message=words)),
    )


def read_record(folder: Path) -> Fetched | None:
    """What `fetch` noted in a folder; None when it did not, or the note cannot be read."""
    try:
        return from_plain(Fetched, read_json(folder / RECORD))
    except (OSError, ValueError, ConfigError):
        return None


def home_of(name: str, settings: Settings) -> Path:
    """Where the app keeps a public data set."""
    return settings.home / "public" / name


def fetched_here(settings: Settings) -> dict[str, Fetched]:
    """The public data sets that are whole in the app's own folders, by name."""
    base = settings.home / "public"
    records = {p.name: read_record(p) for p in sorted(base.iterdir())} if base.is_dir() else {}
    return {name: r for name, r in records.items() if r is not None and _complete(r, base / name)}


def remove_fetched(name: str, settings: Settings) -> int:
    """Deletes a public data set from the app's own folders, parts of it too, and returns the bytes that became free."""
    folder = home_of(find(name).name, settings)
    freed = size_on_disk(folder) if folder.is_dir() else 0
    forget_below(settings, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def _unpacked(archive: Path, made: list[Path], settings: Settings, on_progress: OnProgress) -> list[Path]:
    """What is in an archive. The folder it gets is added to `made`; one that is there already is somebody's and is left alone."""
    folder = archive.with_suffix("")
    came = unpack(archive, folder, replace(UnpackLimits(), nbytes=settings.max_declared_bytes), on_progress)
    made.append(folder)
    only = folder / folder.name  # an archive of one folder of its own name does not get two
    if [p.name for p in folder.iterdir()] == [folder.name] and only.is_dir():
        beside = folder.with_name(f"{PART_PREFIX}{folder.name}")
        made.append(beside)
        only.rename(beside)
        folder.rmdir()
        beside.rename(folder)
        came = tuple(folder / p.relative_to(only) for p in came)
    return [p for p in came if "__MACOSX" not in p.parts]


def _complete(record: Fetched, folder: Path) -> bool:
    sizes = {a.name: a.size for a in record.arrived}
    names = (*record.data, *record.plans, *record.others)
    return bool(names) and all(
        (folder / n).is_file() and sizes.get(n, (folder / n).stat().st_size) == (folder / n).stat().st_size for n in names
    )


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
