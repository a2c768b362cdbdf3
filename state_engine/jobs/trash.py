"""What was deleted and can be had back for a while: runs with what is derived from them, and forgotten data sets.

HOME/trash/ITEM/note.json     `Item`
HOME/trash/ITEM/files/…       what was moved, at its place below the home
HOME/trash/deleted/RUN        when a run was deleted; stays when the trash is emptied
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import ConfigError, RunError, StateError
from state_engine.files import write_json
from state_engine.jobs.run_folder import RunFolder, RunInfo, derived_runs, list_runs
from state_engine.library.datasets import DataEntry, get_dataset
from state_engine.plain import from_plain, to_plain


@dataclass(frozen=True)
class Item:
    """Something that was deleted together.

    Args:
        id: name of its folder in the trash.
        title: for people.
        deleted: ISO time (UTC).
        runs: ids of the runs in it.
        places: of what was moved, below the home.
    """

    id: str
    title: str
    deleted: str
    runs: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


def runs_that_need_run(settings: Settings, run_id: str) -> tuple[RunInfo, ...]:
    """Return the runs, newest first, that are derived from a run or whose request names it."""
    derived = {info.id for info in derived_runs(settings, run_id)}
    return tuple(i for i in list_runs(settings) if i.id != run_id and (i.id in derived or _names(i, (run_id,))))


def runs_that_need_data(settings: Settings, entry: DataEntry) -> tuple[RunInfo, ...]:
    """Return the runs, newest first, whose request names a data set by its id or its file."""
    return tuple(i for i in list_runs(settings) if _names(i, (f'"{entry.id}"', entry.path)))


def delete_run(settings: Settings, run_id: str) -> Item:
    """Move a run to the trash, and with it the runs that are derived from it.

    Raises:
        RunError: it is running.
    """
    run = RunFolder(settings.runs / run_id)
    title = run_id
    try:
        title = run.manifest.title or run.manifest.kind
        running = run.state == "running"
    except RunError:  # a damaged one may go as well
        running = False
    if running:
        raise RunError(f"Run {run_id} is running.", "Its files are being written.", "Cancel it first.")
    going = [run_id, *(info.id for info in derived_runs(settings, run_id))]
    return _move(settings, title, [settings.runs / name for name in going], going)


def forget_dataset(settings: Settings, identity: str) -> Item:
    """Move what is noted about a data set to the trash, and its file when it is an uploaded or made one.

    Raises:
        DataError: there is none.
    """
    entry = get_dataset(settings, identity)
    places = [settings.home / "datasets" / f"{identity}.json"]
    if entry.origin in ("upload", "made") and Path(entry.path).is_relative_to(settings.home):
        places.append(Path(entry.path))
    return _move(settings, entry.name, places, ())


def trash(settings: Settings) -> tuple[Item, ...]:
    """Return what can be had back, newest first; what is older than the installation keeps things goes."""
    oldest = datetime.now(UTC) - timedelta(days=settings.trash_days)
    found = []
    for note in _folder(settings).glob("*/note.json"):
        try:
            item = from_plain(Item, json.loads(note.read_bytes()))
        except (OSError, ValueError, ConfigError):
            continue
        if datetime.fromisoformat(item.deleted) < oldest:
            shutil.rmtree(note.parent, ignore_errors=True)
        else:
            found.append(item)
    return tuple(sorted(found, key=lambda item: item.deleted, reverse=True))


def restore(settings: Settings, item: Item) -> None:
    """Move an item back to where it was.

    Raises:
        RunError: something else lies there now, or the item is gone.
    """
    folder = _folder(settings) / item.id
    for place in item.places:
        if (settings.home / place).exists():
            raise RunError(f"'{item.title}' cannot be had back.", f"There is another {place} now.", "Delete that first.")
    if not folder.is_dir():
        raise RunError(f"'{item.title}' is not in the trash any more.", "It was emptied or had back.")
    for place in item.places:
        target = settings.home / place
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / place).rename(target)
    for run_id in item.runs:
        (_folder(settings) / "deleted" / run_id).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _move(settings: Settings, title: str, places: Iterable[Path], runs: Iterable[str]) -> Item:
    """Move files and folders of the home to the trash, the note first: what a kill leaves there can be had back."""
    now = datetime.now(UTC)
    there = [place for place in places if place.exists()]
    names = tuple(str(place.relative_to(settings.home)) for place in there)
    item = Item(f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}", title, now.isoformat(), tuple(runs), names)
    folder = _folder(settings) / item.id
    folder.mkdir(parents=True)
    write_json(folder / "note.json", to_plain(item))
    deleted = _folder(settings) / "deleted"
    deleted.mkdir(exist_ok=True)
    for run_id in item.runs:
        (deleted / run_id).write_text(item.deleted)
    for place, name in zip(there, names, strict=True):
        target = folder / "files" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        place.rename(target)
    return item


def _names(info: RunInfo, words: Iterable[str]) -> bool:
    try:
        asked = json.dumps(RunFolder(info.path).request, ensure_ascii=False)
    except StateError:
        return False
    return any(word in asked for word in words)


def _folder(settings: Settings) -> Path:
    return settings.home / "trash"
