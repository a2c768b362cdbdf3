"""A prediction that is a table of effects, from any program: read, and made cells of, so that it is evaluated like every other.

A .csv, .tsv or .parquet, in one of two forms; `context` and `p_de` may be missing, and other columns of the long form are left out:

    long   perturbation, context, gene, effect, p_de      a row for each gene; p_de: how sure the program is that the gene changes, 0 to 1
    wide   perturbation, context, GENE, GENE, …           a row for each condition

An effect is the mean log1p expression of the perturbed cells minus that of the control, on the scale of the measured cells. Without
`context` it holds in every context. Its cells are control cells of the context, moved by it (`effects.apply`), as many as were measured.

Notation: k conditions, g genes.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine import keys
from state_engine.data.cell_sets import draw_basal
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.expression import FeatureSource, iter_features, match_genes, read_features
from state_engine.data.files.columns import Coded
from state_engine.data.files.csr_writer import Spool, write_h5ad
from state_engine.data.files.parquet import parquet_columns, read_parquet
from state_engine.data.files.text import read_text_file
from state_engine.effects.apply import Moving, apply_effect
from state_engine.errors import EmptyDataError, GeneError, RequestError, UnreadableFileError, cut, door, listed
from state_engine.files import replacing
from state_engine.plain import agreed, plural
from state_engine.progress import OnProgress, Progress, silent

ENDINGS: Final = (".csv", ".tsv", ".parquet")
MOST_CELLS: Final = 2048  # made of a condition
MOST_VALUES: Final = 400e6  # of a table
MOST_BYTES: Final = 2 << 30  # of a table that is text
MOST_EFFECT: Final = 50.0  # a cell of e^50 counts there is not
_LABELS: Final = ("perturbation", "context")
_NEEDED: Final = ("gene", "effect")  # columns of the long form
_LONG: Final = (*_LABELS, *_NEEDED, "p_de")
_MISSING: Final = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"]


@dataclass(frozen=True, eq=False)
class ForeignEffects:
    """Effects by condition.

    Args:
        conditions: (perturbation, context); context "" for every one.
        genes: (g,) names.
        effects: (k, g) float32, log1p; NaN where the table says nothing.
        chances: (k, g) float32, how sure the program is that a gene changes, 0 to 1; None when the table does not say.
    """

    conditions: tuple[tuple[str, str], ...]
    genes: tuple[str, ...]
    effects: np.ndarray
    chances: np.ndarray | None = None

    def row(self, perturbation: str, context: str) -> int | None:
        """Return the row of a condition: its own, or that of the perturbation in every context."""
        for pair in ((perturbation, context), (perturbation, "")):
            if pair in self.conditions:
                return self.conditions.index(pair)
        return None


def is_effects_file(path: str) -> bool:
    """Whether a file is a table of effects, by its ending."""
    return path.lower().endswith(ENDINGS)


def read_effects(path: Path) -> ForeignEffects:
    """Return the effects of a table.

    Raises:
        UnreadableFileError: it cannot be read, lacks a column, repeats a condition, or has values that are no numbers.
    """
    frame = _read(path)
    if "perturbation" not in frame.columns:
        raise UnreadableFileError(
            f"{path.name} has no column 'perturbation'.",
            f"Its columns: {listed([str(c) for c in frame.columns])}.",
            "Name the columns perturbation, context (optional), gene, effect; or perturbation, context (optional) and one for each gene.",
        )
    if not len(frame):
        raise EmptyDataError(f"{path.name} has no rows.")
    rows, conditions = _conditions_of(frame)
    if set(_NEEDED) <= set(frame.columns):
        return _long(frame, rows, conditions, path.name)
    genes = [column for column in frame.columns if column not in _LABELS]
    if len(conditions) < len(rows):
        times = np.bincount(rows)
        repeated = [" in ".join(filter(None, conditions[at])) for at in np.flatnonzero(times > 1)]
        raise UnreadableFileError(f"{path.name} has conditions twice.", f"{listed(repeated)}.", "Leave one row for each.")
    values = _numbers(frame[genes], path.name)
    return _checked(ForeignEffects(conditions, tuple(map(str, genes)), values), path.name)


def _conditions_of(frame: pd.DataFrame) -> tuple[np.ndarray, tuple[tuple[str, str], ...]]:
    """Return the condition of each row as its number, (n,), and the conditions by first appearance."""
    p, perturbations = _labels(frame["perturbation"])
    c, contexts = _labels(frame["context"]) if "context" in frame.columns else (np.zeros(len(p), np.int64), [""])
    rows, pairs = pd.factorize(p * len(contexts) + c)
    return rows, tuple((perturbations[at // len(contexts)], contexts[at % len(contexts)]) for at in pairs.tolist())


def _labels(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the label of each row as its number, (n,) int64, and the labels, each once: a row may share a text that is very long.

    A missing one is "", and whole numbers stay whole where a missing one made them decimal.
    """
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    codes, values = pd.factorize(column)  # -1: missing
    missing = [""] if (codes < 0).any() else []
    again, labels = pd.factorize(np.array([*map(str, values.astype(object)), *missing], dtype=object))
    broken = [label for label in labels if len(label.splitlines()) > 1]
    if broken:
        raise UnreadableFileError(
            f"{column.name} has a label of several lines.",
            f"It begins with '{cut(broken[0].splitlines()[0])}'.",
            "Close each quote.",
        )
    return again[codes], labels.tolist()


