"""Several requests from one JSON file: the entries that runs offer to download, one of them or a list.

    [{"kind": "predict", "title": "words for people", "request": {…}}, …]

Each entry is checked by itself, and those that are well become jobs one by one; a wrong one says why and holds up no other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Final

from state_engine.config import Settings
from state_engine.errors import RequestError, StateError
from state_engine.files import parse_json
from state_engine.jobs.kinds import KINDS, find_kind, request_class
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import list_datasets
from state_engine.library.models import list_models
from state_engine.plain import from_plain, visible

MOST_ENTRIES: Final = 500
MOST_BYTES: Final = 16 << 20
FIELDS: Final = {"kind", "title", "request"}


@dataclass(frozen=True)
class Asked:
    """One entry of a file of requests.

    Args:
        kind: of the job.
        title: for people.
        request: what is asked; None where the entry is wrong.
        problem: why it is wrong, or "".
    """

    kind: str
    title: str
    request: object | None = None
    problem: str = ""


def entry_of(run: RunFolder) -> bytes:
    """Return a run's request as such a file of one entry."""
    manifest = run.manifest
    entry = {"kind": manifest.kind, "title": manifest.title, "request": run.request}
    return json.dumps([entry], indent=1, ensure_ascii=False).encode()


def requests_of(content: bytes) -> tuple[Asked, ...]:
    """Return the entries of a file of requests, each with its request or why it is none; pages have a child process do it.

    Raises:
        RequestError: the file is no JSON, or no list of entries.
    """
    if len(content) > MOST_BYTES:
        raise RequestError(f"The file has {len(content):,} bytes.", f"Up to {MOST_BYTES:,} are read.", "Part it.")
    try:
        found = parse_json(content)
    except ValueError as error:
        raise RequestError("The file is no JSON.", f"{error}.", "A run on Runs offers its request in this form.") from error
    entries = found if isinstance(found, list) else [found]
    if not entries or len(entries) > MOST_ENTRIES:
        raise RequestError(
            f"The file holds {len(entries):,} requests.", f"1 to {MOST_ENTRIES:,} are taken at a time.", "Part it."
        )
    return tuple(map(_asked, entries))


def placed(settings: Settings, entries: Iterable[Asked]) -> tuple[Asked, ...]:
    """Return entries in which bare names of a data set and a model, as a report has them, are those of this installation.

    A name that several have means the latest; one that none has stays, and is refused where the request is checked.
    """
    names: dict[str, dict[str, str]] = {"data": {}, "model": {}}
    for entry in reversed(list_datasets(settings)):  # the latest come first
        names["data"] |= {Path(entry.path).name: entry.path, entry.name: entry.path}
    for model in list_models(settings):
        names["model"] |= {model.path.name: str(model.path)}
    names["real"] = names["data"]
    return tuple(_placed(asked, names) for asked in entries)


def _placed(asked: Asked, names: Mapping[str, Mapping[str, str]]) -> Asked:
    request = asked.request
    if not is_dataclass(request) or isinstance(request, type):
        return asked
    given = {f.name: getattr(request, f.name) for f in fields(request) if f.name in names}
    found = {name: names[name][value] for name, value in given.items() if value in names[name]}
    return replace(asked, request=replace(request, **found)) if found else asked


def checked(asked: Asked, check: Callable[[object], None]) -> Asked:
    """Return an entry once its request was checked, with the problem where `check` raises one."""
    if asked.request is None:
        return asked
    try:
        check(asked.request)
    except StateError as error:
        return replace(asked, request=None, problem=str(error))
    return asked


def _asked(entry: object) -> Asked:
    if not isinstance(entry, dict) or not {"kind", "request"} <= set(entry) <= FIELDS:
        return Asked("", "", None, 'An entry has the fields "kind", "request" and, if you like, "title", and no other.')
    kind, title = visible(entry["kind"]), visible(entry.get("title", ""), 200)
    try:
        if kind not in KINDS or not KINDS[kind].page:
            known = ", ".join(name for name, each in KINDS.items() if each.page)
            raise RequestError(f"There is no such kind as '{kind}' to ask for.", f"Known: {known}.")
        request: object = from_plain(request_class(find_kind(kind)), entry["request"])
    except (StateError, ValueError, TypeError) as error:
        return Asked(kind, title, None, str(error))
    return Asked(kind, title or kind, request)
