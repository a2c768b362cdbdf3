"""Labels that people give to cells by hand, in rounds: kept beside a data set, never in its file.

HOME/labels/ID.json     `HandLabels` of the data set ID

A round says what some cells are; where rounds disagree the last one counts, and a round without a label takes labels off. Boundary: rows
and words; which cells are meant is decided on a map.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from state_engine.config import Settings
from state_engine.data.cell_ontology import terms
from state_engine.data.dataset import Dataset
from state_engine.data.files.added_columns import check_name, copy_with_columns
from state_engine.data.files.text import read_rows
from state_engine.errors import LabelError, RequestError, RunError, UnreadableFileError, listed
from state_engine.files import write_json
from state_engine.library.datasets import DataEntry
from state_engine.plain import first_places, read_json_as, to_plain, visible, writable
from state_engine.progress import OnProgress, silent

COLUMN: Final = "cell_label"
TERM: Final = "_term"  # behind the name of a column: that of the ontology's ids
MOST_LETTERS: Final = 120
MOST_DIGITS: Final = 18  # of a row
DISCARD: Final = "Discard the labels, and label anew."


@dataclass(frozen=True)
class Round:
    """Cells that got a label together.

    Args:
        label: what they are; "" takes their labels off.
        term: id of the Cell Ontology; "" for a label of one's own.
        cells: how many.
        rows: which: a bit for each cell of the data set, first cell first, packed by zlib and written in base64.
        where: how they were chosen, for people ("lasso on the map of …").
        created: ISO time (UTC).
    """

    label: str
    term: str
    cells: int
    rows: str
    where: str
    created: str

    def mask(self, n: int) -> np.ndarray:
        """Return which of n cells they are, (n,) truth values.

        Raises:
            RunError: what was kept is damaged.
        """
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(self.rows, validate=True), (n + 7) // 8)
            found = np.unpackbits(np.frombuffer(packed, np.uint8), count=n).astype(bool)
        except (ValueError, zlib.error) as error:
            raise RunError("The labels given by hand cannot be read.", f"{error}.", DISCARD) from error
        if len(packed) != (n + 7) // 8 or int(found.sum()) != self.cells:
            raise RunError("The labels given by hand cannot be read.", "Their rows do not fit the number of cells.", DISCARD)
        return found


@dataclass(frozen=True)
class HandLabels:
    """All rounds of a data set.

    Args:
        cells: of the data set.
        file: sha256 of its file, which the rows belong to.
        size, modified: of the file when the hash was last compared, so that it is not computed each time.
        rounds: the first one first.
        undone: rounds taken back, the last one last, until there is a new round.
    """

    cells: int
    file: str
    size: int
    modified: int
    rounds: tuple[Round, ...] = ()
    undone: tuple[Round, ...] = ()

    def column(self) -> pd.Categorical:
        """Return the label of each cell, (n,); missing where it has none."""
        names = sorted({one.label for one in self.rounds} - {""})
        codes = np.full(self.cells, -1, np.int32)
        for one in self.rounds:
            codes[one.mask(self.cells)] = names.index(one.label) if one.label else -1
        return pd.Categorical.from_codes(codes, names).remove_unused_categories()

    def term_of(self, label: str) -> str:
        """Return the ontology's id of a label, as the last round with it says; "" for none."""
        return next((one.term for one in reversed(self.rounds) if one.label == label), "")

    def counts(self) -> pd.DataFrame:
        """Return a row for each label, most cells first: label, term, cells."""
        found = self.column().value_counts()
        found = found[found > 0].sort_values(ascending=False, kind="stable")
        labels = [str(name) for name in found.index]
        return pd.DataFrame({"label": labels, "term": [self.term_of(one) for one in labels], "cells": found.to_numpy()})


def labels_of(settings: Settings, entry: DataEntry, data: Dataset) -> HandLabels:
    """Return what was labelled by hand in a data set; nothing yet is no error.

    Raises:
        RunError: what was kept cannot be read.
        LabelError: the data set's file is another one now, so that rows are other cells.
    """
    found = read_json_as(HandLabels, _place(settings, entry), "labels", DISCARD)
    size, modified = data.file.nbytes, data.file.modified
    if found is None or not (found.rounds or found.undone):
        return HandLabels(data.n_cells, "", size, modified)
    if (found.cells, found.size, found.modified) == (data.n_cells, size, modified):
        return found
    if found.cells != data.n_cells or found.file != data.hash():
        raise LabelError(
            f"The cells of {entry.name} were labelled by hand in another file.",
            f"Its file was changed afterwards; the labels belong to one of {found.cells:,} cells.",
            "Bring the old file back, or discard the labels.",
        )
    return _keep(settings, entry, replace(found, size=size, modified=modified))


