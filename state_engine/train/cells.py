"""What a training reads from its files: features of cells, in groups of one perturbation and one context, by part of the split.

Boundary: a split and a request in, row numbers and features out; numpy only. What is held out is in groups of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.data.dataset import Dataset
from state_engine.data.expression import DEPTH, FeatureSource, hvg_choice, match_genes
from state_engine.data.scale import same_depth
from state_engine.data.splits.apply import CODES, Part, Split, SplitSource, depths
from state_engine.errors import GeneError, LabelError, RepresentationError, ScaleError, listed
from state_engine.progress import OnProgress, silent
from state_engine.train.cell_features import CellFeatures, read_cell_features
from state_engine.train.request import TrainRequest


@dataclass(frozen=True, eq=False)
class Group:
    """Cells of one perturbation in one context (and batch, when mapped so), and the controls they are compared with.

    Args:
        perturbation: index into `TrainingCells.perturbations`.
        context: of all its cells.
        cells, controls: rows of `TrainingCells.features`.
    """

    perturbation: int
    context: str
    cells: np.ndarray
    controls: np.ndarray


@dataclass(frozen=True)
class Inputs:
    """How the features are made from each file.

    Args:
        sources: one for each of `Split.sources`.
        targets: expression for a gene decoder, or None.
        genes: names of the features (of `targets`, when there are), or None when they have none.
        notes: how they were chosen, sentences.
        depth: that log1p expression is brought to where its own one is known; None without any, or where no file's is known.
    """

    sources: tuple[FeatureSource, ...]
    targets: tuple[FeatureSource, ...] | None
    genes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    depth: float | None = None


@dataclass(frozen=True, eq=False)
class TrainingCells:
    """All cells of a training.

    Args:
        features: of the cells.
        targets: their expression, for a gene decoder.
        perturbations: labels the model knows, the control first.
        trained: those of them that are trained.
        contexts: labels that are trained.
        batches: labels of all parts.
        batch: (n,) the batch of each row, an index; -1 where it has none.
        groups: of each part; the control's own groups are in "train" only.
        notes: what was left out, sentences.
    """

    features: CellFeatures
    targets: CellFeatures | None
    perturbations: tuple[str, ...]
    trained: tuple[str, ...]
    contexts: tuple[str, ...]
    batches: tuple[str, ...]
    batch: np.ndarray
    groups: dict[Part, tuple[Group, ...]]
    notes: tuple[str, ...] = ()

    @property
    def unseen(self) -> tuple[str, ...]:
        """Labels the model knows by their vectors alone, since no cell of theirs is trained on."""
        trained = set(self.trained)
        return tuple(label for label in self.perturbations if label not in trained)


def choose_inputs(split: Split, request: TrainRequest, depth: float | None = None, as_recorded: bool = False) -> Inputs:
    """Return the features that a request asks for.

    Args:
        split: its files.
        request: the training.
        depth: that expression is brought to, as of the model it starts from; None for the one that the files share, else the usual one.
        as_recorded: a training goes on: `depth` is what it began with, None for values as they are.

    Raises:
        GeneError: genes that a file does not have.
        RepresentationError: a file has no expression, or not the embedding.
        ScaleError: the scale of an expression is not known.
    """
    embedding = None if request.network.embedding is None else f"obsm/{request.network.embedding}"
    if embedding and not request.network.gene_decoder:
        for source in split.sources:
            source.dataset.representation(embedding)
        return Inputs(tuple(FeatureSource(embedding) for _ in split.sources), None, request.network.genes or None)
    datasets = [source.dataset for source in split.sources]
    _check_one_kind(datasets)
    at, about_depth = (depth, ()) if as_recorded else depth_of_training(datasets, depth)
    genes, notes = _genes(split, request, at)
    expression = tuple(expression_source(dataset, genes, at) for dataset in datasets)
    notes = (*notes, *about_depth)
    if embedding:
        return Inputs(tuple(FeatureSource(embedding) for _ in split.sources), expression, genes, notes, at)
    return Inputs(expression, None, genes, notes, at)


def _check_one_kind(datasets: Sequence[Dataset]) -> None:
    """Check that no file is read as counts where another is log1p, as without normalisation."""
    counts = [d.path.name for d in datasets if d.scale.scale == "counts" and not d.choices.normalise]
    logged = [d.path.name for d in datasets if d.scale.scale == "log1p"]
    if counts and logged:
        raise ScaleError(
            "The files are not of one scale.",
            f"Without normalisation {listed(counts, 3)} would be read as counts, and {listed(logged, 3)} as log1p.",
            "Leave normalisation on, or give counts alone.",
        )


def depth_of_training(datasets: Sequence[Dataset], wanted: float | None = None) -> tuple[float | None, tuple[str, ...]]:
    """Return the depth that expression is read at, and what to know of it, in sentences.

    Files of one depth are read as they are; files of several are brought to the usual one, which is exact (see `rescale`).

    Args:
        datasets: the files.
        wanted: the depth of the model that a training starts from, where it has one.
    """
    known, unknown = depths(datasets)
    alike = all(same_depth(depth, known[0][1]) for _, depth in known)
    at = wanted or (None if not known else known[0][1] if alike else DEPTH)
    notes = []
    if at and not all(same_depth(depth, at) for _, depth in known):
        told = listed([f"{name} at {depth:,.0f}" for name, depth in known], 6)
        notes.append(f"Files of different depths ({told} per cell) are brought to {at:,.0f} per cell, which is exact.")
    if at and unknown:
        notes.append(
            f"The depth of the log1p values of {listed(unknown, 6)} is not known: they are taken as they are, beside {at:,.0f} per cell."
        )
    return at, tuple(notes)


def expression_source(dataset: Dataset, genes: tuple[str, ...], depth: float | None = None) -> FeatureSource:
    """Return how the log1p expression of the genes is read, brought to a depth where one is given.

    Raises:
        GeneError, RepresentationError, ScaleError: see `choose_inputs`.
    """
    if dataset.expression is None:
        raise RepresentationError(
            f"{dataset.path.name} has no expression.", "It has no X and no layers.", "Train on an embedding."
        )
    match = match_genes(dataset, genes)
    if match.missing:
        raise GeneError(f"{dataset.path.name} has no gene {listed(match.missing)}.", match.how, "Leave them out.")
    counts = dataset.scale.require() == "counts"
    source = FeatureSource(dataset.expression, tuple(match.columns.tolist()), normalise=counts and dataset.choices.normalise)
    try:
        return source.at_depth(dataset.scale, depth)
    except ScaleError as error:
        raise ScaleError(f"{dataset.path.name}: {error.what}", error.why, error.fix) from error


def _genes(split: Split, request: TrainRequest, depth: float | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the genes, and how they were chosen: of the training cells of the largest file, among the genes of all files."""
    if request.network.genes:
        return request.network.genes, ()
    shared = tuple(dict.fromkeys(split.genes))
    if not request.network.hvgs or request.network.hvgs >= len(shared):
        return shared, (f"All {len(shared):,} genes are read.",)
    largest = max(split.sources, key=lambda s: len(s.rows("train")))
    chosen = hvg_choice(largest.dataset, request.network.hvgs, cells=largest.rows("train"), among=shared, depth=depth)
    of = f"{largest.dataset.path.name}: " if len(split.sources) > 1 else ""
    return chosen.names, (f"{of}{chosen.method}",)