def size_of_effects_file(path: Path) -> tuple[int, int]:
    """Return how many conditions and genes a table has, once all of it could be read.

    Raises:
        UnreadableFileError: see `read_effects`.
    """
    table = read_effects(path)
    return len(table.conditions), len(table.genes)


def _read(path: Path) -> pd.DataFrame:
    """The table; labels of text files as they are written, whatever they look like."""
    if not path.is_file():
        raise UnreadableFileError(f"{path.name} cannot be read.", "There is no such file.", "Check the path.")
    with door(path.name, UnreadableFileError, "Write the table again, as .csv, .tsv or .parquet."):
        if path.suffix.lower() == ".parquet":
            names = parquet_columns(path, MOST_VALUES)
            is_long = set(_NEEDED) <= set(names)
            frame = read_parquet(path, [name for name in names if name in _LONG] if is_long else None)
            named = [name for name in frame.index.names if name in _LABELS]
            return frame.reset_index(level=named) if named else frame
        text = read_text_file(path, UnreadableFileError, MOST_BYTES)
        if not text.strip():
            raise EmptyDataError(f"{path.name} has no rows.")
        head = text.splitlines()[0]
        separator = next((c for c in "\t;" if c in head), ",")
        names = next(csv.reader([head], delimiter=separator))
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise UnreadableFileError(f"{path.name} has columns twice.", f"{listed(twice)}.", "Leave one of each.")
        words = (*_LABELS, "gene")
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=dict.fromkeys(words, str),
            # "NA" may be the name of a gene or a label; among numbers it is a missing one
            keep_default_na=False,
            na_values={name: _MISSING for name in names if name not in words},
        )
        if not isinstance(
            frame.index, pd.RangeIndex
        ):  # pandas made names of rows of what is more than the headings, from the left
            raise UnreadableFileError(
                f"{path.name} has rows longer than its headings.",
                f"It has {len(names):,} headings; the first row begins with {frame.index[0]}.",
                "Give each column a heading; in R write.table with row.names = FALSE.",
            )
        return frame


def _long(frame: pd.DataFrame, row: np.ndarray, conditions: tuple[tuple[str, str], ...], name: str) -> ForeignEffects:
    """Return the effects of a table with a row for each gene of each condition.

    Args:
        frame: the table.
        row: (n,) the condition of each of its rows, a number.
        conditions: all of them.
        name: of the file.
    """
    column, genes = _labels(frame["gene"])
    if len(conditions) * len(genes) > MOST_VALUES:
        raise UnreadableFileError(
            f"{name} is too large.", f"{plural(len(conditions), 'condition')} x {plural(len(genes), 'gene')}."
        )
    if pd.Series(row * len(genes) + column).duplicated().any():
        raise UnreadableFileError(f"{name} has a gene of a condition twice.", "Each has one row.")
    found = {}
    for key in ("effect", "p_de"):
        if key in frame.columns:
            values = np.full((len(conditions), len(genes)), np.nan, np.float32)
            values[row, column] = _numbers(frame[[key]], name)[:, 0]
            found[key] = values
    return _checked(ForeignEffects(conditions, tuple(genes), found["effect"], found.get("p_de")), name)


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    try:
        if any(pd.api.types.is_bool_dtype(kind) for kind in frame.dtypes):
            raise ValueError("true and false")
        return frame.to_numpy(np.float32)
    except (ValueError, TypeError) as error:
        raise UnreadableFileError(f"{name} has effects that are no numbers.", "Columns of genes hold numbers only.") from error


def _checked(table: ForeignEffects, name: str) -> ForeignEffects:
    infinite = int(np.isinf(table.effects).sum())
    if infinite:
        raise UnreadableFileError(f"{name} has infinite effects.", f"{infinite:,} of {table.effects.size:,}.")
    if np.isnan(table.effects).all():
        raise UnreadableFileError(f"{name} has no effects.", "Every value is missing.")
    largest = float(np.nanmax(np.abs(table.effects)))
    if largest > MOST_EFFECT:
        raise UnreadableFileError(
            f"{name} has effects that no log1p expression has.",
            f"Up to {largest:.3g}; an effect is a difference of mean log1p expression.",
            "Write effects of log1p expression.",
        )
    chances = table.chances
    if chances is not None and ((chances < 0) | (chances > 1)).any():
        raise UnreadableFileError(f"{name} has values of p_de that are no probabilities.", "They lie between 0 and 1.")
    return table


