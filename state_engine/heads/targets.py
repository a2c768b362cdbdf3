"""What a head learns of each cell, read from obs: one label, several labels, or a number. Every way in which a column cannot be learnt
has a sentence of its own.

Notation: n cells of the file, m cells with a target, k labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine.data.dataset import Dataset
from state_engine.data.files.columns import read_column
from state_engine.data.files.hdf5 import column_names, open_h5
from state_engine.data.labels import as_labels
from state_engine.errors import LabelError, listed, may_be, near_each
from state_engine.heads.report import UNKNOWN, unknown_word
from state_engine.heads.request import LARGEST, FinetuneRequest, Task
from state_engine.plain import agreed, plural, visible

INFINITE = frozenset(sign + word for sign in ("", "+", "-") for word in ("inf", "infinity"))  # as numbers and words are read
LEAST = 3  # cells of a label: one to train on, one to validate on, one to test on
LEAST_CELLS = 10
Truth = NDArray[np.int64] | NDArray[np.float64]
YES = frozenset({"true", "yes", "y", "t", "1", "1.0"})
NO = frozenset({"false", "no", "n", "f", "0", "0.0"})


@dataclass(frozen=True, eq=False)
class Targets:
    """What is learnt.

    Args:
        task: which kind.
        rows: (m,) cells of the file, ascending.
        values: (m,) places in `labels`; of several labels (m, k) of 0 and 1; of a regression (m,) numbers. float64 or int64.
        labels: (k,) by name; empty for a regression.
        unlabelled, too_few: cells left out.
        remarks: sentences worth showing.
    """

    task: Task
    rows: NDArray[np.int64]
    values: Truth
    labels: tuple[str, ...]
    unlabelled: int = 0
    too_few: int = 0
    remarks: tuple[str, ...] = ()

    def strata(self, bins: int = 10) -> NDArray[np.int64]:
        """Return (m,) groups of cells that each part should have alike: the label, the set of labels, or a tenth of the numbers."""
        if self.task == "classification":
            return self.values.astype(np.int64)
        if self.task == "multi-label":
            return np.unique(self.values, axis=0, return_inverse=True)[1].ravel()
        ranks = np.argsort(np.argsort(self.values, kind="stable"), kind="stable")
        return ranks * min(bins, max(1, len(ranks) // LEAST)) // len(ranks)


def read_targets(dataset: Dataset, request: FinetuneRequest) -> Targets:
    """Read what a head is to learn.

    Raises:
        LabelError: a column that is not there, is empty, has one label only, labels with too few cells, or text where numbers belong.
    """
    series = [_column(dataset, name) for name in request.labels]
    if request.task == "regression":
        return _numbers(series[0], request.labels[0])
    if request.task == "multi-label":
        return _several(series, request)
    return _one_each(series[0], request)


def _column(dataset: Dataset, name: str) -> pd.Series:
    with open_h5(dataset.path) as file:
        known = column_names(file["obs"])
        if name not in known:
            raise LabelError(
                f"There is no column '{name}' in obs.",
                f"There are: {listed(known, 12) or 'none'}.",
                may_be(near_each([name], known)) or "Choose one of them.",
            )
        return read_column(file["obs"], name, dataset.n_cells)


def _one_each(series: pd.Series, request: FinetuneRequest) -> Targets:
    column = request.labels[0]
    found = as_labels(series)
    codes, names = np.asarray(found.codes, np.int64), tuple(map(str, found.categories))
    rows = np.flatnonzero(codes >= 0)
    _check_labelled(rows, column)
    _check_labels(names, len(rows), column, series)
    counts = np.bincount(codes[rows], minlength=len(names))
    few = [name for name, count in zip(names, counts, strict=True) if count < (request.least_cells or LEAST)]
    if few and request.least_cells is None:
        raise LabelError(
            f"{plural(len(few), 'label')} of '{column}' {agreed(len(few), 'has', 'have')} fewer than {LEAST} cells: "
            f"{_counted(few, names, counts)}.",
            "A label needs a cell to train on, one to validate on and one to test on.",
            f"Merge them with others, or leave such labels out with --least-cells {LEAST}.",
        )
    kept = [name for name in names if name not in few]
    if len(kept) < 2:
        raise LabelError(
            f"Only {plural(len(kept), 'label')} of '{column}' {agreed(len(kept), 'has', 'have')} {request.least_cells:,} cells or more.",
            "A head tells labels apart.",
            "Ask for fewer cells of a label.",
        )  # fmt: skip
    place = np.array([kept.index(name) if name in kept else -1 for name in names])
    there = place[codes[rows]] >= 0
    remarks = _remarks(len(codes) - len(rows), column, tuple(kept))
    if few:
        lost = int((~there).sum())
        remarks += (f"{plural(lost, 'cell')} of {plural(len(few), 'label')} with fewer than {request.least_cells:,} cells "
                    f"{agreed(lost, 'is', 'are')} left out: {_counted(few, names, counts)}.",)  # fmt: skip
    rows_kept = rows[there]
    return Targets(
        "classification", rows_kept, place[codes[rows_kept]], tuple(kept), len(codes) - len(rows), int((~there).sum()), remarks
    )


def _several(series: list[pd.Series], request: FinetuneRequest) -> Targets:
    if len(series) == 1:
        rows, values, names = _separated(series[0], request)
    else:
        rows, values, names = _yes_or_no(series, request.labels)
    column = listed(list(request.labels))
    n = len(series[0])
    _check_labelled(rows, column)
    counts = values.sum(0).astype(int)
    few = [j for j, count in enumerate(counts) if min(count, len(rows) - count) < (request.least_cells or LEAST)]
    if few and request.least_cells is None:
        raise LabelError(
            f"{plural(len(few), 'label')} of '{column}' {agreed(len(few), 'is that', 'are those')} of nearly no cell, or of nearly all: "
            f"{_counted([names[j] for j in few], names, counts)}.",
            f"Each needs {LEAST} cells that have it and {LEAST} that do not.",
            f"Leave such labels out with --least-cells {LEAST}.",
        )
    kept = [j for j in range(len(names)) if j not in few]
    if not kept:
        raise LabelError(f"No label of '{column}' has enough cells.", "", "Ask for fewer cells of a label.")
    remarks = _remarks(n - len(rows), column, tuple(names[j] for j in kept))
    if few:
        said = plural(len(few), "label with too few cells is", "labels with too few cells are")
        remarks += (f"{said} left out: {listed_labels([names[j] for j in few])}.",)
    return Targets("multi-label", rows, values[:, kept], tuple(names[j] for j in kept), n - len(rows), 0, remarks)


def _separated(series: pd.Series, request: FinetuneRequest) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Cells, their labels as 0 and 1, and the labels of a column such as "T cell;activated"."""
    found = as_labels(series)
    codes = np.asarray(found.codes, np.int64)
    parts = [[word.strip() for word in str(text).split(request.separator)] for text in found.categories]
    names = tuple(sorted({word for words in parts for word in words if word}))
    if not names:
        _check_labelled(np.empty(0, np.int64), request.labels[0])
    place = {name: j for j, name in enumerate(names)}
    table = np.zeros((len(parts), len(names)), np.int64)
    for row, words in enumerate(parts):
        table[row, [place[word] for word in words if word]] = 1
    rows = np.flatnonzero(codes >= 0)
    if len(names) < 2:
        _check_labels(names, len(rows), request.labels[0], series)
    return rows, table[codes[rows]], names


