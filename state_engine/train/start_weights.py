"""Weights to start a training from: those of another model, its labels matched by name.

What a label owns moves with it: the column of the perturbation encoder (one-hot models) and the row of the batch encoder. Labels
that are new start from the values of a fresh network, labels that are gone are dropped; both are named. Other weights are taken
as they are. A part that one of the two networks does not have is reported; a part of another size, or other genes, is an error.

Boundary: dictionaries of tensors and labels; nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from state_engine.errors import CheckpointError, listed
from state_engine.plain import agreed, part_of, plural

if TYPE_CHECKING:
    from torch import Tensor

    from state_engine.checkpoints.load import LoadedModel

FIRST_LINEAR = "perturbation_encoder.0.weight"  # (d, p): a column a label, when one-hot
BATCHES = "batch_encoder.weight"  # (batches, d)
# parts that a network can have or not; all else must be in both
OPTIONAL = ("batch_encoder", "batch_token", "confidence_token", "confidence_head", "gene_decoder", "bottleneck")


@dataclass(frozen=True, eq=False)
class NewLabels:
    """What the training has labels of.

    Args:
        perturbations: in the order of the new model's vectors, the control included.
        control: which of them it is.
        vectors: (labels, p) feature vectors, or None when one-hot.
        batches: in the order of the new batch encoder; empty without one.
        genes: names of the input features in order, or None when they have none.
        input_key: representation that is read.
        by_gene: genes are matched by name too, and the model may read more of them.
        decoded: genes of a gene decoder.
    """

    perturbations: tuple[str, ...]
    control: str
    vectors: Tensor | None = None
    batches: tuple[str, ...] = ()
    genes: tuple[str, ...] | None = None
    input_key: str = "X_hvg"
    by_gene: bool = False
    decoded: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Matched:
    """Labels of one kind: in both, new here, only in the model that was the start."""

    matched: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class InitialReport:
    """What became of the weights of the start.

    Args:
        source: name of the model that was the start.
        perturbations, batches: what was matched by name; batches only when both have a batch encoder.
        new_parts, dropped_parts: parts of the network that only the new, or only the old one has.
        notes: what else was decided, sentences.
    """

    source: str
    perturbations: Matched
    batches: Matched | None
    new_parts: tuple[str, ...]
    dropped_parts: tuple[str, ...]
    notes: tuple[str, ...]

    def sentences(self, labels: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return the report for people; `labels` are sentences of what was matched, in place of its own."""
        said = [f"The weights start from '{self.source}'."]
        said += _counts(self.perturbations, "perturbation", "perturbations") if labels is None else labels
        if self.batches is not None and labels is None:
            said += _counts(self.batches, "batch", "batches")
        if self.new_parts:
            said.append(f"Parts that start anew: {', '.join(self.new_parts)}.")
        if self.dropped_parts:
            said.append(f"Parts that were left behind: {', '.join(self.dropped_parts)}.")
        return (*said, *self.notes)