def write_cells(
    table: ForeignEffects,
    real: Dataset,
    expression: FeatureSource,
    choices: Choices,
    path: Path,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> list[str]:
    """Write the cells that the effects predict, log1p, and return remarks.

    Args:
        table: effects.
        real: the measured cells, with control cells.
        expression: how genes of `real` are read as log1p expression.
        choices: names of the label columns of the file.
        path: .h5ad to make.
        seed: of the control cells.
        on_progress: told condition by condition.

    Raises:
        GeneError: the table and the cells share no gene. RequestError: they share no condition.
    """
    matched = match_genes(real, table.genes)
    shared = np.flatnonzero(np.asarray(matched.columns) >= 0)
    if not len(shared):
        raise GeneError(
            "The table of effects and the measured cells share no gene.",
            f"Effects, such as {listed(table.genes, 3)}; measured, such as {listed(real.genes.names, 3)}.",
        )
    names = tuple(table.genes[i] for i in shared)
    read = FeatureSource(expression.representation, tuple(int(matched.columns[i]) for i in shared), expression.normalise)
    wanted = list(_conditions(table, real))
    if not wanted:
        raise RequestError(
            "The table of effects has no measured condition.",
            f"Effects of {listed([p for p, _ in table.conditions], 4)}; measured: {listed([str(p) for p in real.perturbations], 4)}.",
            "Name perturbations and contexts as the measured cells do.",
        )
    missing, labels, controls = 0, list[tuple[str, str, int]](), dict[str, np.ndarray]()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".effects-") as folder, Spool(Path(folder)) as spool:
        for number, (p, c, n) in enumerate(wanted):
            on_progress(Progress("Applying effects to control cells", number, len(wanted)))
            at = table.row(p, c)
            assert at is not None
            effect = table.effects[at, shared]
            missing += int(np.isnan(effect).sum())
            rows = draw_basal(real.control_rows(c), n, np.random.default_rng(seed + number))
            unique, back = np.unique(rows, return_inverse=True)  # a cell may be drawn several times, and is read once
            cells = read_features(real, read, unique)[back]
            if c not in controls:
                controls[c] = _mean(real, read, real.control_rows(c))
            # the drawn cells are not quite the mean control cell; the predicted mean is that cell and the effect
            to_control = controls[c] - cells.mean(axis=0, dtype=np.float64)
            moved = apply_effect(cells, (np.nan_to_num(effect) + to_control).astype(np.float32))
            spool.add(sp.csr_matrix(Moving.of(cells, None, seed).cells(cells, moved, (p, c))))
            labels.append((p, c, n))
        columns = {choices.perturbation_key or keys.PERTURBATION: _coded([(p, n) for p, _, n in labels])}
        if choices.context_key:
            columns[choices.context_key] = _coded([(c, n) for _, c, n in labels])
        with replacing(path) as beside:
            write_h5ad(beside, spool, names, columns)
    remarks = [f"Cells of {path.stem} are control cells moved by the effects of its table."]
    if missing:
        words = agreed(missing, "effect is missing", "effects are missing")
        remarks.append(f"{missing:,} {words} in {path.stem}; {agreed(missing, 'it counts', 'they count')} as 0.")
    return remarks


def _mean(real: Dataset, source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Mean expression of some cells, (g,) float64."""
    total = np.zeros(len(source.columns or ()))
    for _, values in iter_features(real, source, rows):
        total += values.sum(axis=0, dtype=np.float64)
    return np.asarray(total / len(rows))


def _conditions(table: ForeignEffects, real: Dataset) -> Iterator[tuple[str, str, int]]:
    """Measured conditions that the table says something about, with how many cells are made."""
    for context in real.contexts:
        if not len(real.control_rows(context)):
            continue
        for p in real.perturbations:
            n = len(real.rows(p, context))
            if n and p != real.labels.control and table.row(p, context) is not None:
                yield str(p), str(context), min(n, MOST_CELLS)


def _coded(parts: list[tuple[str, int]]) -> Coded:
    """A label column of runs of equal labels."""
    names = tuple(dict.fromkeys(name for name, _ in parts))
    place = {name: i for i, name in enumerate(names)}
    return Coded(np.repeat([place[name] for name, _ in parts], [n for _, n in parts]).astype(np.int32), names)
