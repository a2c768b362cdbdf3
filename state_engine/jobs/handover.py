"""Give what the local owner has to a person who logs in: files move into their home, and the places written down in them follow.

Each step can be done again, so that a handover that was interrupted is finished by asking for it once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.config import LOCAL, Settings
from state_engine.embedding.jobs import REFERENCE
from state_engine.errors import JobError, RequestError
from state_engine.files import read_json, write_json
from state_engine.jobs import ages
from state_engine.jobs.processes import is_alive
from state_engine.jobs.run_folder import list_runs
from state_engine.jobs.seats import holders
from state_engine.jobs.store import JobStore
from state_engine.library import shares
from state_engine.library.people import people

# what belongs to somebody; the trash stays, and empties itself
FOLDERS: Final = (
    "datasets", "uploads", "models", "labels", "downloads", "public", "genes", "effects", "features", "challenge", "drafts", "views", "runs",
)  # fmt: skip

WHOLE: Final = (REFERENCE,)  # folders that are one thing, whose files mean nothing without each other


@dataclass(frozen=True)
class Handover:
    """What a handover did: the number of things in each folder that moved, and what stayed since the person has something of that name."""

    moved: dict[str, int]
    stayed: tuple[str, ...]


def give(settings: Settings, owner: str) -> Handover:
    """Move data sets, models, runs and the rest of the local owner into the home of a person, who owns them from now on.

    Raises:
        RequestError: these are somebody's settings, or the person never logged in. JobError: a worker lives, or jobs wait or run.
    """
    _check(settings, owner)
    theirs, moved, stayed = settings.of(owner), dict[str, int](), list[str]()
    for thing in _things(settings.home):
        place = thing.relative_to(settings.home)
        target = theirs.home / place
        if target.exists():
            stayed.append(str(place))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        thing.rename(target)
        moved[place.parts[0]] = moved.get(place.parts[0], 0) + 1
    for note in _notes(theirs.home):
        _rewrite(note, settings.home, theirs.home)
    runs = [info.id for info in list_runs(theirs) if info.manifest is not None]
    ages.hand_over(settings, theirs, runs)
    shares.hand_over(settings, theirs, runs)
    for run in runs:
        place = theirs.runs / run / "manifest.json"
        write_json(place, read_json(place) | {"owner": owner})
    if settings.database.exists():
        JobStore(settings.database).give(LOCAL, owner, runs)
    return Handover(moved, tuple(stayed))


def _check(settings: Settings, owner: str) -> None:
    settings.check_changes()
    if settings.owner != LOCAL:
        raise RequestError("Only what the local owner has can be given away.", "STATE_EXPLORER_OWNER is set.", "Leave it out.")
    known = [person.owner for person in people(settings)]
    if owner not in known:
        there = f"Known: {', '.join(known)}." if known else "Nobody logged in yet."
        raise RequestError(f"'{owner}' never logged in here.", there, "Let the person log in once.")
    if any(is_alive(worker) for worker in holders(settings.home)):
        raise JobError(
            "A worker runs for this installation.", "It could write into what moves.", "Stop the app and its worker first."
        )
    if settings.database.exists() and JobStore(settings.database).list(owner=LOCAL, states=("queued", "running")):
        raise JobError("Jobs of the local owner wait or run.", "", "Let them end, or cancel them.")


def _things(home: Path) -> Iterator[Path]:
    """Yield what moves: what lies in the folders, and the folders that are one thing."""
    for folder in FOLDERS:
        yield from sorted((home / folder).glob("[!.]*"))
    yield from (home / folder for folder in WHOLE if (home / folder).is_dir())


def _notes(home: Path) -> Iterator[Path]:
    """Yield the files in which places of other files are written down."""
    yield from (home / "datasets").glob("*.json")
    yield from (home / "drafts").glob("*.json")
    for name in ("request.json", "manifest.json"):
        yield from (home / "runs").glob(f"[!.]*/{name}")


def _rewrite(note: Path, before: Path, after: Path) -> None:
    """Let the places in a JSON file lead to where files lie now; one that cannot be read stays as it is."""
    try:
        plain = read_json(note)
    except (OSError, ValueError):
        return
    pairs = [(f"{before}/{folder}/", f"{after}/{folder}/") for folder in FOLDERS]
    moved = _placed(plain, pairs)
    if moved != plain:
        write_json(note, moved)


def _placed(value: object, pairs: list[tuple[str, str]]) -> object:
    if isinstance(value, str):
        for before, after in pairs:
            value = value.replace(before, after)
        return value
    if isinstance(value, list):
        return [_placed(one, pairs) for one in value]
    if isinstance(value, dict):
        return {name: _placed(one, pairs) for name, one in value.items()}
    return value
