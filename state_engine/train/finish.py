"""The end of a training: scores, the card, the model in our format with its baselines, and the files that arc-state reads.

Boundary: a trained network in, files out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from state_engine import __version__
from state_engine.checkpoints.arc.perturbation_vectors import read_features_file
from state_engine.checkpoints.arc.write import TrainingFacts, write_arc
from state_engine.checkpoints.card import FORMAT, ModelCard, TrainingSummary
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import save_model
from state_engine.data.dataset import Dataset
from state_engine.data.perturbation_features import PerturbationFeatures, from_vectors
from state_engine.data.splits.apply import Split
from state_engine.errors import CheckpointError, listed
from state_engine.models.transition import TransitionModel
from state_engine.progress import OnProgress, Progress
from state_engine.train.cells import Inputs, TrainingCells
from state_engine.train.held_out_scores import by_condition, score_groups, summarise
from state_engine.train.network import network_config
from state_engine.train.request import Network, TrainRequest
from state_engine.train.run_folder import MODEL, SPLIT
from state_engine.train.start_weights import InitialReport, NewLabels, initial_weights

LIMITS = ("Trained on one data set: other tissues, doses and time points are not tested.",)


@dataclass(frozen=True, eq=False)
class Vectors:
    """What the perturbations are known by.

    Args:
        values: (labels, p), a row for each of `TrainingCells.perturbations`.
        features: the file they come from, or None when one-hot.
    """

    values: Tensor
    features: PerturbationFeatures | None

    @property
    def own(self) -> Tensor | None:
        """The values where they are a model's own; None where one-hot vectors are made from the labels."""
        return None if self.features is None else self.values


def read_vectors(request: TrainRequest, control: str) -> PerturbationFeatures | None:
    """Read the file of perturbation features of a request, zeros for a control that has none; None for one-hot vectors.

    Raises:
        UnreadableFileError, UnsafePickleError, CheckpointError: see `read_features_file`.
    """
    return read_features_file(Path(request.network.features)).with_zeros((control,)) if request.network.features else None


def with_vectors_of(start: Path, features: PerturbationFeatures | None, split: Split) -> PerturbationFeatures | None:
    """Return vectors of perturbations with those that a model knows its own by; None where it knows them one-hot and none are given.

    Raises:
        CheckpointError: the model knows perturbations by vectors, and those of the data's new ones are not given.
    """
    loaded = load_model(start)
    card = loaded.card
    if card.perturbation_encoding == "one-hot":
        return features
    theirs = {
        label: row
        for label, row in zip(card.perturbations, loaded.perturbation_features.numpy(), strict=True)
        if label != card.control
    }
    given = {} if features is None else dict(zip(features.labels, features.vectors, strict=True))
    control = loaded.perturbation_features.numpy()[card.perturbations.index(card.control)]
    own = given.get(split.control)
    # zeros stand for a control that the file does not have
    made = {**theirs, **given, split.control: control if own is None or not own.any() else own}
    asked = {p for source in split.sources for p in source.dataset.perturbations}
    if lacking := sorted(asked - {*made}):
        raise CheckpointError(
            f"'{card.name}' knows perturbations by vectors of {loaded.perturbation_features.shape[1]:,} numbers.",
            f"New ones need vectors too: {listed(lacking)}.",
            "Give a file with their vectors, made as the model's own (--features).",
        )
    source = f"'{card.name}'" if features is None else f"'{card.name}' and {features.source}"
    return from_vectors(made, source)


def vectors_of(cells: TrainingCells, features: PerturbationFeatures | None) -> Vectors:
    """Return the vectors of the labels that a model will know."""
    if features is None:
        return Vectors(torch.eye(len(cells.perturbations)), None)
    return Vectors(torch.from_numpy(features.of(cells.perturbations).copy()), features)


def save_training(
    card: ModelCard, split: Split, request: TrainRequest, output: Path, cells: TrainingCells, vectors: Vectors,
    model: TransitionModel, on_progress: OnProgress,
) -> ModelCard:  # fmt: skip
    """Score the network on what was held out and write everything.

    Args:
        card: see `card_of_training`.
        model: in eval mode, on the device it shall be scored on.

    Returns:
        The card as written.
    """
    there = vectors.values.to(next(model.parameters()).device)
    tests = score_groups(model, there, cells, cells.groups["test"], request.run.seed, on_progress)
    validations = score_groups(model, there, cells, cells.groups["val"], request.run.seed, on_progress)
    on_progress(Progress("Saving the model"))
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    training = replace(
        card.training, scores=summarise(tests), validation_scores=summarise(validations), conditions=by_condition(tests)
    )
    card = replace(card, training=training)
    try:
        write_arc(output, card, weights, vectors.own, _facts(request, output))
    except CheckpointError as error:
        card = replace(card, notes=(*card.notes, f"Not written for arc-state: {error}"))
    return save_model(output / MODEL, card, weights, vectors.own, replace=True)