def version_of(settings: Settings, entry: DataEntry) -> str:
    """Return a code of the labels of a data set: another one after each change, "" for none.

    Raises:
        RunError: what was kept cannot be read.
    """
    found = read_json_as(HandLabels, _place(settings, entry), "labels", DISCARD)
    return "" if found is None else hashlib.sha256(repr(found.rounds).encode()).hexdigest()


def add_round(
    settings: Settings, entry: DataEntry, data: Dataset, rows: Sequence[int] | np.ndarray, label: str, term: str = "", where: str = ""
) -> HandLabels:  # fmt: skip
    """Label cells, or with "" take their labels off; what was undone before cannot be had back then.

    Args:
        settings, entry, data: whose cells.
        rows: of the data set, in any order.
        label: what the cells are.
        term: id of the Cell Ontology that the label stands for; "" for a label of one's own.
        where: how the cells were chosen, for people.

    Raises:
        RequestError: no cell, rows that are not there, a label that is too long, or a term that is not known.
        LabelError, RunError: see `labels_of`.
    """
    places, label = np.unique(np.asarray(rows, np.int64)), " ".join(label.split())
    _check(places, label, term, entry.name, data.n_cells)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    one = Round(label, term, len(places), _packed(places, data.n_cells), where, now)
    old = labels_of(settings, entry, data)
    changed = replace(old, rounds=(*old.rounds, one), undone=(), file=old.file or data.hash())
    return _keep(settings, entry, changed)


def _check(rows: np.ndarray, label: str, term: str, name: str, cells: int) -> None:
    """Refuse what cannot be a round."""
    if not len(rows):
        raise RequestError(
            "No cell of the data set is chosen.", "Predicted cells have no label of their own.", "Choose measured cells."
        )
    if rows[0] < 0 or rows[-1] >= cells:
        raise RequestError(f"There is no row {rows[-1]:,}.", f"{name}: the data set has {cells:,} cells.", "Choose cells of it.")
    if len(label) > MOST_LETTERS:
        raise RequestError("The label is too long.", f"It has {len(label)} letters; {MOST_LETTERS} are possible.", "Shorten it.")
    if not writable(label):
        raise RequestError("The label has a sign that no file takes.", f"'{visible(label)}'.", "Write it again.")
    if term and term not in terms():
        raise RequestError(f"'{term}' is no term of the Cell Ontology.", "", "Choose a term, or give a label of your own.")


def undo(settings: Settings, entry: DataEntry, data: Dataset) -> HandLabels:
    """Take the last round back; do nothing where there is none."""
    old = labels_of(settings, entry, data)
    if not old.rounds:
        return old
    return _keep(settings, entry, replace(old, rounds=old.rounds[:-1], undone=(*old.undone, old.rounds[-1])))


def redo(settings: Settings, entry: DataEntry, data: Dataset) -> HandLabels:
    """Have back the round that was undone last; do nothing where there is none."""
    old = labels_of(settings, entry, data)
    if not old.undone:
        return old
    return _keep(settings, entry, replace(old, rounds=(*old.rounds, old.undone[-1]), undone=old.undone[:-1]))


def discard(settings: Settings, entry: DataEntry) -> None:
    """Forget every round; what was kept last lies beside, with the ending .old, until the next time."""
    settings.check_changes()
    place = _place(settings, entry)
    if place.exists():
        place.replace(place.with_suffix(".old"))


def labelled_copy(
    name: str, data: Dataset, labels: HandLabels, output: Path, column: str = COLUMN, on_progress: OnProgress = silent
) -> None:
    """Write a copy of a data set with the labels as a column of obs, and the ontology's ids in one beside it where there are any.

    Args:
        name: of the data set, for people.
        data, labels: which cells, and what they are called.
        output: the copy; it appears only when complete.
        column: its name.
        on_progress: is told how much was copied.

    Raises:
        RequestError: nothing is labelled, or the data set has such a column.
    """
    check_name(column)
    called = labels.column()
    if not len(called.categories):
        raise RequestError(f"No cell of {name} is labelled by hand.", "", "Label cells on the Explore or Embed page first.")
    if column in data.columns:
        raise RequestError(f"{name} has a column '{column}' already.", "It would be replaced.", "Give another name.")
    columns = {column: called}
    ids = np.array([*(labels.term_of(str(name)) for name in called.categories), ""], object)  # -1, no label, takes the last
    if ids.any():
        columns[column + TERM] = pd.Categorical(ids[called.codes], categories=sorted({*ids} - {""}))
    copy_with_columns(data.path, output, columns, on_progress)