def read_training_cells(
    split: Split,
    inputs: Inputs,
    request: TrainRequest,
    folder: Path,
    on_progress: OnProgress = silent,
    featured: tuple[str, ...] | None = None,
    kept: tuple[str, ...] = (),
) -> TrainingCells:
    """Read and group the cells of a split.

    Args:
        split: which cells are trained on, validated on and tested.
        inputs: how the features are made.
        request: how sets are to be drawn, and how much memory may be used.
        folder: for features that do not fit in memory.
        on_progress: told once per block; may raise `JobCancelled`.
        featured: labels that have feature vectors; None when vectors are one-hot.
        kept: labels that the model knows already, whether or not they have cells here.

    Raises:
        LabelError: nothing is left to train on, or no batch column where batches are asked for.
    """
    labelled = _Labelled.of(split)
    by_batch = request.sets.control_mapping == "batch"
    if (by_batch or request.network.batch_encoder) and not labelled.batches:
        raise LabelError("There are no batches.", "No batch column is known.", "Choose it, or map controls at random.")
    known = None if featured is None else {split.control, *featured}
    groups, notes = _groups(labelled, split.control, by_batch, request.sets.train_control, known)
    trained = _trained_labels(groups["train"], labelled, split.control, known)
    perturbations = (*trained, *sorted({*(featured or ()), *kept} - set(trained)))
    place = {label: i for i, label in enumerate(perturbations)}
    made: dict[Part, tuple[Group, ...]] = {
        part: tuple(Group(place[label], *rest) for label, rest in found if label in place) for part, found in groups.items()
    }
    features, targets = _read(split, inputs, labelled.rows, request.run.cache_gb * 1024**3, folder, on_progress)
    return TrainingCells(
        features, targets, perturbations, trained, tuple(sorted({g.context for g in made["train"]})), labelled.batches,
        labelled.batch, made, (*notes, *_batch_notes(labelled, request)),
    )  # fmt: skip


