"""The expression of data sets by gene (`data.gene_columns`), kept in the home: made by a job, found by pages, deleted with the data set.

HOME/genes/HASH-QUESTION.h5     the values; HASH is that of the file's content, QUESTION of which matrix on which scale
HOME/genes/STATE.json           `_Known`: the content of a file as it lies there now, so that a page need not read all of it

A file that was changed has another state, and so no note: its values are made again, unless its content is one that is known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state_engine.config import Settings
from state_engine.data.dataset import Dataset
from state_engine.data.gene_columns import VERSION, write_columns
from state_engine.errors import ConfigError
from state_engine.files import read_json, write_json
from state_engine.library.people import check_quota
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent

FOLDER: Final = "genes"
WORTH: Final = 20_000_000  # stored values from which reading one gene by way of the cells takes noticeably long


@dataclass(frozen=True)
class _Known:
    """The content of a file: `path` where it lies, `hash` the sha256 of its bytes."""

    path: str
    hash: str


def is_worth(dataset: Dataset) -> bool:
    """Return whether a data set is so large that its expression should be kept by gene too."""
    return dataset.expression is not None and dataset.representation(dataset.expression).stored >= WORTH


def find_columns(settings: Settings, dataset: Dataset) -> Path | None:
    """Return where the expression of a data set lies by gene; None when it was not made, or the file was changed since."""
    known = _known(_note(settings, dataset))
    place = _place(settings, dataset, known.hash) if known is not None else None
    return place if place is not None and place.is_file() else None


def make_columns(settings: Settings, dataset: Dataset, on_progress: OnProgress = silent) -> Path:
    """Return where the expression of a data set lies by gene; it is written when it is not there.

    Raises:
        DataError, RequestError: see `write_columns`. QuotaError: the owner has no room left.
    """
    place = find_columns(settings, dataset)
    if place is not None:
        return place
    on_progress(Progress("Reading the data set"))
    place = _place(settings, dataset, dataset.hash())
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_file():
        check_quota(settings)
        write_columns(dataset, place, on_progress)
    write_json(_note(settings, dataset), to_plain(_Known(str(dataset.path), dataset.hash())))
    return place


def forget_columns(settings: Settings, path: Path) -> None:
    """Delete what is kept by gene of a file, unless another file has the same content."""
    notes = {note: known for note in _folder(settings).glob("*.json") if (known := _known(note)) is not None}
    own = {note: known for note, known in notes.items() if known.path == str(path)}
    others = {known.hash for note, known in notes.items() if note not in own and Path(known.path).exists()}
    for note, known in own.items():
        note.unlink(missing_ok=True)
        for place in _folder(settings).glob(f"{known.hash[:32]}-*.h5") if known.hash not in others else ():
            place.unlink(missing_ok=True)


def _folder(settings: Settings) -> Path:
    return settings.home / FOLDER


def _note(settings: Settings, dataset: Dataset) -> Path:
    state = f"{dataset.path}\n{dataset.file.nbytes} {dataset.file.modified}"
    return _folder(settings) / f"{hashlib.sha256(state.encode()).hexdigest()[:24]}.json"


def _place(settings: Settings, dataset: Dataset, content: str) -> Path:
    question = f"{VERSION} {dataset.expression} {dataset.scale.scale}"
    return _folder(settings) / f"{content[:32]}-{hashlib.sha256(question.encode()).hexdigest()[:8]}.h5"


def _known(note: Path) -> _Known | None:
    try:
        return from_plain(_Known, read_json(note))
    except (OSError, ValueError, ConfigError):
        return None
