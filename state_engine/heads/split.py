"""Cells divided into those that are trained on, validated on and tested: by label, or with whole groups (donors, batches) in one part.

Notation: m cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from state_engine.data.dataset import Dataset
from state_engine.data.files.columns import read_column
from state_engine.data.files.hdf5 import column_names, open_h5
from state_engine.data.labels import as_labels
from state_engine.errors import LabelError, SplitError, listed, may_be, near_each
from state_engine.heads.request import FinetuneRequest
from state_engine.heads.targets import Targets, listed_labels
from state_engine.plain import plural, visible

Cells = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Division:
    """Positions among the m labelled cells, ascending.

    Args:
        train, validation, test: the parts.
        groups: (m,) the group of each cell; "" without a column.
        test_groups, validation_groups: the groups of these parts.
        remarks: sentences worth showing.
    """

    train: Cells
    validation: Cells
    test: Cells
    groups: NDArray[np.object_]
    test_groups: tuple[str, ...] = ()
    validation_groups: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def divide(dataset: Dataset, request: FinetuneRequest, targets: Targets) -> Division:
    """Divide the labelled cells.

    Raises:
        SplitError: groups that leave nothing to test or to train on, or a label that no cell is left to train on.
        LabelError: no such column of groups.
    """
    rng = np.random.default_rng(request.seed)
    strata = targets.strata()
    m = len(targets.rows)
    if not request.group:
        test = drawn(strata, request.test_share, rng)
        rest = np.setdiff1d(np.arange(m), test)
        validation = rest[drawn(strata[rest], request.validation_share, rng)]
        division = Division(np.setdiff1d(rest, validation), validation, test, np.full(m, "", object))
    else:
        division = _by_group(request, targets, _groups(dataset, request.group)[targets.rows], strata, rng)
    _check(division, targets, request)
    return division


def drawn(strata: Cells, share: float, rng: np.random.Generator) -> Cells:
    """Return positions of about a share of the cells of each stratum: at least one of each with three or more, never all."""
    chosen = [np.empty(0, np.int64)]
    for one in np.unique(strata):
        cells = rng.permutation(np.flatnonzero(strata == one))
        wanted = round(share * len(cells))
        most = len(cells) - 2 if len(cells) > 2 else len(cells) - 1
        chosen.append(cells[: min(max(wanted, 1 if len(cells) > 1 else 0), max(most, 0))])
    return np.sort(np.concatenate(chosen))


def _groups(dataset: Dataset, column: str) -> NDArray[np.object_]:
    with open_h5(dataset.path) as file:
        known = column_names(file["obs"])
        if column not in known:
            raise LabelError(
                f"There is no column '{column}' of groups.",
                f"There are: {listed(known, 12) or 'none'}.",
                may_be(near_each([column], known)) or "Choose one of them.",
            )
        found = as_labels(read_column(file["obs"], column, dataset.n_cells))
    return np.append(np.asarray(found.categories, object), "")[found.codes]


def _by_group(
    request: FinetuneRequest, targets: Targets, groups: NDArray[np.object_], strata: Cells, rng: np.random.Generator
) -> Division:
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        raise SplitError(
            f"The groups of '{request.group}' leave nothing to test on.",
            f"All labelled cells are of one group, '{visible(names[0]) or 'without a name'}'.",
            "Choose a column with several groups, or leave --group out.",
        )
    if unknown := [name for name in request.test_groups if name not in names]:
        raise SplitError(
            f"'{request.group}' has no group {listed_labels(unknown)} with labelled cells.",
            f"It has: {listed_labels(names, 12)}.",
            "Choose among these.",
        )
    order = rng.permutation(names).tolist()
    test_groups = tuple(sorted(request.test_groups or _taken(order, groups, request.test_share)))
    rest = [name for name in order if name not in test_groups]
    if not rest:
        raise SplitError(
            f"The groups of '{request.group}' leave nothing to train on.",
            f"All {plural(len(names), 'group')} are tested on.",
            "Test on fewer.",
        )
    test = np.flatnonzero(np.isin(groups, test_groups))
    others = np.flatnonzero(np.isin(groups, rest))
    held = _held_out(rest, groups, strata, others, request)
    remarks: tuple[str, ...] = ()
    if held:
        validation = others[np.isin(groups[others], held)]
    else:  # too few groups, or labels that only one of them has: cells are validated on, so stopping and calibration know the groups
        validation = others[drawn(strata[others], request.validation_share, rng)]
        remarks = (f"No group of '{request.group}' could be left out to validate on: cells of the training groups were drawn.",)
    return Division(np.setdiff1d(others, validation), validation, test, groups, test_groups, tuple(sorted(held)), remarks)


def _taken(order: list[str], groups: NDArray[np.object_], share: float) -> list[str]:
    """The first groups that together have about a share of the cells; at least one, and never all."""
    taken: list[str] = []
    wanted, cells = share * len(groups), 0
    for name in order[:-1]:
        if taken and cells >= wanted:
            break
        taken.append(name)
        cells += int((groups == name).sum())
    return taken


def _held_out(rest: list[str], groups: NDArray[np.object_], strata: Cells, others: Cells, request: FinetuneRequest) -> list[str]:
    """Groups to validate on: whole ones where three or more are left, and no label is lost to the training by it."""
    if len(rest) < 3:
        return []
    held = _taken(rest, groups[others], request.validation_share)
    left = others[~np.isin(groups[others], held)]
    lost = request.task == "classification" and len(np.unique(strata[left])) < len(np.unique(strata[others]))
    return [] if lost or len({name for name in rest if name not in held}) < 2 else held


def _check(division: Division, targets: Targets, request: FinetuneRequest) -> None:
    parts = {"test on": division.test, "validate on": division.validation, "train on": division.train}
    for word, cells in parts.items():
        if not len(cells):
            raise SplitError(
                f"There are no cells to {word}.",
                f"{plural(len(targets.rows), 'cell is', 'cells are')} labelled.",
                "Label more, or change the shares.",
            )
    if targets.task != "classification":
        return
    trained = np.unique(targets.values[division.train])
    lost = [name for place, name in enumerate(targets.labels) if place not in trained]
    if lost:
        raise SplitError(
            f"No cell of {listed_labels(lost)} is left to train on.",
            f"All of them are in the groups of '{request.group}' that are tested on: {listed_labels(division.test_groups)}."
            if request.group
            else "All of them were drawn for the test.",
            "Choose other groups to test on, or leave these labels out.",
        )
    if len(np.unique(targets.values[division.test])) < 2:
        raise SplitError(
            f"The groups of '{request.group}' leave no test: their cells have one label only.",
            f"{listed_labels(division.test_groups)}: {visible(targets.labels[int(targets.values[division.test[0]])])}.",
            "Choose groups with several labels, or another column.",
        )
