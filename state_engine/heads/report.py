"""What fitting a head found, and what applying one called, as plain values. Read by pages and the command line; no torch.

The folder of a head holds `head.json` (its card), `model.safetensors`, `fitted.safetensors`, `report.json` (`HeadReport`) and `cells.csv`: the
cells it was tested on, with columns cell, row, part, group, truth, called, probability (regression: no probability), map_1 and map_2 (their
place on a map; heads of before have none). Where the model behind
it was tuned, that lies in `backbone`. The run of a job that fits has this folder as `head`; the run of one that annotates has
`annotation.json` and `labels.csv`, and its annotated cells become a data set of the library.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from state_engine.errors import RunError
from state_engine.heads.request import Task
from state_engine.plain import read_json_as

REPORT: Final = "report.json"
CELLS: Final = "cells.csv"
HEAD: Final = "head"
BACKBONE: Final = "backbone"
ANNOTATION: Final = "annotation.json"
LABELS: Final = "labels.csv"
ANNOTATED: Final = "annotated.h5ad"
UNKNOWN: Final = "unknown"  # what cells below the threshold are called, unless a label has that name; see `unknown_word`
UNSURE: Final = "not called"
FORMAT: Final = 1
MethodKind = Literal["head", "regression", "neighbours"]


@dataclass(frozen=True)
class Score:
    """A metric on the test cells with its bootstrap interval (95 %); None where it is not defined."""

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Method:
    """The head, or a baseline beside it.

    Args:
        name: for people.
        kind: which of them.
        scores: on the test cells. Of labels accuracy, balanced_accuracy and, as means over labels, precision, recall, f1 and auroc (of
            several labels for each cell accuracy is that of all at once); of numbers r2, mae and spearman.
        note: what it read and how, a sentence; or why it has no scores.
    """

    name: str
    kind: MethodKind
    scores: tuple[Score, ...]
    note: str = ""

    def score(self, metric: str) -> Score | None:
        """Return one of its scores; None when it is not there."""
        return next((one for one in self.scores if one.metric == metric), None)


@dataclass(frozen=True)
class LabelCount:
    """A label, its cells in each part, and how well it is called in the test; None where that is not defined."""

    label: str
    train: int
    validation: int
    test: int
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    auroc: float | None = None


@dataclass(frozen=True)
class Bin:
    """Test cells whose probability of what is called lies between two bounds: the mean of it, and the share that is right."""

    lower: float
    upper: float
    cells: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class WrongCell:
    """A test cell that is called wrongly; of a regression, one of those that are farthest off."""

    cell: str
    row: int
    group: str
    truth: str
    called: str
    probability: float | None


@dataclass(frozen=True)
class SplitUsed:
    """How cells were divided.

    Args:
        kind: by label, or with whole groups in one part.
        column: of the groups; "" without any.
        train, validation, test: cells.
        test_groups, validation_groups: the groups of these parts; empty without a column.
        seed: of the draw.
        unlabelled, too_few: cells left out, without a label, or of labels with too few cells.
    """

    kind: Literal["stratified", "groups"]
    column: str
    train: int
    validation: int
    test: int
    test_groups: tuple[str, ...]
    validation_groups: tuple[str, ...]
    seed: int
    unlabelled: int = 0
    too_few: int = 0


@dataclass(frozen=True)
class Epoch:
    """Mean losses of one pass over the training cells."""

    epoch: int
    train: float
    validation: float


@dataclass(frozen=True)
class HeadReport:
    """What came out of a fine-tuning.

    Args:
        format: version of this file's layout.
        name, id: of the head.
        task: what it calls.
        columns: of obs that it learnt.
        labels: that it calls, in the order of the confusion matrix; empty for a regression.
        head, tune: as asked.
        vectors: where they come from, words; `width` their columns.
        split: how cells were divided.
        methods: the head first, then the baselines, on the same test cells.
        label_counts: a row for each label; empty for a regression.
        confusion: test cells, a row for each true label, a column for each called one; empty unless it is a classification.
        reliability: after calibration; `calibration_error` is its weighted mean gap, `error_before` that without calibration.
        temperature: by which the network's outputs are divided.
        wrong: the test cells called wrongly with most confidence (or farthest off), `n_wrong` of them in all.
        epochs: losses; `best_epoch` is the one whose weights were kept.
        trained: weights that were trained, of `weights` in head and model together.
        seconds: the whole took; `vector_seconds` of it the vectors.
        device: for people.
        remarks: sentences that belong beside the numbers.
        seed: as asked.
        versions: of the packages that shape the numbers.
    """

    format: int
    name: str
    id: str
    task: Task
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    head: str
    tune: str
    vectors: str
    width: int
    split: SplitUsed
    methods: tuple[Method, ...]
    label_counts: tuple[LabelCount, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[Bin, ...] = ()
    calibration_error: float | None = None
    error_before: float | None = None
    temperature: float = 1.0
    wrong: tuple[WrongCell, ...] = ()
    n_wrong: int = 0
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int = 0
    trained: int = 0
    weights: int = 0
    seconds: float = 0.0
    vector_seconds: float = 0.0
    device: str = ""
    remarks: tuple[str, ...] = ()
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def own(self) -> Method:
        """The head's scores."""
        return self.methods[0]