def card_of_training(split: Split, request: TrainRequest, inputs: Inputs, cells: TrainingCells, vectors: Vectors) -> ModelCard:
    """Return the card of the model that is trained; without scores, hash and notes of what is yet to come."""
    dataset, network = split.sources[0].dataset, request.network
    all_genes = inputs.genes is not None and len(inputs.genes) == len(set(split.genes))
    decoded = cells.targets.width if cells.targets is not None else 0
    return ModelCard(
        format=FORMAT,
        id="",
        name=request.run.name,
        config=network_config(request, cells.features.width, vectors.values.shape[1], len(cells.batches), decoded),
        input_key=network.embedding or ("X" if all_genes else "X_hvg"),
        input_genes=inputs.genes if network.reads_genes else None,
        output_genes=inputs.genes if network.reads_genes or network.gene_decoder else None,
        scale=_scale(dataset, network),
        log_base=math.e if inputs.depth else None,
        depth=inputs.depth,
        control=split.control,
        perturbations=cells.perturbations,
        perturbation_encoding="one-hot" if vectors.features is None else "features",
        batches=cells.batches,
        contexts=cells.contexts,
        perturbation_key=dataset.labels.perturbation_key,
        context_key=dataset.labels.context_key,
        batch_key=dataset.labels.batch_key,
        attention="full",
        attention_source="Trained with full attention: the cells of a set have no order.",
        attention_origin="trained",
        weights_hash="",
        licence=request.run.licence,
        source=f"trained by STATE Explorer {__version__}",
        limits=LIMITS,
        notes=(*cells.notes, *_notes(request, vectors)),
        simulated=request.run.simulated,
        embedding_model=_embedding_model(dataset, network.embedding),
        unseen=cells.unseen,
        training=_summary(split, request),
    )


def _embedding_model(dataset: Dataset, embedding: str | None) -> str | None:
    """Return the hash of the model that the cells were embedded with; None without an embedding or a record of it."""
    record = dataset.embeddings.get(embedding) if embedding else None
    return record.model or None if record else None


def _scale(dataset: Dataset, network: Network) -> Literal["log1p", "counts"] | None:
    """Return the scale that the network reads: counts only where they are not normalised; None for an embedding."""
    if not network.reads_genes:
        return None
    return "counts" if dataset.scale.scale == "counts" and not dataset.choices.normalise else "log1p"


def _summary(split: Split, request: TrainRequest) -> TrainingSummary:
    """Return what a card tells of its training before there are scores."""
    return TrainingSummary(
        data=request.run.data_name or ", ".join(dict.fromkeys(s.dataset.path.name for s in split.sources)),
        steps=request.optimiser.steps,
        loss=request.loss.loss,
        held_out=split.plan.held_out(),
        leaks=split.leaks,
    )


def start_from(start: Path, fresh: TransitionModel, card: ModelCard, vectors: Vectors, by_gene: bool = False) -> InitialReport:
    """Give a new network the weights of another model, labels (and genes, when asked) matched by name; return what happened.

    Raises:
        CheckpointError: the networks or what they read differ; see `initial_weights`.
    """
    loaded = load_model(start)
    if loaded.card.scale and card.scale and loaded.card.scale != card.scale:
        raise CheckpointError(
            f"'{loaded.card.name}' reads {loaded.card.scale}, the training {card.scale}.",
            "Weights for one scale mean nothing on the other.",
            "Give data of its scale, or start from another model.",
        )
    labels = NewLabels(
        card.perturbations, card.control, vectors.own,
        card.batches if card.config.batch_encoder else (), card.input_genes, card.input_key, by_gene,
        card.output_genes if card.config.decoder is not None else None,
    )  # fmt: skip
    weights, report = initial_weights(fresh.state_dict(), labels, loaded)
    fresh.load_state_dict(weights)
    return report


def _notes(request: TrainRequest, vectors: Vectors) -> tuple[str, ...]:
    notes = []
    if vectors.features is not None:
        notes.append(f"Perturbations are known by vectors of {vectors.features.source} (sha256 {vectors.features.hash[:12]}).")
    if request.optimiser.last_layers:
        notes.append(f"The last {request.optimiser.last_layers} layers of the transformer and the output were trained.")
    if request.optimiser.lora_rank and request.optimiser.tune in ("", "lora"):
        notes.append(f"Adapters of rank {request.optimiser.lora_rank} were trained and merged.")
    if request.optimiser.ema:
        notes.append("The weights are a running mean over the last steps.")
    return tuple(notes)


def _facts(request: TrainRequest, output: Path) -> TrainingFacts:
    loss, optimiser, run = request.loss, request.optimiser, request.run
    return TrainingFacts(
        loss=loss.loss, blur=loss.blur, loss_chunks=loss.loss_chunks, shuffle_chunks=loss.shuffle_chunks, l1=loss.l1,
        decoder_detach=loss.decoder_detach, learning_rate=optimiser.learning_rate, gradient_clip=optimiser.gradient_clip,
        steps=optimiser.steps, step=optimiser.steps, sets_a_step=request.sets.sets_per_step,
        control_mapping=request.sets.control_mapping, seed=run.seed, validate_every=run.validate_every,
        checkpoint_every=run.checkpoint_every, features=request.network.features, split=str(output / SPLIT),
    )  # fmt: skip