def table(data_names: np.ndarray, labels: HandLabels) -> pd.DataFrame:
    """Return the labelled cells, a row for each: cell, row, label, term.

    Args:
        data_names: (n,) names of all cells.
        labels: of the data set.
    """
    column = labels.column()
    rows = np.flatnonzero(column.codes >= 0)
    called = np.asarray(column)[rows]
    ids = {str(name): labels.term_of(str(name)) for name in column.categories}
    return pd.DataFrame({"cell": data_names[rows], "row": rows, "label": called, "term": [ids[str(name)] for name in called]})


def labels_of_table(path: Path, data: Dataset) -> HandLabels:
    """Return the labels in a table such as `table` gives: columns cell or row, label, and perhaps term.

    Raises:
        UnreadableFileError: it is no table, or lacks a column.
        LabelError: it names a cell that is not in the data set, or that several have.
        RequestError: as `add_round`.
    """
    head, *lines = read_rows(path) or [[]]
    places = {name.strip().lower(): place for place, name in enumerate(head)}
    lines = [line for line in lines if any(line)]
    if "label" not in places or not {"cell", "row"} & places.keys():
        why = f"Its columns are {listed([name for name in places if name]) or 'none'}; it needs label, and cell or row."
        raise UnreadableFileError(f"{path.name} is no table of labels.", why, "Bring the CSV of the labels' list.")
    last = max(places[name] for name in {"label", "cell", "row"} & places.keys())
    short = next((line for line in lines if len(line) <= last), None)
    if short is not None:
        why = f"It has {len(short)} of the {len(head)} columns: {visible(','.join(short))}."
        raise UnreadableFileError(f"A line of {path.name} is too short.", why, "Mend the table.")
    found = dict[tuple[str, str], list[int]]()
    for row, line in zip(_rows(lines, places, data), lines, strict=True):
        term = line[places["term"]].strip() if places.get("term", len(line)) < len(line) else ""
        found.setdefault((" ".join(line[places["label"]].split()), term), []).append(row)
    for (label, term), rows in found.items():
        _check(np.unique(rows), label, term, path.name, data.n_cells)
    rounds = [
        Round(label, term, len(set(rows)), _packed(np.array(rows), data.n_cells), path.name, "")
        for (label, term), rows in found.items()
    ]
    return HandLabels(data.n_cells, "", data.file.nbytes, data.file.modified, tuple(rounds))


def _rows(lines: list[list[str]], places: dict[str, int], data: Dataset) -> list[int]:
    """Return the row of each line of a table of labels."""
    if "row" in places:
        words = [line[places["row"]].strip() for line in lines]
        if wrong := [w for w in words if not w.isdecimal() or len(w) > MOST_DIGITS]:
            raise LabelError(f"'{visible(wrong[0])}' is no row.", "Rows are counted from 0.", "Mend the table.")
        return [int(w) for w in words]
    names = data.obs_names.tolist()
    known, several = first_places(names), {name for name, n in Counter(names).items() if n > 1}
    wanted = [line[places["cell"]].strip() for line in lines]
    missing = [name for name in dict.fromkeys(wanted) if name not in known or name in several]
    if missing:
        why = f"{len(missing):,} of {len(set(wanted)):,} names are of no cell, or of several."
        raise LabelError(
            f"There is no single cell called {listed(missing, 3)}.", why, "Give rows, counted from 0, in a column 'row'."
        )
    return [known[name] for name in wanted]


def _packed(rows: np.ndarray, n: int) -> str:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode()


def _place(settings: Settings, entry: DataEntry) -> Path:
    return settings.home / "labels" / f"{entry.id}.json"


def _keep(settings: Settings, entry: DataEntry, labels: HandLabels) -> HandLabels:
    place = _place(settings, entry)
    place.parent.mkdir(parents=True, exist_ok=True)
    settings.check_changes()
    write_json(place, to_plain(labels))
    return labels
