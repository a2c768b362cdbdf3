"""The data sets of a pretraining: which genes, which cells, and what is wrong with them, before any step. No torch.

Genes are matched by name (symbols, Ensembl identifiers with or without versions), see `data.gene_vocabulary`. The vocabulary is that
of the gene vectors; where there are none, the genes of all files that enough cells express.

Notation: n cells, g genes of a file, v genes of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.gene_vocabulary import GeneMap, map_genes
from state_engine.errors import (
    DataError,
    EmptyDataError,
    GeneError,
    LabelError,
    RepresentationError,
    ScaleError,
    listed,
    may_be,
    near_each,
)
from state_engine.plain import plural, visible
from state_engine.progress import OnProgress, Progress

LEAST_GENES = 2
LEAST_CELLS = 5  # that express a gene, for it to be in a vocabulary learnt from the data
MOST_VALIDATED = 512
BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Source:
    """One data set.

    Args:
        dataset: opened.
        genes: of it, in the vocabulary.
        rows: (n,) cells that express any of them, in file order.
        expressing: (v,) cells of the file that express each gene of the vocabulary.
        negative: how many values below 0 are taken as 0.
    """

    dataset: Dataset
    genes: GeneMap
    rows: np.ndarray
    expressing: np.ndarray
    negative: int = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return self.dataset.path.name

    @property
    def expression(self) -> str:
        """The matrix that is read."""
        assert self.dataset.expression is not None
        return self.dataset.expression

    def logged(self, values: np.ndarray | sp.csr_matrix) -> np.ndarray | sp.csr_matrix:
        """Return the values of the genes known here as the network reads them: log1p of counts, log1p as it is; nothing below 0."""
        known = values[:, self.genes.columns]
        if isinstance(known, np.ndarray):
            known = np.maximum(known, 0)
            return np.log1p(known) if self.dataset.scale.scale == "counts" else known
        data = np.maximum(known.data, 0)
        return sp.csr_matrix(
            (np.log1p(data) if self.dataset.scale.scale == "counts" else data, known.indices, known.indptr), shape=known.shape
        )


def open_all(paths: Sequence[str], choices: Choices) -> tuple[Dataset, ...]:
    """Open data sets and make sure that each has expression on a known scale.

    Raises:
        EmptyDataError: no file is named. DataError: one cannot be read, or has no expression on a known scale.
    """
    if not paths:
        raise EmptyDataError("There is no data set.", "A model is pretrained on cells.", "Name one or more (--data X.h5ad).")
    datasets = tuple(_opened(Path(path), choices) for path in paths)
    for dataset in datasets:
        if dataset.expression is None:
            raise RepresentationError(f"{dataset.path.name} has no expression.", "It has no X and no layers.", "Leave it out.")
        try:
            dataset.scale.require()
        except ScaleError as error:
            raise ScaleError(f"{dataset.path.name}: {error.what}", error.why, error.fix) from error
    return datasets


def require_columns(datasets: Sequence[Dataset], wanted: Sequence[str]) -> None:
    """Make sure that each column to test on is one of labels in a data set at least.

    Raises:
        LabelError: one is in none.
    """
    known = list(dict.fromkeys(name for dataset in datasets for name in dataset.columns))
    lacking = [name for name in wanted if name not in known]
    if lacking:
        raise LabelError(
            f"No data set has a column of labels {listed([repr(visible(name)) for name in lacking])}.",
            f"There are: {listed(known, 12) or 'none'}.",
            may_be(near_each(lacking, known)) or "Choose among these, or leave --evaluate out.",
        )


def _opened(path: Path, choices: Choices) -> Dataset:
    """Open a data set; an error of one among several names it."""
    try:
        return open_dataset(path, choices)
    except DataError as error:
        if path.name in error.what:
            raise
        raise type(error)(f"{path.name}: {error.what}", error.why, error.fix) from error


def require_genes(vocabulary: Sequence[str]) -> None:
    """Make sure that there are genes which can go together.

    Raises:
        GeneError: there is one alone.
    """
    if len(vocabulary) < LEAST_GENES:
        raise GeneError(
            f"There is {plural(len(vocabulary), 'gene')} to learn from.",
            "A model learns which genes go together, so it takes several.",
            "Give data sets, or vectors, with more genes.",
        )


def union_of_genes(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Return the genes of all data sets by the first one's kind of name, each once.

    Raises:
        GeneError: a data set shares too few genes with those before it.
    """
    first = datasets[0].genes
    names = dict.fromkeys(name for name in first.names if name)
    for dataset in datasets[1:]:
        known = tuple(names)
        found = _required(map_genes(dataset.genes, known, dataset.choices.gene_column), dataset)
        column = next(c for c in dataset.genes.alternatives if c.column == found.column)
        if column.kind == first.kind:  # names of another kind, looked up one by one, can be the same gene twice
            taken = set(found.columns.tolist())
            names |= dict.fromkeys(name for i, name in enumerate(column.names) if name and i not in taken)
    return tuple(names)


