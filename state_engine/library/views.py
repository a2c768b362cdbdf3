"""Views that their owner named: a page and what its address holds, to come back to. Runs and data sets are named by id; nothing is copied."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from state_engine.config import Settings
from state_engine.errors import RequestError, StateError
from state_engine.files import write_json
from state_engine.plain import read_json_as, to_plain, visible

MOST: Final = 500  # of an owner
MOST_ADDRESS: Final = 8_000  # characters
_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class View:
    """A named view.

    Args:
        id, name: its own, and for people.
        page: name of the page.
        address: what the address of the page held, by name.
        created: ISO time (UTC).
    """

    id: str
    name: str
    page: str
    address: dict[str, str]
    created: str


def keep_view(settings: Settings, name: str, page: str, address: Mapping[str, str]) -> View:
    """Store a view of the owner's.

    Raises:
        RequestError: it has no name, or there are too many.
    """
    settings.check_changes()
    words = visible(name, 120).strip()
    if not words:
        raise RequestError("The view has no name.", fix="Give it one.")
    if sum(len(key) + len(value) for key, value in address.items()) > MOST_ADDRESS:
        raise RequestError("The address of this view is too long to keep.", fix="Choose fewer perturbations or contexts.")
    if len(views_of(settings)) >= MOST:
        raise RequestError(f"There are {MOST:,} views already.", fix="Forget some.")
    view = View(secrets.token_hex(6), words, page, dict(address), datetime.now(UTC).isoformat())
    folder = settings.home / "views"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{view.id}.json", to_plain(view))
    return view


def views_of(settings: Settings) -> tuple[View, ...]:
    """Return the owner's views, newest first; what cannot be read is left out."""
    folder, found = settings.home / "views", list[View]()
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            view = read_json_as(View, path, "view", "Forget it.")
        except StateError:
            continue
        if view is not None and view.id == path.stem:
            found.append(view)
    return tuple(sorted(found, key=lambda view: view.created, reverse=True))


def forget_view(settings: Settings, identity: str) -> None:
    """Remove a view; one that is not there is no error.

    Raises:
        RequestError: it is no id of a view.
    """
    settings.check_changes()
    if not _ID.fullmatch(identity):
        raise RequestError("There is no such view.")
    (settings.home / "views" / f"{identity}.json").unlink(missing_ok=True)
