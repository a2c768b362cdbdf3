"""What a training reads from a data set: features of its cells, in groups of one perturbation and one context.

Boundary: numpy only; all cells are in memory, (n, g) float32. What is held out is in groups of its own, to be scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from state_engine.data.dataset import Dataset
from state_engine.data.expression import FeatureSource, match_genes, read_features
from state_engine.errors import GeneError, LabelError, RepresentationError, UnknownLabelError, listed


@dataclass(frozen=True)
class HeldOut:
    """Cells that training never sees: one perturbation in a context, or (None) the whole context, its controls included."""

    context: str
    perturbation: str | None = None

    def __str__(self) -> str:
        return self.context if self.perturbation is None else f"{self.context} x {self.perturbation}"


@dataclass(frozen=True, eq=False)
class Group:
    """Cells of one perturbation in one context (and batch, when matched), and the controls they are compared with.

    Args:
        perturbation: index into `TrainingCells.perturbations`.
        context: of all its cells.
        cells, controls: rows of `TrainingCells.values`.
    """

    perturbation: int
    context: str
    cells: np.ndarray
    controls: np.ndarray


@dataclass(frozen=True, eq=False)
class TrainingCells:
    """All cells of a training.

    Args:
        values: (n, g) features.
        perturbations: labels that are trained, the control first.
        contexts, batches: labels that are trained.
        groups: to train on, the control's own groups among them.
        tests: held-out groups to be scored; their controls are given to the model, but were not trained on where the whole
            context is held out.
        notes: what was left out, sentences.
    """

    values: np.ndarray
    perturbations: tuple[str, ...]
    contexts: tuple[str, ...]
    batches: tuple[str, ...]
    groups: tuple[Group, ...]
    tests: tuple[Group, ...]
    notes: tuple[str, ...]


def feature_source(dataset: Dataset, genes: tuple[str, ...] | None, embedding: str | None = None) -> FeatureSource:
    """How features are made: log1p expression of the genes, or (genes None) the embedding as it is.

    Raises:
        GeneError: genes that the data set does not have.
        RepresentationError: it has no expression.
        ScaleError: the scale of its expression is not known.
    """
    if genes is None:
        return FeatureSource(f"obsm/{embedding}")
    if dataset.expression is None:
        raise RepresentationError(
            f"{dataset.path.name} has no expression.", "It has no X and no layers.", "Train on an embedding."
        )
    match = match_genes(dataset, genes)
    if match.missing:
        raise GeneError(f"The data set has no gene {listed(match.missing)}.", match.how, "Leave them out.")
    counts = dataset.scale.require() == "counts"
    return FeatureSource(dataset.expression, tuple(match.columns.tolist()), normalise=counts and dataset.choices.normalise)


def read_training_cells(
    dataset: Dataset, source: FeatureSource, hold_out: tuple[HeldOut, ...] = (), match_batches: bool = False
) -> TrainingCells:
    """Read and group the cells of a data set.

    Args:
        dataset: the data.
        source: how the features are made.
        hold_out: blocks that are not trained on.
        match_batches: groups have cells of one batch, compared with controls of that batch (of the context, if it has none).

    Raises:
        UnknownLabelError: a held-out block matches no cell, is the control, or its perturbation is trained nowhere.
        LabelError: nothing is left to train on: no cells with controls in their context.
    """
    control = dataset.require_control()
    p, c = dataset.perturbation_labels(), dataset.context_labels()
    b = dataset.batch_labels() if match_batches else np.full(len(p), "")
    held = held_out_cells(dataset, hold_out)
    trained = ~held & (p != "") & (c != "")
    groups, bare = [], set()
    for context in np.unique(c[trained]).tolist():
        pool = np.flatnonzero(trained & (c == context) & (p == control))
        if not len(pool):
            bare.add(context)
            continue
        here = trained & (c == context)
        for label, batch in sorted(set(zip(p[here].tolist(), b[here].tolist(), strict=True))):
            cells = np.flatnonzero(here & (p == label) & (b == batch))
            matched = pool[b[pool] == batch]
            groups.append((label, context, cells, matched if len(matched) else pool))
    labels = {label for label, *_ in groups}
    if not labels - {control}:
        raise LabelError("Nothing is left to train on.", "No context has both perturbed cells and controls.", "Hold out less.")
    perturbations = (control, *sorted(labels - {control}))
    tests = list(_tests(hold_out, held, p, c, control))
    _check_trained(hold_out, perturbations)
    tests = [t for t in tests if t[0] in perturbations and len(t[3])]
    rows, compact = _compact([*groups, *tests], perturbations)
    return TrainingCells(
        values=read_features(dataset, source, rows),
        perturbations=perturbations,
        contexts=tuple(sorted({context for _, context, _, _ in groups})),
        batches=tuple(sorted(set(dataset.batch_labels()[trained].tolist()) - {""})) if dataset.labels.batch_key else (),
        groups=tuple(compact[: len(groups)]),
        tests=tuple(compact[len(groups) :]),
        notes=(f"Left out, since they have no controls: {listed(sorted(bare))}.",) if bare else (),
    )


def held_out_cells(dataset: Dataset, blocks: tuple[HeldOut, ...]) -> np.ndarray:
    """True for the cells of the blocks: (n_cells,).

    Raises:
        UnknownLabelError: a block matches no cell (a split that selects nothing would leak in silence), or is the control.
    """
    p, c = dataset.perturbation_labels(), dataset.context_labels()
    chosen = np.zeros(len(p), dtype=bool)
    for block in blocks:
        cells = (c == block.context) & ((p == block.perturbation) if block.perturbation is not None else True)
        if not cells.any():
            raise UnknownLabelError(
                f"The held-out block '{block}' matches no cell.",
                f"Contexts: {listed(dataset.contexts)}. Perturbations: {listed(dataset.perturbations)}.",
                "Write the labels as they are in the data set.",
            )
        if block.perturbation == dataset.labels.control:
            raise UnknownLabelError(f"The held-out block '{block}' is the control.", "It has no effect to score.")
        chosen |= cells
    return chosen


_Rows = tuple[str, str, np.ndarray, np.ndarray]


def _tests(blocks: tuple[HeldOut, ...], held: np.ndarray, p: np.ndarray, c: np.ndarray, control: str) -> Iterator[_Rows]:
    """Held-out groups, each once, in the order of the blocks."""
    seen = set()
    for block in blocks:
        here = held & (c == block.context)
        labels = sorted(set(p[here].tolist()) - {control, ""}) if block.perturbation is None else [block.perturbation]
        for label in labels:
            if (label, block.context) not in seen:
                seen.add((label, block.context))
                pool = np.flatnonzero((c == block.context) & (p == control))
                yield label, block.context, np.flatnonzero(here & (p == label)), pool


def _check_trained(blocks: tuple[HeldOut, ...], perturbations: tuple[str, ...]) -> None:
    unknown = [str(b) for b in blocks if b.perturbation is not None and b.perturbation not in perturbations]
    if unknown:
        raise UnknownLabelError(
            f"No other context teaches the perturbation of {listed(unknown)}.",
            "A perturbation that training never sees cannot be predicted or scored.",
            "Hold it out in some contexts only.",
        )


def _compact(groups: list[_Rows], perturbations: tuple[str, ...]) -> tuple[np.ndarray, list[Group]]:
    """The rows of the file that are needed, sorted, and the groups with indices into them."""
    rows = np.unique(np.concatenate([part for _, _, cells, controls in groups for part in (cells, controls)]))
    return rows, [
        Group(perturbations.index(label), context, np.searchsorted(rows, cells), np.searchsorted(rows, controls))
        for label, context, cells, controls in groups
    ]