@dataclass(frozen=True)
class Share:
    """How many cells are called a label, and as a part of all that were called; `mean` is the mean probability of the label."""

    label: str
    cells: int
    share: float
    mean: float


@dataclass(frozen=True)
class CalledGroup:
    """What cells of one kind of a condition of a prediction are called.

    Args:
        kind: "predicted", "predicted control", "measured" or "measured control".
        perturbation, context: the condition; of controls the perturbation is the one they are paired with.
        cells: how many.
        shares: of each label, unknown last; empty for a regression.
        value, spread: mean and standard deviation of the numbers of a regression.
    """

    kind: Literal["predicted", "predicted control", "measured", "measured control"]
    perturbation: str
    context: str
    cells: int
    shares: tuple[Share, ...] = ()
    value: float | None = None
    spread: float | None = None

    def share(self, label: str) -> float | None:
        """Return the part of the cells called a label; None when it is not a label of the head."""
        return next((one.share for one in self.shares if one.label == label), None)


@dataclass(frozen=True)
class Annotation:
    """What a head called the cells of a data set or a prediction (`annotation.json` of a job).

    Args:
        format: version of this file's layout.
        head, head_id: name and id of the head.
        task: what it calls.
        data: name of the annotated file.
        cells: of it; `empty` had no vector and are called unknown.
        threshold: as asked; `unknown` cells fell below it or had no vector.
        shares: of each label, unknown last, under a name that no label has; empty for a regression.
        groups: of a prediction, each condition's cells by kind.
        value, spread: mean and standard deviation of the numbers of a regression.
        vectors: where they came from, words.
        seconds, device: of all of it.
        remarks: sentences worth showing.
        dataset: id of the annotated data set in the library, where a job kept one.
        fitted_on: cells that have the names of cells the head was fitted on; None where it does not say which those are.
    """

    format: int
    head: str
    head_id: str
    task: Task
    data: str
    cells: int
    empty: int
    threshold: float
    unknown: int
    shares: tuple[Share, ...] = ()
    groups: tuple[CalledGroup, ...] = ()
    value: float | None = None
    spread: float | None = None
    vectors: str = ""
    seconds: float = 0.0
    device: str = ""
    remarks: tuple[str, ...] = ()
    dataset: str = ""
    fitted_on: int | None = None

    @property
    def unknown_share(self) -> Share | None:
        """How many cells are called no label; None for a regression."""
        return self.shares[-1] if self.shares else None


def unknown_word(labels: Iterable[str]) -> str:
    """Return what cells below the threshold and without a vector are called, so that no label of the head is meant: "unknown" mostly."""
    taken = {" ".join(label.lower().split()) for label in labels}
    word = UNKNOWN if UNKNOWN not in taken else UNSURE
    while word in taken:
        word = f"{word} here"
    return word


def read_report(folder: Path) -> HeadReport:
    """Return the report in the folder of a head.

    Raises:
        RunError: it is missing or damaged.
    """
    found = read_json_as(HeadReport, folder / REPORT, "report of a head", "Fit it again.")
    if found is None:
        raise RunError(f"There is no {REPORT} in {folder.name}.", "The folder of a head that was fitted here has one.")
    return found


def read_test_cells(folder: Path) -> pd.DataFrame:
    """Return the table of the cells that a head was tested on; names and labels are text, as written.

    Raises:
        RunError: it is missing or damaged.
    """
    wrong = RunError(f"The test cells in {folder.name} cannot be read.", f"{CELLS} is missing or damaged.", "Fit it again.")
    try:
        table = pd.read_csv(folder / CELLS, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise wrong from error
    if not {"cell", "row", "truth", "called"} <= set(table):
        raise wrong
    for name in ("row", "probability", "map_1", "map_2"):
        if name in table:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def read_annotation(folder: Path) -> Annotation:
    """Return what an annotation left in its folder.

    Raises:
        RunError: it is missing or damaged.
    """
    found = read_json_as(Annotation, folder / ANNOTATION, "annotation", "Annotate again.")
    if found is None:
        raise RunError(f"There is no {ANNOTATION} in {folder.name}.", "", "Annotate again.")
    groups = tuple(replace(group, shares=_apart(group.shares)) for group in found.groups)
    return replace(found, shares=_apart(found.shares), groups=groups)


def _apart(shares: tuple[Share, ...]) -> tuple[Share, ...]:
    """The shares under names of which none repeats: in files of before a label 'unknown' and unsure cells have the same."""
    labels = [share.label for share in shares[:-1]]
    if not shares or shares[-1].label not in labels:
        return shares
    return (*shares[:-1], replace(shares[-1], label=unknown_word(labels)))