def initial_weights(
    fresh: Mapping[str, Tensor], labels: NewLabels, start: LoadedModel
) -> tuple[dict[str, Tensor], InitialReport]:
    """Return weights of a new network from those of a trained one.

    Args:
        fresh: `state_dict` of the new network as it was made; it gives the shapes, and the values of all that is new.
        labels: of the new training.
        start: the model to start from.

    Returns:
        A `state_dict` for the new network (float32 copies), and the report.

    Raises:
        CheckpointError: the networks differ in size, read other genes or another representation, or a label that both know
            has another feature vector; everything that differs is named.
    """
    notes: list[str] = []
    _check_input(labels, start)
    old = _by_gene(labels, start) if labels.by_gene else start.module.state_dict()
    perturbations = _match(labels.perturbations, start.card.perturbations)
    one_hot, both = _one_hot(labels, start), BATCHES in fresh and BATCHES in old
    batches = _match(labels.batches, start.card.batches) if both else None
    by_label = {name for name, moves in ((FIRST_LINEAR, one_hot), (BATCHES, both)) if moves}
    if (labels.vectors is None) != (start.card.perturbation_encoding == "one-hot"):
        by_label.add(FIRST_LINEAR)
        notes.append("The vectors of perturbations are of another kind: the first layer of their encoder starts anew.")
    elif labels.vectors is not None:
        _check_vectors(labels, labels.vectors, start, perturbations)
    new_parts, dropped_parts = _compare(fresh, old, by_label)
    taken = {**fresh, **{name: old[name] for name in fresh.keys() & old.keys() - by_label}}
    weights = {name: tensor.detach().cpu().float().clone() for name, tensor in taken.items()}
    if one_hot:
        twins = _with_control(labels, start, perturbations, notes)
        _move(weights[FIRST_LINEAR].T, old[FIRST_LINEAR].T, labels.perturbations, start.card.perturbations, twins)
    if batches is not None:
        _move(weights[BATCHES], old[BATCHES], labels.batches, start.card.batches, {n: n for n in batches.matched})
    if start.card.attention != "full":
        notes.append(f"It was trained with {start.card.attention} attention; training goes on with full attention.")
    return weights, InitialReport(start.card.name, perturbations, batches, new_parts, dropped_parts, tuple(notes))


def _one_hot(labels: NewLabels, start: LoadedModel) -> bool:
    return labels.vectors is None and start.card.perturbation_encoding == "one-hot"


def _match(new: tuple[str, ...], old: tuple[str, ...]) -> Matched:
    ours, theirs = set(new), set(old)
    return Matched(
        tuple(n for n in new if n in theirs), tuple(n for n in new if n not in theirs), tuple(n for n in old if n not in ours)
    )


def _with_control(labels: NewLabels, start: LoadedModel, found: Matched, notes: list[str]) -> dict[str, str]:
    """New label -> old label whose column it takes: its own, and for a control of another name the old control's."""
    twins = {name: name for name in found.matched}
    if labels.control not in twins and start.card.control not in twins:
        twins[labels.control] = start.card.control
        notes.append(f"The control '{labels.control}' takes the place of the control '{start.card.control}'.")
    return twins


def _move(into: Tensor, out_of: Tensor, new: tuple[str, ...], old: tuple[str, ...], twins: Mapping[str, str]) -> None:
    """Copy rows by label: `into` (new labels, d) in place, `out_of` (old labels, d)."""
    here, there = ({name: row for row, name in enumerate(names)} for names in (new, old))
    for name, twin in twins.items():
        into[here[name]] = out_of[there[twin]].to(into)


def _check_input(labels: NewLabels, start: LoadedModel) -> None:
    card = start.card
    fix = "Train on what it reads, or start from another model."
    if labels.input_key != card.input_key and (card.reads_embedding or labels.input_key not in ("X", "X_hvg")):
        raise CheckpointError(f"'{card.name}' reads {card.input_key}.", f"This training reads {labels.input_key}.", fix)
    if labels.genes is None or card.input_genes is None or labels.genes == card.input_genes:
        return
    if labels.by_gene and {*labels.genes} <= {*card.input_genes}:
        return
    other = [gene for gene in labels.genes if gene not in set(card.input_genes)]
    why = (
        f"{len(other):,} of {len(labels.genes):,} {agreed(len(other), 'is', 'are')} not among its genes: {listed(other)}."
        if other
        else "They differ in order."
    )
    raise CheckpointError(f"'{card.name}' reads other genes.", why, "Train on its genes (setting `genes`), in their order.")