def _required(genes: GeneMap, dataset: Dataset) -> GeneMap:
    try:
        return genes.require()
    except GeneError as error:
        raise GeneError(f"{dataset.path.name}: {error.what}", error.why, error.fix) from error


def survey(datasets: Sequence[Dataset], vocabulary: tuple[str, ...], on_progress: OnProgress) -> tuple[Source, ...]:
    """Read all cells once: which express anything, and how many express each gene.

    Raises:
        GeneError: too few genes of a data set are in the vocabulary.
        ScaleError: values that are not numbers.
        EmptyDataError: a data set without a cell that expresses a gene of the vocabulary.
    """
    return tuple(_survey(dataset, vocabulary, on_progress) for dataset in datasets)


def _survey(dataset: Dataset, vocabulary: tuple[str, ...], on_progress: OnProgress) -> Source:
    genes = _required(map_genes(dataset.genes, vocabulary, dataset.choices.gene_column), dataset)
    assert dataset.expression is not None
    expressing, negative, usable = np.zeros(len(vocabulary), np.int64), 0, []
    for rows, values in dataset.iter_blocks(dataset.expression, block=BLOCK):
        block = sp.csr_matrix(values)[:, genes.columns]
        if not np.isfinite(block.data).all():
            raise ScaleError(
                f"{dataset.path.name} has expression values that are not numbers (NaN or infinite).",
                f"One is among the cells {rows[0]:,} to {rows[-1]:,}.",
                "Remove or repair these cells.",
            )
        negative += int((block.data < 0).sum())
        positive = (block > 0).astype(np.int64)
        expressing[genes.rows] += np.asarray(positive.sum(axis=0)).ravel()
        usable.append(rows[np.asarray(positive.sum(axis=1)).ravel() > 0])
        on_progress(Progress(f"Reading {dataset.path.name}", int(rows[-1]) + 1, dataset.n_cells))
    cells = np.concatenate(usable) if usable else np.empty(0, np.int64)
    if not len(cells):
        raise EmptyDataError(
            f"No cell of {dataset.path.name} expresses a gene that is known.", f"{genes.numbers}.", "Leave this file out."
        )
    return Source(dataset, genes, cells, expressing, negative)


def without_rare(sources: Sequence[Source], vocabulary: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Source, ...]]:
    """Return the vocabulary without genes that fewer than `LEAST_CELLS` cells express, and the sources for it.

    Raises:
        GeneError: no gene is left.
    """
    kept = np.sum([s.expressing for s in sources], axis=0) >= LEAST_CELLS
    if not kept.any():
        raise GeneError(f"No gene is expressed by {LEAST_CELLS} cells.", "There is nothing to learn from.", "Give more cells.")
    place = np.cumsum(kept) - 1
    names = tuple(name for name, yes in zip(vocabulary, kept, strict=True) if yes)

    def narrowed(source: Source) -> Source:
        own = kept[source.genes.rows]
        genes = replace(
            source.genes, columns=source.genes.columns[own], rows=place[source.genes.rows[own]], n_vocabulary=len(names)
        )
        return replace(source, genes=genes, expressing=source.expressing[kept])

    return names, tuple(narrowed(source) for source in sources)


def common_genes(sources: Sequence[Source]) -> np.ndarray:
    """Return the rows of the vocabulary that every data set measures; what all cells of a step can be asked for.

    Raises:
        GeneError: there is none.
    """
    known = np.bincount(np.concatenate([s.genes.rows for s in sources]), minlength=sources[0].genes.n_vocabulary)
    common = np.flatnonzero(known == len(sources))
    if len(common):
        return common
    raise GeneError("No gene is in all of the data sets.", "A step asks all its cells for the same genes.", "Leave one file out.")


def held_back(sources: Sequence[Source], part: float, seed: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Return the rows of each data set that are trained on, and those for validation: a part of each, `MOST_VALIDATED` in all."""
    total = sum(len(s.rows) for s in sources)
    part = min(part, MOST_VALIDATED / total)
    train, validation = [], []
    for number, source in enumerate(sources):
        order = np.random.default_rng([seed, 0, number]).permutation(len(source.rows))
        out = int(part * len(source.rows))
        validation.append(np.sort(source.rows[order[:out]]))
        train.append(np.sort(source.rows[order[out:]]))
    return tuple(train), tuple(validation)