def _read(
    split: Split, inputs: Inputs, rows: Sequence[np.ndarray], memory: float, folder: Path, on_progress: OnProgress
) -> tuple[CellFeatures, CellFeatures | None]:
    """Return the features of the rows of each file, and their expression for a gene decoder."""
    datasets = [source.dataset for source in split.sources]
    if inputs.targets is None:
        return read_cell_features(list(zip(datasets, inputs.sources, rows, strict=True)), folder, memory, on_progress), None
    # each may use half of what is allowed
    features = read_cell_features(list(zip(datasets, inputs.sources, rows, strict=True)), folder, memory / 2, on_progress)
    parts = list(zip(datasets, inputs.targets, rows, strict=True))
    return features, read_cell_features(parts, folder, memory / 2, on_progress, "Reading expression")


def _trained_labels(groups: list[_Found], cells: _Labelled, control: str, known: set[str] | None) -> tuple[str, ...]:
    """Return the labels of the trained groups, the control first; a `LabelError` says why there is no other."""
    trained = {label for label, _ in groups} - {control}
    if trained:
        return (control, *sorted(trained))
    there = sorted(set(cells.labels) - {control})
    if known is not None and not known & set(there):
        raise LabelError(
            "No perturbation of the cells has a feature vector.",
            f"The cells have {listed(there)}; the vectors are of {listed(sorted(known - {control})) or 'no perturbation'}.",
            "Give vectors of these perturbations, or train without features.",
        )
    raise LabelError("Nothing is left to train on.", "No context has both perturbed cells and controls.", "Hold out less.")


@dataclass(frozen=True, eq=False)
class _Labelled:
    """The used cells of all files, one after the other, as numbers.

    Args:
        rows: of each file.
        part, label, place, batch: (n,) code of the part; indices of label, of (data set, context), of batch (-1 for none).
        labels, places, batches: what the indices stand for.
    """

    rows: tuple[np.ndarray, ...]
    part: np.ndarray
    label: np.ndarray
    place: np.ndarray
    batch: np.ndarray
    labels: tuple[str, ...]
    places: tuple[tuple[str, str], ...]
    batches: tuple[str, ...]

    @classmethod
    def of(cls, split: Split) -> _Labelled:
        rows = tuple(np.flatnonzero(s.parts > 0) for s in split.sources)
        label, labels = _numbered(split.sources, rows, "perturbation")
        context, contexts = _numbered(split.sources, rows, "context")
        batched = all(s.dataset.labels.batch_key for s in split.sources)
        batch, batches = _numbered(split.sources, rows, "batch")
        names = list(dict.fromkeys(s.name for s in split.sources))
        # a context of two data sets is two places: cells are compared with controls of their own laboratory
        file = np.concatenate([np.full(len(r), names.index(s.name)) for s, r in zip(split.sources, rows, strict=True)])
        return cls(
            rows=rows,
            part=np.concatenate([s.parts[r] for s, r in zip(split.sources, rows, strict=True)]),
            label=label,
            place=(file * len(contexts) + context).astype(np.int32),
            batch=batch if batched else np.full(len(batch), -1, dtype=np.int32),
            labels=labels,
            places=tuple((name, context) for name in names for context in contexts),
            batches=batches if batched else (),
        )

    def of_label(self, name: str) -> np.ndarray:
        """Return which cells have the label, (n,) bool; none where no cell has it."""
        return self.label == self.labels.index(name) if name in self.labels else np.zeros(len(self.label), bool)