def _by_gene(labels: NewLabels, start: LoadedModel) -> Mapping[str, Tensor]:
    """Return the weights of a model for some of its genes: their columns where genes go in, and their rows where they come out."""
    card, weights = start.card, dict(start.module.state_dict())
    last = max((n for n in weights if n.startswith("project_out.")), key=lambda n: int(n.split(".")[1])).rpartition(".")[0]
    reads = not card.reads_embedding
    moves = [
        (card.input_genes, labels.genes, {"basal_encoder.0.weight": 1, f"{last}.weight": 0, f"{last}.bias": 0} if reads else {}),
        (card.output_genes, labels.decoded, {"gene_decoder.out.weight": 0, "gene_decoder.out.bias": 0}),
    ]
    for theirs, ours, owned in moves:
        if ours is None or theirs is None or ours == theirs:
            continue
        place = {gene: i for i, gene in enumerate(theirs)}
        columns = [place[gene] for gene in ours]
        for name, axis in owned.items():
            weights[name] = weights[name][:, columns] if axis else weights[name][columns]
    return weights


def _check_vectors(labels: NewLabels, vectors: Tensor, start: LoadedModel, found: Matched) -> None:
    import torch

    theirs = start.perturbation_features.detach().cpu().float()
    if vectors.shape[1] != theirs.shape[1]:
        raise CheckpointError(
            f"'{start.card.name}' knows perturbations by vectors of {theirs.shape[1]:,} numbers.",
            f"These have {vectors.shape[1]:,}.",
            "Use the same features.",
        )
    here, there = ({n: i for i, n in enumerate(names)} for names in (labels.perturbations, start.card.perturbations))
    other = [n for n in found.matched if not torch.allclose(vectors[here[n]].cpu().float(), theirs[there[n]], atol=1e-5)]
    if other:
        raise CheckpointError(
            f"The vectors of {plural(len(other), 'perturbation')} differ from those of '{start.card.name}'.",
            f"{listed(other)}.",
            "Use the same features.",
        )


def _compare(
    fresh: Mapping[str, Tensor], old: Mapping[str, Tensor], by_label: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parts only in the new network, and only in the old one.

    Raises:
        CheckpointError: a part that both have differs, or one is missing that both must have.
    """
    here, there = ({name.split(".")[0] for name in names} for names in (fresh, old))
    new_parts, dropped = here - there, there - here
    optional = (new_parts | dropped) & set(OPTIONAL)
    alone = [name for name in sorted(fresh.keys() ^ old.keys()) if name.split(".")[0] not in optional]
    shapes, widths = _other_sizes(fresh, old, by_label)
    wrong = [*shapes, *(f"{name} is {'only here' if name in fresh else 'only there'}" for name in alone), *widths]
    if wrong:
        raise CheckpointError(
            "The network of the start is another one.", f"{listed(wrong, 4)}.", "Use its sizes: its card shows them."
        )
    return tuple(sorted(new_parts)), tuple(sorted(dropped))


def _other_sizes(fresh: Mapping[str, Tensor], old: Mapping[str, Tensor], by_label: set[str]) -> tuple[list[str], list[str]]:
    """Return in words the weights of another shape, and those owned by labels whose width differs."""
    shapes = []
    for name in sorted((fresh.keys() & old.keys()) - by_label):
        if old[name].shape != fresh[name].shape:
            shapes.append(f"{name} is {tuple(old[name].shape)} there and {tuple(fresh[name].shape)} here")
    widths = []
    # a column or row for each label: only the width has to be the same
    for name, axis in ((FIRST_LINEAR, 0), (BATCHES, 1)):
        if name in by_label and name in old and old[name].shape[axis] != fresh[name].shape[axis]:
            widths.append(f"{name} has width {old[name].shape[axis]} there and {fresh[name].shape[axis]} here")
    return shapes, widths


def _counts(found: Matched, one: str, many: str) -> list[str]:
    matched, total = len(found.matched), len(found.matched) + len(found.new)
    said = [f"{part_of(matched, total, one, many)} {agreed(matched, 'is', 'are')} known to it."]
    if found.new:
        said.append(f"New {agreed(len(found.new), one, many)}, {len(found.new):,}: {listed(found.new, 8)}.")
    if found.dropped:
        said.append(f"Dropped {agreed(len(found.dropped), one, many)}, {len(found.dropped):,}: {listed(found.dropped, 8)}.")
    return said
