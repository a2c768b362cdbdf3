"""Training a State Transition model: a small loop with the energy distance, for the demo and for data sets that fit in memory.

A training example is a cell set: s cells of one perturbation in one context, beside s control cells of that context drawn at
random. The control label is trained like any other, so that a prediction can be paired. Source: bioRxiv 2025.06.26.661135.

Notation: n training cells, g features, b sets in a mini-batch, s cells in a set.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from state_engine import __version__
from state_engine.checkpoints.card import FORMAT, ModelCard, TrainingSummary
from state_engine.checkpoints.store import save_model
from state_engine.data.dataset import Dataset
from state_engine.data.expression import choose_hvgs
from state_engine.device import DeviceName, Precision, choose_device, dtype_of
from state_engine.errors import CheckpointError, ConfigError
from state_engine.models.config import BackboneConfig, TransitionConfig
from state_engine.models.losses import energy_distance
from state_engine.models.transition import TransitionModel
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.cells import HeldOut, TrainingCells, feature_source, read_training_cells
from state_engine.train.scores import score_held_out, summarise

LOSSES_FILE = "losses.csv"
CLIP = 10.0  # largest norm of the gradient
STAGE = "Training"
LIMITS = ("Trained on one data set: other tissues, doses and time points are not tested.",)


@dataclass(frozen=True)
class TrainRequest:
    """What to train, and how; saved with the model's log, so everything is explicit.

    Args:
        name: of the model, for people.
        embedding: name of the obsm matrix to read instead of expression.
        genes: names of the genes to read, in order; empty: the `hvgs` most variable ones.
        hvgs: how many; 0 for every gene of the data set. No genes are chosen for an embedding.
        hold_out: blocks that are scored and never trained on.
        match_batches: draw controls of the cells' own batch.
        steps, sets_a_step, set_size: optimiser steps, b, s.
        hidden, layers, heads: the transformer.
        learning_rate: of Adam at the start; it falls to 0 along half a cosine.
        dropout: in the network's MLPs.
        seed: of weights, dropout and the order of the data.
        simulated, licence, data_name: noted on the card.
    """

    name: str = "State Transition"
    embedding: str | None = None
    genes: tuple[str, ...] = ()
    hvgs: int = 2000
    hold_out: tuple[HeldOut, ...] = ()
    match_batches: bool = False
    steps: int = 1500
    sets_a_step: int = 8
    set_size: int = 32
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    learning_rate: float = 1e-3
    dropout: float = 0.0
    loss: Literal["energy"] = "energy"
    seed: int = 42
    device: DeviceName = "auto"
    precision: Precision = "fp32"
    simulated: bool = False
    licence: str = "unknown"
    data_name: str = ""

    def __post_init__(self) -> None:
        small = [n for n in ("steps", "sets_a_step", "set_size", "layers", "heads") if getattr(self, n) < 1]
        if small or self.learning_rate <= 0:
            raise ConfigError(f"{', '.join(small) or 'learning_rate'} must be positive.")
        if self.hidden % self.heads or self.hidden < 8:
            raise ConfigError(
                f"A hidden width of {self.hidden} cannot be shared by {self.heads} heads.", "It must divide evenly."
            )


def train_transition(dataset: Dataset, request: TrainRequest, output: Path, on_progress: OnProgress = silent) -> ModelCard:
    """Train a model, score it on what was held out, and save it.

    Args:
        dataset: an opened data set with perturbation labels and controls.
        request: what to train.
        output: folder of the new model (our store, and the losses of every step in `losses.csv`).
        on_progress: told every step; may raise `JobCancelled`, then nothing is written.

    Returns:
        The card, with scores on the held-out blocks beside two baselines (`summarise` says which).

    Raises:
        CheckpointError: the folder is there already.
        UnknownLabelError: a held-out block matches no cell, or its perturbation is trained nowhere.
        LabelError: no group of cells has controls to start from.
        DeviceError: no such device or precision.
    """
    if output.exists():
        raise CheckpointError(f"{output} is there already.", fix="Choose another folder, or remove it first.")
    device, dtype = choose_device(request.device).torch_device, dtype_of(request.precision)
    on_progress(Progress("Reading cells"))
    genes = _genes(dataset, request)
    cells = read_training_cells(
        dataset, feature_source(dataset, genes, request.embedding), request.hold_out, request.match_batches
    )
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        model = TransitionModel(network(request, cells)).to(device)
        with warnings.catch_warnings():
            # autocast hands RMSNorm bf16 values and float32 weights: right, only not the fastest kernel
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            losses = _fit(model, cells, request, dtype, on_progress)
    on_progress(Progress("Scoring held-out cells"))
    scores = score_held_out(model.eval(), cells, request.set_size, request.seed)
    card = save_model(output, _card(dataset, request, genes, cells, summarise(scores)), model.cpu().state_dict())
    _write_losses(output / LOSSES_FILE, losses)
    return card


def network(request: TrainRequest, cells: TrainingCells) -> TransitionConfig:
    """The configuration that a request asks for on these cells."""
    width, d = cells.values.shape[1], request.hidden
    backbone = BackboneConfig("llama", d, request.layers, request.heads, request.heads, d // request.heads, 2 * d)
    return TransitionConfig(
        input_dim=width,
        output_dim=width,
        perturbation_dim=len(cells.perturbations),
        backbone=backbone,
        output_space="hvg" if request.embedding is None else "embedding",
        set_size=request.set_size,
        encoder_layers=2,
        decoder_layers=2,
        final_relu=request.embedding is None,
        dropout=request.dropout,
    )


def _fit(
    model: TransitionModel, cells: TrainingCells, request: TrainRequest, dtype: torch.dtype, on_progress: OnProgress
) -> list[float]:
    """The loop: returns the loss of every step."""
    device = next(model.parameters()).device
    values = torch.from_numpy(cells.values)
    one_hot = torch.eye(len(cells.perturbations), device=device)
    optimiser = torch.optim.Adam(model.parameters(), lr=request.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, request.steps)
    losses: list[float] = []
    model.train()
    for basal, observed, labels in _mini_batches(cells, request):
        optimiser.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            predicted = model(values[basal].to(device), one_hot[labels], attention="full").predicted
        loss = energy_distance(predicted.float(), values[observed].to(device)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        decay.step()
        losses.append(float(loss.detach()))
        # a message is kept in the log: ten of them say how it went
        milestone = len(losses) % max(1, request.steps // 10) == 0
        remark = f"Step {len(losses):,}: loss {losses[-1]:.4f}" if milestone else ""
        on_progress(Progress(STAGE, len(losses), request.steps, remark))
    return losses


def _mini_batches(cells: TrainingCells, request: TrainRequest) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of basal cells (b, s), of observed cells (b, s), perturbations (b,): `steps` times, decided by the seed alone.

    A group is drawn as often as it has cells.
    """
    rng = np.random.default_rng(request.seed)
    sizes = np.array([len(g.cells) for g in cells.groups], dtype=float)
    for _ in range(request.steps):
        chosen = [cells.groups[i] for i in rng.choice(len(sizes), request.sets_a_step, p=sizes / sizes.sum())]
        basal = np.stack([_draw(g.controls, request.set_size, rng) for g in chosen])
        observed = np.stack([_draw(g.cells, request.set_size, rng) for g in chosen])
        labels = np.array([g.perturbation for g in chosen])
        yield torch.from_numpy(basal), torch.from_numpy(observed), torch.from_numpy(labels)


