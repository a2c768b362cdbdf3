"""What was deleted and can be had back for a while: forgotten data sets here, runs in `jobs.trash`.

HOME/trash/ITEM/note.json     `Item`
HOME/trash/ITEM/files/…       what was moved, at its place below the home
HOME/trash/deleted/RUN        when a run was deleted; stays when the trash is emptied
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import ConfigError, RunError, listed
from state_engine.files import read_json, write_json
from state_engine.library.datasets import DEMO_ID, get_dataset, list_datasets
from state_engine.library.gene_cache import forget_columns
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


def forget_dataset(settings: Settings, identity: str) -> Item:
    """Move what is noted about a data set to the trash, and its file when it is an uploaded or made one; its values by gene are deleted.

    Raises:
        DataError: there is none.
    """
    entry = get_dataset(settings, identity)
    places = [settings.home / "datasets" / f"{identity}.json"]
    if entry.origin in ("upload", "made") and Path(entry.path).is_relative_to(settings.home):
        places.append(Path(entry.path))
    forget_columns(settings, Path(entry.path))
    return moved(settings, entry.name, places, ())


def forget_below(settings: Settings, folder: Path) -> Item | None:
    """Move what is noted about the data sets whose files lie below a folder to the trash; the files stay. None when there is none."""
    found = [e for e in list_datasets(settings) if e.id != DEMO_ID and Path(e.path).is_relative_to(folder.resolve())]
    if not found:
        return None
    notes = [settings.home / "datasets" / f"{entry.id}.json" for entry in found]
    return moved(settings, listed([entry.name for entry in found], 3), notes, ())


def items(settings: Settings) -> tuple[Item, ...]:
    """Return what can be had back, newest first; what is older than the installation keeps things goes."""
    if settings.shared:
        return ()
    oldest = datetime.now(UTC) - timedelta(days=settings.trash_days)
    found = []
    for note in _folder(settings).glob("*/note.json"):
        try:
            item = from_plain(Item, read_json(note))
        except (OSError, ValueError, ConfigError):
            continue
        if datetime.fromisoformat(item.deleted) < oldest:
            shutil.rmtree(note.parent, ignore_errors=True)
        else:
            found.append(item)
    return tuple(sorted(found, key=lambda item: item.deleted, reverse=True))


def item_of(settings: Settings, identity: str) -> Item | None:
    """Return the item in the trash that a run or data set lies in, by its id; None when it cannot be had back."""
    note = str(Path("datasets") / f"{identity}.json")
    return next((item for item in items(settings) if identity in item.runs or note in item.places), None)


def restore(settings: Settings, item: Item) -> None:
    """Move an item back to where it was.

    Raises:
        RunError: something else lies there now, or the item is gone.
    """
    settings.check_changes()
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


def moved(settings: Settings, title: str, places: Iterable[Path], runs: Iterable[str]) -> Item:
    """Move files and folders of the home to the trash, the note first: what a kill leaves there can be had back.

    Args:
        title: for people.
        places: files and folders of the home; those that are not there are left out.
        runs: ids of the runs among them.
    """
    settings.check_changes()
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


def _folder(settings: Settings) -> Path:
    return settings.home / "trash"
