"""Texts of errors as a page shows them: with names of files as their users know them, and no folders of the server.

The command line shows places as they are: there they are its user's own.
"""

from __future__ import annotations

import re
from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import StateError, without_folders
from state_engine.library.datasets import list_datasets

# folders and files that are there for a while, under drawn names
_DRAWN_FOLDER = re.compile(r"(?<!\w)\.[a-z]+-[\w.-]*/")
_DRAWN_FILE = re.compile(r"(?<!\w)\.part-[0-9a-f]{8}-(?:p[0-9]+\.[0-9a-f]{4}-)?(?=\w)")


def without_places(text: str, settings: Settings) -> str:
    """Return a text in which data sets have the names their users gave them, and other files their last name only."""
    if "/" not in text and ".h5ad" not in text:
        return text
    for entry in list_datasets(settings):
        if entry.origin in ("upload", "made"):
            for place in (entry.path, Path(entry.path).name):
                text = text.replace(place, entry.name)
    for folder in (
        settings.home,
        settings.root,
        *settings.data_folders,
    ):  # they may have spaces in their names, which a pattern would stop at
        for place in {str(folder), str(folder.resolve())} - {"/"}:
            text = text.replace(f"{place}/", "")
    return _DRAWN_FILE.sub("", _DRAWN_FOLDER.sub("", without_folders(text)))


def for_people(error: StateError, settings: Settings) -> StateError:
    """Return an error of the same class whose texts went through `without_places`."""
    return type(error)(*(without_places(part, settings) for part in (error.what, error.why, error.fix)))
