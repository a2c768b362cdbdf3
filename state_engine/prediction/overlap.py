"""How much of a data set a model knows, in numbers: perturbations, genes and contexts of the data set that are the model's too.

Counted from the labels and gene names alone; what stands in the way of a prediction is said by `compatibility`.
"""

from __future__ import annotations

from dataclasses import dataclass

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.data.splits.choices import genes_of
from state_engine.prediction.compatibility import check_compatibility


@dataclass(frozen=True)
class Overlap:
    """What a data set and a model have in common.

    Args:
        known: perturbations of the data set that the model knows.
        perturbations: how many the data set has, without the control.
        offered: how many the model knows, without its control.
        genes_found: genes of the model that the data set has; None where it reads an embedding or its genes are not named.
        genes: how many the model reads; None as well.
        seen: contexts of the data set that were in training; None where the model's are not recorded.
        contexts: how many the data set has.
        blocking: titles of what stops a prediction.
    """

    known: tuple[str, ...]
    perturbations: int
    offered: int
    genes_found: int | None
    genes: int | None
    seen: tuple[str, ...] | None
    contexts: int
    blocking: tuple[str, ...]

    @property
    def useful(self) -> bool:
        """Whether a prediction is possible that can be compared with the data set, or any where it has no perturbed cells."""
        return not self.blocking and (bool(self.known) or not self.perturbations)


def overlap_of(dataset: Dataset, card: ModelCard) -> Overlap:
    """Return what a data set and a model have in common."""
    report = check_compatibility(dataset, card)
    own = perturbations_of(dataset)
    columns = report.source.columns if report.source is not None else None
    known, seen = set(card.perturbations), set(card.contexts)
    return Overlap(
        known=tuple(p for p in own if p in known),
        perturbations=len(own),
        offered=len(card.offered),
        genes_found=None if columns is None else sum(c >= 0 for c in columns),
        genes=None if columns is None else len(columns),
        seen=tuple(c for c in dataset.contexts if c in seen) if card.contexts else None,
        contexts=len(dataset.contexts),
        blocking=tuple(f.title for f in report.blocking),
    )


def perturbations_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the perturbations of a data set, without its control."""
    return tuple(p for p in dataset.perturbations if p != dataset.labels.control)


def naming_genes(dataset: Dataset) -> tuple[str, ...]:
    """Return the perturbations whose label is a gene of the data set or several: the only ones that a model of knock-downs can know."""
    genes = set(dataset.genes.names)
    return tuple(p for p in perturbations_of(dataset) if genes_of(p, genes))