def _draw(pool: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of a set; repeats only where the pool is smaller than the set."""
    return rng.choice(pool, size, replace=len(pool) < size)


def _genes(dataset: Dataset, request: TrainRequest) -> tuple[str, ...] | None:
    """Names of the input features; None for an embedding."""
    if request.embedding is not None:
        return None
    if request.genes:
        return request.genes
    return choose_hvgs(dataset, request.hvgs) if request.hvgs else tuple(dict.fromkeys(dataset.genes.names))


def _card(
    dataset: Dataset,
    request: TrainRequest,
    genes: tuple[str, ...] | None,
    cells: TrainingCells,
    scores: dict[str, float],
) -> ModelCard:
    all_genes = genes is not None and len(genes) == dataset.n_genes
    scale: Literal["log1p", "counts"] = "counts" if dataset.scale.scale == "counts" and not dataset.choices.normalise else "log1p"
    made = dataset.embeddings.get(request.embedding) if request.embedding else None
    return ModelCard(
        format=FORMAT,
        id="",
        name=request.name,
        config=network(request, cells),
        input_key=request.embedding or ("X" if all_genes else "X_hvg"),
        input_genes=genes,
        output_genes=genes,
        scale=None if genes is None else scale,
        control=dataset.require_control(),
        perturbations=cells.perturbations,
        perturbation_encoding="one-hot",
        batches=cells.batches,
        contexts=cells.contexts,
        perturbation_key=dataset.labels.perturbation_key,
        context_key=dataset.labels.context_key,
        batch_key=dataset.labels.batch_key,
        attention="full",
        attention_source="Trained with full attention: the cells of a set have no order.",
        weights_hash="",
        licence=request.licence,
        source=f"trained by STATE Explorer {__version__}",
        limits=LIMITS,
        notes=cells.notes,
        simulated=request.simulated,
        embedding_model=made.model or None if made else None,
        training=TrainingSummary(
            data=request.data_name or dataset.path.name,
            steps=request.steps,
            loss=request.loss,
            held_out=tuple(str(block) for block in request.hold_out),
            scores=scores,
        ),
    )


def _write_losses(path: Path, losses: list[float]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss"])
        writer.writerows((step, f"{loss:.6f}") for step, loss in enumerate(losses, 1))
