"""What a column teaches, and a sentence of its own for each way in which it cannot; what a split leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from state_engine.data.dataset import open_dataset
from state_engine.errors import LabelError, SplitError, StateError
from state_engine.heads.report import unknown_word
from state_engine.heads.split import Division, divide, drawn
from state_engine.heads.targets import Targets, read_targets
from tests.heads.cells import asked, write_labelled


def read(
    tmp_path: Path, *labels: str, columns: dict[str, object] | None = None, n: int = 60, **changes: Any
) -> tuple[Targets, Division]:
    path = write_labelled(tmp_path / "cells.h5ad", n, **(columns or {}))
    request = asked(path, *labels, **changes)
    dataset = open_dataset(path)
    targets = read_targets(dataset, request)
    return targets, divide(dataset, request, targets)


WORDS = np.array(["A", "B"] * 30, object)
WRONG: list[tuple[str, tuple[str, ...], dict[str, object], dict[str, Any], type[StateError]]] = [
    ("There is no column 'kind' in obs", ("kind",), {}, {}, LabelError),
    ("The column 'x' is empty", ("x",), {"x": np.full(60, np.nan)}, {}, LabelError),
    ("has one label only, A", ("x",), {"x": ["A"] * 60}, {}, LabelError),
    (r"fewer than 3 cells: 'C' \(1\)", ("x",), {"x": [*["A", "B"] * 29, "A", "C"]}, {}, LabelError),
    ("60 labels for 60 cells.* look like names", ("x",), {"x": [f"n{i}" for i in range(60)]}, {}, LabelError),
    ("50 labels for 60 cells.* numbers, which a regression learns", ("x",), {"x": np.r_[np.arange(50.0), np.arange(10.0)]}, {}, LabelError),
    ("'type' is text, not numbers. 60 cells have words such as A, B, C", ("type",), {}, {"task": "regression"}, LabelError),
    ("one number only, 2", ("x",), {"x": np.full(60, 2.0)}, {"task": "regression"}, LabelError),
    ("numbers as large as 1e[+]300.*Those above 1e[+]18 cannot be learnt", ("x",), {"x": np.linspace(-1e300, 1e300, 60)},
     {"task": "regression"}, LabelError),
    ("Only 4 cells have a number", ("x",), {"x": np.r_[np.full(56, np.nan), np.arange(4.0)]}, {"task": "regression"}, LabelError),
    ("The column 'x' is empty", ("x",), {"x": np.full(60, np.nan)}, {"task": "regression"}, LabelError),
    ("'type' is not one of yes and no", ("is_a", "type"), {}, {"task": "multi-label"}, LabelError),
    ("nearly no cell, or of nearly all", ("x", "is_a"), {"x": [True] * 60}, {"task": "multi-label"}, LabelError),
    ("The column 'x' is empty", ("x",), {"x": np.full(60, np.nan)}, {"task": "multi-label"}, LabelError),
    ("leave nothing to test on", ("type",), {"g": ["one"] * 60}, {"group": "g"}, SplitError),
    ("leave nothing to train on", ("type",), {}, {"group": "donor", "test_groups": ("d1", "d2", "d3", "d4")}, SplitError),
    ("'donor' has no group d9", ("type",), {}, {"group": "donor", "test_groups": ("d9",)}, SplitError),
    ("There is no column 'lab' of groups", ("type",), {}, {"group": "lab"}, LabelError),
    ("No cell of A is left to train on", ("x",), {"x": WORDS, "g": WORDS}, {"group": "g", "test_groups": ("A",)}, SplitError),
    ("one label only", ("x",), {"x": [*["A", "B"] * 25, *["B"] * 10], "g": ["p"] * 50 + ["q"] * 10},
     {"group": "g", "test_groups": ("q",)}, SplitError),
]  # fmt: skip


@pytest.mark.parametrize(("words", "labels", "columns", "changes", "kind"), WRONG)
def test_what_cannot_be_learnt_has_a_sentence_of_its_own(
    tmp_path: Path,
    words: str,
    labels: tuple[str, ...],
    columns: dict[str, object],
    changes: dict[str, Any],
    kind: type[StateError],
) -> None:
    with pytest.raises(kind, match=words) as caught:
        read(tmp_path, *labels, columns=columns, **changes)
    assert caught.value.fix


def test_cells_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    names = np.array(["A", "B"] * 30, object)
    names[:7] = None
    targets, parts = read(tmp_path, "x", columns={"x": names})
    assert targets.unlabelled == 7 and len(targets.rows) == 53 and targets.rows.min() == 7
    assert "7 cells without a value in 'x'" in targets.remarks[0]
    everything = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(everything.tolist()) == list(range(53))


def test_labels_that_differ_by_case_or_blanks_are_named(tmp_path: Path) -> None:
    targets, _ = read(tmp_path, "x", columns={"x": ["T cell", "t  cell", "NK"] * 20})
    assert targets.labels == ("NK", "T cell", "t  cell")
    assert "differ only by case or blanks" in targets.remarks[0] and "NK" not in targets.remarks[0].partition(":")[2]


def test_rare_labels_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    targets, _ = read(tmp_path, "x", columns={"x": [*["A", "B"] * 29, "A", "C"]}, least_cells=5)
    assert targets.labels == ("A", "B") and targets.too_few == 1 and "'C' (1)" in targets.remarks[0]


def test_several_labels_of_a_cell(tmp_path: Path) -> None:
    targets, _ = read(tmp_path, "tags", task="multi-label", n=120)
    assert targets.labels == ("high", "low") and targets.values.shape == (120, 2) and targets.values.sum(1).max() == 2
    targets, _ = read(tmp_path, "is_a", "is_high", task="multi-label", n=120)
    assert targets.labels == ("is_a", "is_high") and targets.values[:, 0].sum() == 40


def test_a_regression_reads_numbers_in_any_dress(tmp_path: Path) -> None:
    targets, _ = read(tmp_path, "x", columns={"x": [str(i) for i in range(59)] + ["nan"]}, task="regression")
    assert targets.unlabelled == 1 and targets.values.tolist() == list(range(59))


def test_infinite_numbers_are_named(tmp_path: Path) -> None:
    numbers = np.arange(60.0)
    numbers[[3, 4]], numbers[5], numbers[6] = np.inf, -np.inf, np.nan
    targets, _ = read(tmp_path, "x", columns={"x": numbers}, task="regression")
    assert targets.unlabelled == 4 and not {3, 4, 5, 6} & set(targets.rows.tolist())
    assert targets.remarks == (
        "1 cell without a value in 'x' is left out.",
        "3 cells with an infinite number in 'x' are left out: none can be learnt.",
    )
    written = ["inf", *map(str, range(59))]
    targets, _ = read(tmp_path, "x", columns={"x": written}, task="regression")
    assert targets.remarks == ("1 cell with an infinite number in 'x' is left out: none can be learnt.",)
    with pytest.raises(
        LabelError, match=r"'x' has no number that can be learnt. 60 cells have an infinite one. Give them finite"
    ):
        read(tmp_path, "x", columns={"x": np.full(60, -np.inf)}, task="regression")
    targets, _ = read(tmp_path, "x", columns={"x": np.where(np.arange(60) % 2, np.inf, 1.0)})
    assert targets.labels == ("1.0", "inf") and "'x' has inf as a label" in targets.remarks[0]


def test_a_label_unknown_is_told_from_cells_that_are_not_called(tmp_path: Path) -> None:
    targets, _ = read(tmp_path, "x", columns={"x": ["Unknown", "B", "T"] * 20})
    assert targets.labels == ("B", "T", "Unknown") and "are called 'not called' in its place" in targets.remarks[-1]
    assert [unknown_word(labels) for labels in (("A",), ("UNKNOWN", "A"), ("unknown", "Not called"))] == [
        "unknown", "not called", "not called here",
    ]  # fmt: skip


def test_a_line_end_in_a_label_ends_no_line(tmp_path: Path) -> None:
    with pytest.raises(LabelError) as caught:
        read(tmp_path, "x", columns={"x": [*["A", "B"] * 29, "A", "C\nD"]})
    assert "\n" not in str(caught.value) and r"'C\u000aD' (1)" in str(caught.value)


def test_groups_are_whole(tmp_path: Path) -> None:
    targets, parts = read(tmp_path, n=200, group="donor")
    by_part = [set(parts.groups[cells]) for cells in (parts.train, parts.validation, parts.test)]
    assert not by_part[0] & by_part[2] and not by_part[0] & by_part[1] and set(parts.test_groups) == by_part[2]
    assert len(targets.rows) == sum(map(len, (parts.train, parts.validation, parts.test)))


def test_two_groups_still_validate(tmp_path: Path) -> None:
    _, parts = read(tmp_path, n=200, group="donor", test_groups=("d1", "d2"), columns={})
    assert parts.validation_groups == () and "No group of 'donor' could be left out" in parts.remarks[0]


def test_each_label_is_in_each_part() -> None:
    strata = np.array([0] * 100 + [1] * 3)
    test = drawn(strata, 0.2, np.random.default_rng(0))
    assert (strata[test] == 0).sum() == 20 and (strata[test] == 1).sum() == 1
    assert test.tolist() == drawn(strata, 0.2, np.random.default_rng(0)).tolist()