def _numbered(sources: Sequence[SplitSource], rows: Sequence[np.ndarray], role: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of several files as codes of one list of names, sorted; -1 for a missing label."""
    found = []
    for source, used_rows in zip(sources, rows, strict=True):
        names, codes = source.dataset.coded(getattr(source.dataset.labels, f"{role}_key"))
        found.append((names, codes[used_rows]))
    # names of cells that are used only, so that the numbers do not depend on what the split leaves out
    used = sorted({names[i] for names, codes in found for i in np.unique(codes).tolist()} - {""})
    place = {name: i for i, name in enumerate(used)}
    parts = [np.array([place.get(n, -1) for n in names], dtype=np.int32)[codes] for names, codes in found]
    return np.concatenate(parts), tuple(used)


_Found = tuple[str, tuple[str, np.ndarray, np.ndarray]]


def _groups(
    cells: _Labelled, control: str, by_batch: bool, train_control: bool, known: set[str] | None
) -> tuple[dict[Part, list[_Found]], tuple[str, ...]]:
    """(label, (context, cells, controls)) of each part, and what was left out in words."""
    groups: dict[Part, list[_Found]] = {part: [] for part in CODES}
    bare, unknown = set(), set()
    is_control = cells.of_label(control)
    for place, here in _runs(cells.place):
        context = cells.places[place][1]
        # controls of all parts: a held-out perturbation is compared with the same controls as a trained one
        pool = here[is_control[here]]
        if not len(pool):
            bare.add(context)
            continue
        for part, label, rows in _parts_and_labels(cells, here, by_batch):
            if label == control and (part != "train" or not train_control):
                continue
            if known is not None and label not in known:
                unknown.add(label)
                continue
            groups[part].append((label, (context, rows, _controls(cells, pool, rows, by_batch))))
    notes = [f"Left out, since they have no controls: {listed(sorted(bare))}."] if bare else []
    if unknown:
        notes.append(f"Left out, since they have no feature vector: {listed(sorted(unknown))}.")
    return groups, tuple(notes)


_PARTS: dict[int, Part] = {code: part for part, code in CODES.items()}


def _parts_and_labels(cells: _Labelled, here: np.ndarray, by_batch: bool) -> Iterator[tuple[Part, str, np.ndarray]]:
    """Yield the cells of a context that share part and label (and batch), sorted by these."""
    # part, label and batch as one number, in 64 bits since their counts multiply: one sort then finds all groups
    keys = cells.part[here].astype(np.int64) * len(cells.labels) + cells.label[here]
    if by_batch:
        keys = keys * (len(cells.batches) + 1) + cells.batch[here] + 1
    for _, inner in _runs(keys):
        rows = here[inner]
        yield _PARTS[int(cells.part[rows[0]])], cells.labels[cells.label[rows[0]]], rows


def _controls(cells: _Labelled, pool: np.ndarray, rows: np.ndarray, by_batch: bool) -> np.ndarray:
    """Return the controls of a group: those of its batch when mapped so, all of the context where its batch has none."""
    if not by_batch:
        return pool
    same = pool[cells.batch[pool] == cells.batch[rows[0]]]
    return same if len(same) else pool


def _runs(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each value and where it is, sorted by value; positions in their order."""
    # stable, so that the cells of a group keep the order of the file and their numbers are found near each other
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    yield from zip(values.tolist(), np.split(order, starts[1:]), strict=True)


def _batch_notes(cells: _Labelled, request: TrainRequest) -> Iterator[str]:
    if request.network.batch_encoder or request.network.batch_token:
        trained = set(np.unique(cells.batch[cells.part == CODES["train"]]).tolist())
        never = [name for i, name in enumerate(cells.batches) if i not in trained]
        if never:
            yield f"Batches without training cells, whose vectors stay as they were drawn: {listed(never)}."
