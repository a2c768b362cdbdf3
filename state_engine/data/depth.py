"""The sequencing depth of control and perturbed cells, compared within each context; and what makes it equal.

A cell's depth is how many molecules (UMIs) were read of it. Where perturbed cells were read deeper than control cells, the mean of log1p
values differs for that reason alone, and a model learns that shallow cells go up. Depth is known from counts, and from log1p values that were
made of counts and scaled to a known sum: the smallest value of a cell is one molecule.

Medians are of up to `MOST_CELLS` cells of a group, runs of neighbours spread over the file, so that a large screen is compared in a moment.
Boundary: reads a sample of the expression; what is thinned is decided by `equal_depth`, how by `data.thinning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import scipy.sparse as sp

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.depth_record import ContextDepth, EqualDepth
from state_engine.data.scale import steps_are_whole
from state_engine.data.thinning import Thinning

MOST_CELLS: Final = 200  # of a group
MOST_TOGETHER: Final = 20_000  # of all groups of a file: with many contexts fewer of each
FEWEST_CELLS: Final = 10  # a median of fewer says little
RUNS: Final = 10  # runs of neighbouring cells that a sample consists of
BLOCK: Final = 1024
# what becomes of a difference
THINNED: Final = "A training thins them to one depth."
NO_COUNTS: Final = (
    "They are not made equal: only counts can be thinned. Choose a matrix of counts as the expression where the file has one."
)
NOT_ASKED: Final = "They are left as they are: equalise_depth is off."
EMBEDDED: Final = (
    "They are left as they are: the model reads an embedding, which was made of all counts. Embed cells of one depth."
)


def depth_notes(depths: Sequence[ContextDepth], after: str) -> list[str]:
    """Return sentences about the contexts whose control and perturbed cells were not read alike.

    Args:
        depths: of each context.
        after: what becomes of it, a sentence.
    """
    found = [depth for depth in depths if depth.differs]
    if not found:
        return []
    worst = max(found, key=lambda depth: depth.fold)
    rises = "perturbed" if worst.perturbed > worst.control else "control"
    each = "; ".join(depth.words for depth in found[:6])
    more = f" and {len(found) - 6:,} more contexts" if len(found) > 6 else ""
    return [
        f"Control and perturbed cells were not read equally deep ({each}{more}; medians). Read deeper, {rises} cells show more genes: a model would "
        f"learn that as an effect. {after}"
    ]


def totals(dataset: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """Return the UMIs (m,) of each of some cells as they are in the file; None where the values do not tell."""
    scale = dataset.scale
    if dataset.expression is None or scale.scale is None or (scale.scale == "log1p" and not scale.depth):
        return None
    if not len(rows):
        return np.zeros(0)
    parts = [values for _, values in dataset.iter_blocks(dataset.expression, rows, BLOCK)]
    if scale.scale == "counts":
        return np.concatenate([np.asarray(part.sum(axis=1, dtype=np.float64)).ravel() for part in parts])
    stored = sp.coo_matrix(sp.vstack([sp.csr_matrix(part) for part in parts]))
    there = stored.data > 0
    values, cells = stored.data[there].astype(np.float64), stored.row[there]
    if not steps_are_whole(values, cells, len(rows)):
        return None
    # one molecule is the smallest amount of a cell: the sum of all over it is how many there were
    smallest = np.full(len(rows), np.inf)
    np.minimum.at(smallest, cells, np.expm1(values))
    return float(scale.depth or 0) / smallest


def sample(rows: np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` of some rows: runs of neighbours, evenly spread, so that few places of the file are read."""
    if len(rows) <= most:
        return rows
    length = max(1, most // RUNS)
    starts = np.linspace(0, len(rows) - length, most // length).astype(np.int64)
    return np.asarray(rows[np.unique(starts[:, None] + np.arange(length))])


def compare(sources: Sequence[tuple[str, Dataset, np.ndarray]]) -> tuple[ContextDepth, ...]:
    """Return the depths of each context that has control and perturbed cells, by data set and name; none where totals are not known.

    Args:
        sources: name of a data set (several files may share one), a file, and the part of each of its cells, (n,): 1 for training, above
            for what is held out, 0 for a cell that does not count. Depths are those of the training cells; of a context without
            perturbed ones among these, of its held-out cells.
    """
    groups: dict[tuple[str, str], list[tuple[Dataset, np.ndarray, np.ndarray]]] = {}
    for name, dataset, parts in sources:
        for context in dataset.contexts:
            control = dataset.control_rows(context)
            own = [dataset.rows(p, context) for p in dataset.perturbations if p != dataset.labels.control]
            perturbed = np.sort(np.concatenate(own)) if own else control[:0]
            control, perturbed = control[parts[control] > 0], perturbed[parts[perturbed] > 0]
            groups.setdefault((name, context), []).append((dataset, control, _trained(parts, perturbed)))
    most = int(np.clip(MOST_TOGETHER // max(1, 2 * len(groups)), FEWEST_CELLS, MOST_CELLS))
    found = []
    for name, context in sorted(groups):
        files = groups[name, context]
        deep = _median([(file, rows) for file, rows, _ in files], most), _median([(file, rows) for file, _, rows in files], most)
        if deep[0] and deep[1]:
            found.append(ContextDepth(context, deep[0], deep[1], name))
    return tuple(found)


def _trained(parts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    trained = rows[parts[rows] == 1]
    return trained if len(trained) else rows


def _median(files: Sequence[tuple[Dataset, np.ndarray]], most: int) -> float | None:
    """Return the median depth of the cells of a group; None for too few, and where it is not known."""
    if sum(len(rows) for _, rows in files) < FEWEST_CELLS:
        return None
    found = [totals(dataset, sample(rows, most)) for dataset, rows in files]
    known = [values for values in found if values is not None]
    return float(np.median(np.concatenate(known))) if len(known) == len(found) else None


def compare_file(dataset: Dataset) -> tuple[ContextDepth, ...]:
    """Return the depths of each context of a file; none where its control is not known."""
    if dataset.labels.control is None or not dataset.labels.perturbation_key:
        return ()
    return compare([("", dataset, np.ones(dataset.n_cells, np.uint8))])


def depth_notes_of(dataset: Dataset) -> list[str]:
    """Return sentences about the depths of a file."""
    return depth_notes(compare_file(dataset), THINNED if dataset.scale.scale == "counts" else NO_COUNTS)


def notes_of_file(path: Path, choices: Choices | None = None) -> list[str]:
    """Open a file and return sentences about its depths: for a child process."""
    dataset = open_dataset(path, choices)
    return depth_notes_of(dataset)


def thinned(dataset: Dataset, equal: EqualDepth, name: str = "") -> Dataset:
    """Return a data set whose counts are thinned as recorded; the same where none of its contexts is.

    Args:
        dataset: the file.
        equal: what is thinned.
        name: of the data set in the split.
    """
    mine = {depth.context: depth for depth in equal.contexts if depth.dataset == name}
    shares = np.ones(dataset.n_cells)
    names, context = dataset.coded(dataset.labels.context_key)
    is_control = np.zeros(dataset.n_cells, bool)
    is_control[dataset.control_rows()] = True
    labelled = dataset.coded(dataset.labels.perturbation_key)[1] > 0
    for code, label in enumerate(names):
        if label in mine:
            here = (context == code) & labelled
            shares[here & is_control] = mine[label].share(True)
            shares[here & ~is_control] = mine[label].share(False)
    return dataset.with_thinning(Thinning(shares, equal.seed)) if (shares < 1).any() else dataset