def _yes_or_no(series: list[pd.Series], columns: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Cells, their labels as 0 and 1, and the labels of columns of yes and no; a cell that lacks one of them is left out."""
    values = np.full((len(series[0]), len(columns)), -1, np.int64)
    for j, (column, name) in enumerate(zip(series, columns, strict=True)):
        found = as_labels(column)
        words = [str(word).strip().lower() for word in found.categories]
        other = [str(w) for w, low in zip(found.categories, words, strict=True) if low not in YES | NO]
        if other:
            raise LabelError(
                f"The column '{name}' is not one of yes and no.", f"It has {listed_labels(other)}.",
                "With several columns each says yes or no (true/false, 1/0); one column may hold several labels with a separator.",
            )  # fmt: skip
        to_value = np.array([*(int(word in YES) for word in words), -1])
        values[:, j] = to_value[np.asarray(found.codes, np.int64)]
    rows = np.flatnonzero((values >= 0).all(1))
    return rows, values[rows], columns


def _numbers(series: pd.Series, column: str) -> Targets:
    plain = series.astype(object) if isinstance(series.dtype, pd.CategoricalDtype) else series
    numbers = pd.to_numeric(plain, errors="coerce").to_numpy(float)
    missing = ~np.isfinite(numbers)
    labelled = np.asarray(as_labels(series).codes) >= 0
    infinite = np.isinf(numbers)
    text = labelled & missing & ~infinite
    if text.any():
        words = [str(w) for w in pd.unique(plain[text])]
        raise LabelError(
            f"'{column}' is text, not numbers.",
            f"{plural(int(text.sum()), 'cell has', 'cells have')} words such as {listed_labels(words, 3)}.",
            "A regression learns numbers; choose another column, or --task classification.",
        )  # fmt: skip
    rows = np.flatnonzero(~missing)
    if infinite.any() and not len(rows):
        raise LabelError(
            f"'{column}' has no number that can be learnt.", f"{plural(int(infinite.sum()), 'cell has', 'cells have')} an infinite one.",
            "Give them finite numbers, or choose another column.",
        )  # fmt: skip
    _check_labelled(rows, column)
    if len(rows) < LEAST_CELLS:
        raise LabelError(
            f"Only {plural(len(rows), 'cell has', 'cells have')} a number in '{column}'.",
            f"At least {LEAST_CELLS} are needed.",
            "Label more.",
        )
    largest = float(np.abs(numbers[rows]).max())
    if largest > LARGEST:
        raise LabelError(
            f"'{column}' has numbers as large as {largest:.0e}.", f"Those above {LARGEST:.0e} cannot be learnt: their squares have no number.",
            "Give them in another unit, or their logarithms.",
        )  # fmt: skip
    if np.ptp(numbers[rows]) == 0:
        raise LabelError(
            f"'{column}' has one number only, {numbers[rows[0]]:g}.", "There is nothing to learn.", "Choose another column."
        )
    remarks = _remarks(int((missing & ~infinite).sum()), column, ())
    if infinite.any():
        said = plural(int(infinite.sum()), "cell with an infinite number", "cells with an infinite number")
        remarks += (f"{said} in '{column}' {agreed(int(infinite.sum()), 'is', 'are')} left out: none can be learnt.",)
    return Targets("regression", rows, numbers[rows], (), len(numbers) - len(rows), 0, remarks)


def _check_labelled(rows: NDArray[np.int64], column: str) -> None:
    if not len(rows):
        raise LabelError(
            f"The column '{column}' is empty.",
            "No cell has a value there (all are missing).",
            "Choose another column, or label cells.",
        )


def _check_labels(names: tuple[str, ...], n: int, column: str, series: pd.Series) -> None:
    """Raise where there is one label only, or next to as many as cells."""
    if len(names) < 2:
        raise LabelError(
            f"'{column}' has one label only, {listed_labels(names) or 'none'}.",
            f"All {n:,} labelled cells have it." if n > 1 else "One cell has it.",
            "A head tells labels apart: label some cells otherwise, or choose another column.",
        )  # fmt: skip
    if len(names) > n / 2:
        numeric = pd.api.types.is_numeric_dtype(series.dtype)
        raise LabelError(
            f"'{column}' has {len(names):,} labels for {plural(n, 'cell')}.",
            "These are numbers, which a regression learns." if numeric else "These look like names of cells.",
            "Choose --task regression." if numeric else "Choose a column of labels that several cells share.",
        )


def _counted(few: list[str], names: tuple[str, ...], counts: NDArray[np.generic]) -> str:
    of = dict(zip(names, counts.tolist(), strict=True))
    return listed([f"'{visible(name)}' ({of[name]:,})" for name in few])


def listed_labels(names: Iterable[str], most: int = 5) -> str:
    """The first few labels for a message; a line end in one is shown as an escape."""
    return listed([visible(name) for name in names], most)


def _remarks(unlabelled: int, column: str, names: tuple[str, ...]) -> tuple[str, ...]:
    said = []
    if unlabelled:
        said.append(f"{plural(unlabelled, 'cell')} without a value in '{column}' {agreed(unlabelled, 'is', 'are')} left out.")
    plain = Counter(" ".join(name.lower().split()) for name in names)
    alike = [n for n in names if plain[" ".join(n.lower().split())] > 1]
    if alike:
        said.append(
            f"Labels of '{column}' differ only by case or blanks and are learnt as different ones: {listed([repr(n) for n in alike])}."
        )
    if odd := [name for name in names if name.lower() in INFINITE]:
        said.append(f"'{column}' has {listed_labels(odd)} as a label: cells with it are learnt as any others.")
    if (word := unknown_word(names)) != UNKNOWN:
        said.append(f"'{column}' has a label '{UNKNOWN}': cells that the head is not sure of are called '{word}' in its place.")
    return tuple(said)
