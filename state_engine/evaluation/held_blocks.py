"""What of a split is held out and can be predicted by a model, and by further models beside it. Nothing is predicted here.

A process of its own that predicts some of it begins with the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import card_of
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import FeatureSource
from state_engine.data.splits.apply import CODES, Split, SplitSource, apply_plan
from state_engine.data.splits.equal_depth import with_equal_depth
from state_engine.data.splits.plan import parse_plan, plan_files
from state_engine.errors import IncompatibleError, SplitError, listed
from state_engine.evaluation.request import HeldOutRequest, ModelBeside
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.outputs import expression_source, gene_names


@dataclass(frozen=True, eq=False)
class HeldBlock:
    """Held-out perturbations of one context of one file, and how the model's genes are read there."""

    source: SplitSource
    context: str
    perturbations: tuple[str, ...]
    expression: FeatureSource

    def cells(self, part: int) -> np.ndarray:
        """Measured cells of the perturbations that are in the part, and all controls of the context, in file order."""
        dataset = self.source.dataset
        rows = np.concatenate([dataset.rows(p, self.context) for p in self.perturbations])
        return np.sort(np.concatenate([rows[self.source.parts[rows] == part], dataset.control_rows(self.context)]))


@dataclass(frozen=True, eq=False)
class Tested:
    """A model that predicts held-out blocks.

    Args:
        request: the test; its folder is the model's.
        card: of the model.
        blocks: what it predicts.
        genes: names of the compared genes, and their places among the model's.
        control: label of the controls in the file that is written.
        method: name of the one row for its recommended output; "" for a row for each kind of prediction.
    """

    request: HeldOutRequest
    card: ModelCard
    blocks: tuple[HeldBlock, ...]
    genes: tuple[tuple[str, ...], np.ndarray]
    control: str
    method: str


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A test that may begin.

    Args:
        split, features: with its files open, and the file of perturbation features.
        tested: the model, then those beside it.
        remarks: what is not predicted, in words.
    """

    split: Split
    features: str
    tested: tuple[Tested, ...]
    remarks: tuple[str, ...]


def held_out_of(request: HeldOutRequest, card: ModelCard | None = None) -> HeldOut:
    """Return what a request tests.

    Args:
        request: the test.
        card: of its model, where that is in memory.

    Raises:
        SplitError: nothing is held out, or nothing of it can be predicted. IncompatibleError: the model gives no expression.
    """
    split, features = split_of(request)
    card = card or card_of(request.folder)
    split = with_equal_depth(split, card.training.equal_depth)
    blocks, remarks = blocks_of(split, card, request.part)
    remarks += [f"{other.method}: {card_of(Path(other.path)).name}." for other in request.beside]
    own = Tested(request, card, blocks, genes_of(blocks, card), card.control, request.method)
    tested = [own]
    for other in request.beside:
        try:
            tested.append(tested_beside(other, own))
        except (IncompatibleError, SplitError) as error:
            remarks.append(f"{other.method} is not among the rows. {error}")
    return HeldOut(split, features, tuple(tested), tuple(remarks))


def split_of(request: HeldOutRequest) -> tuple[Split, str]:
    """The split with its files open, and the file of perturbation features."""
    if request.split:
        plan = parse_plan(request.split)
        files = plan_files(plan, Path.cwd())
        return apply_plan(plan, [(name, open_dataset(file, request.choices)) for name, file in files]), request.features
    from state_engine.train.run_folder import open_training_split, read_record

    folder = Path(request.run)
    return open_training_split(folder), request.features or read_record(folder).request.network.features


def blocks_of(split: Split, card: ModelCard, part: str) -> tuple[tuple[HeldBlock, ...], list[str]]:
    """What is held out and can be predicted, and what cannot, in words."""
    found, unknown, bare = [], set[str](), set[str]()
    for source in split.sources:
        dataset = source.dataset
        expression, _ = expression_of(dataset, card)
        for context in dataset.contexts:
            held = [p for p in dataset.perturbations if p != dataset.labels.control and _in(source, p, context, part)]
            if held and not len(dataset.control_rows(context)):
                bare.add(context)
                continue
            unknown |= {p for p in held if p not in card.perturbations}
            known = tuple(p for p in held if p in card.perturbations and p != card.control)
            if known:
                found.append(HeldBlock(source, context, known, expression))
    remarks = []
    if unknown:
        remarks.append(f"Not known to the model, so not predicted: {listed(sorted(unknown))}.")
    if bare:
        remarks.append(f"Contexts without control cells, so not predicted: {listed(sorted(bare))}.")
    if not found:
        words = {"val": "validation", "test": "testing"}[part]
        raise SplitError(f"No cells are held out for {words} that the model can predict.", " ".join(remarks), "Hold out some.")
    return tuple(found), remarks


def expression_of(dataset: Dataset, card: ModelCard) -> tuple[FeatureSource, tuple[str, ...]]:
    """Return how the model's genes are read from a data set, and their names.

    Raises:
        IncompatibleError: the model gives no expression, or the data set has none of its genes.
    """
    usable = require_compatible(check_compatibility(dataset, card))
    expression = expression_source(dataset, card, usable)
    names = () if expression is None else tuple(gene_names(dataset, card, usable))
    if expression is None or not names:
        raise IncompatibleError(
            f"{card.name} predicts no expression of the genes of {dataset.path.name}.",
            "It predicts an embedding, or the genes it decodes are not there.",
            "Test a model that reads genes or has a gene decoder.",
        )
    return expression, names


def _in(source: SplitSource, perturbation: str, context: str, part: str) -> bool:
    rows = source.dataset.rows(perturbation, context)
    return bool((source.parts[rows] == CODES[part]).any())  # type: ignore[index]  # checked by the request


def genes_of(blocks: tuple[HeldBlock, ...], card: ModelCard) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the compared genes, and their places among the model's: those that every file measured."""
    _, names = expression_of(blocks[0].source.dataset, card)
    there = np.ones(len(names), bool)
    for block in blocks:
        if block.expression.columns is not None:
            there &= np.asarray(block.expression.columns) >= 0
    return tuple(n for n, yes in zip(names, there, strict=True) if yes), np.flatnonzero(there)


def tested_beside(other: ModelBeside, own: Tested) -> Tested:
    """Return how a further model is tested on the same blocks: those perturbations that it knows, the same genes.

    Raises:
        SplitError: it knows none of them. IncompatibleError: it does not give all genes, or does not fit the data.
    """
    request = replace(own.request, run="" if own.request.split else own.request.run, model=other.path)
    card = card_of(request.folder)
    there = [(block, tuple(p for p in block.perturbations if p in card.perturbations)) for block in own.blocks]
    blocks = tuple(replace(block, perturbations=labels) for block, labels in there if labels)
    if not blocks:
        raise SplitError(f"{card.name} knows none of the held-out perturbations.", "Each is new to it.")
    read = [expression_of(block.source.dataset, card) for block in blocks]  # each has to fit
    _, names = read[0]
    place = {name: i for i, name in enumerate(names)}
    if lacking := [gene for gene in own.genes[0] if gene not in place]:
        raise IncompatibleError(f"{card.name} does not predict {len(lacking):,} of the compared genes.", f"{listed(lacking)}.")
    genes = own.genes[0], np.array([place[gene] for gene in own.genes[0]])
    return Tested(request, card, blocks, genes, own.control, other.method)
