"""Fitting a head, and the model behind it where that is tuned, on Lightning: mini-batches, loss, early stopping, temperature.

The weights kept are those of the pass with the smallest validation loss. Random numbers depend on the seed alone.

Notation: n training cells, k labels, w features, o outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from state_engine.device import Device
from state_engine.errors import ConfigError
from state_engine.heads.backbones import Backbone
from state_engine.heads.report import Epoch
from state_engine.heads.request import FinetuneRequest, Task
from state_engine.heads.targets import Truth
from state_engine.models.heads import Head
from state_engine.progress import OnProgress, Progress
from state_engine.train.trainer import quiet

STAGE = "Fitting the head"
RATES = {"linear": 1e-2, "mlp": 3e-3}
TUNED_RATE = 3e-4
MOST_WEIGHT = 100.0  # of a label: one with a cell or two must not drown the others
MOST_AT_ONCE = 16_384  # validation cells of a head alone
COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True, eq=False)
class Part:
    """Cells to fit on or to validate on: what the model or the head reads, and what is to be called."""

    inputs: tuple[Tensor, ...]
    truth: Tensor

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, cells: Tensor) -> Part:
        """Return some of them."""
        return Part(tuple(tensor[cells] for tensor in self.inputs), self.truth[cells])

    def to(self, device: torch.device) -> Part:
        """Return them on a device."""
        return Part(tuple(tensor.to(device) for tensor in self.inputs), self.truth.to(device))


class HeadTraining(pl.LightningModule):
    """A head in training, with the model behind it where that is tuned.

    Args:
        request: the fine-tuning.
        head: what is trained.
        backbone: gives the vectors; None where the input is what the layers of the head read (`Head.features`), made once.
        weights: (k,) of labels, None for a regression.
    """

    weights: Tensor | None

    def __init__(self, request: FinetuneRequest, head: Head, backbone: Backbone | None, weights: Tensor | None) -> None:
        super().__init__()
        self.request, self.head, self.backbone = request, head, backbone
        self.register_buffer("weights", weights, persistent=False)
        self.losses = list[tuple[Tensor, int]]()

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """What the head says of cells, (n, o)."""
        return self.head.layers(inputs[0]) if self.backbone is None else self.head(self.backbone(*inputs))

    def training_step(self, batch: Part, index: int) -> Tensor:
        """Return the loss of a mini-batch."""
        loss = loss_of(self.request.task, self(batch.inputs), batch.truth, self.weights)
        self.losses.append((loss.detach(), len(batch)))
        return loss

    def transfer_batch_to_device(self, batch: Part, device: torch.device, dataloader_idx: int) -> Part:
        """Move a mini-batch."""
        return batch.to(device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on what is trained; biases and norms are not decayed."""
        rate = self.request.learning_rate or (TUNED_RATE if self.backbone is not None else RATES[self.request.head])
        trained = [p for p in self.parameters() if p.requires_grad]
        decayed = {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.request.weight_decay}
        return torch.optim.AdamW([decayed, {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}], lr=rate)


def loss_of(task: Task, outputs: Tensor, truth: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean loss: cross-entropy, binary cross-entropy, or squared error of standardised numbers."""
    if task == "classification":
        return functional.cross_entropy(outputs, truth, weight=weights)
    if task == "multi-label":
        return functional.binary_cross_entropy_with_logits(outputs, truth, pos_weight=weights)
    return functional.mse_loss(outputs[:, 0], truth)


def label_weights(task: Task, truth: Tensor, labels: int, weighted: bool) -> Tensor | None:
    """Return (k,) how much a label counts: classes so that each counts alike; of several labels cells with it as much as cells without."""
    if task == "regression" or not weighted:
        return None
    if task == "multi-label":
        with_it = truth.sum(0)
        return ((len(truth) - with_it) / with_it.clamp_min(1)).clamp(1 / MOST_WEIGHT, MOST_WEIGHT)
    counts = torch.bincount(truth, minlength=labels).float()
    return (len(truth) / (labels * counts.clamp_min(1))).clamp_max(MOST_WEIGHT)


class _Batches:
    """Mini-batches of a pass over the cells, in an order that depends on seed and pass alone."""

    def __init__(self, part: Part, request: FinetuneRequest) -> None:
        self.part, self.size, self.seed, self.epoch = part, request.batch_size, request.seed, 0

    def __len__(self) -> int:
        return -(-len(self.part) // self.size)

    def __iter__(self) -> Iterator[Part]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(len(self.part), generator=generator)
        self.epoch += 1
        for cells in order.split(self.size):
            yield self.part.take(cells)


class _Watch(pl.Callback):
    """Validates after each pass, keeps the best weights, stops when they stay the best, and reports."""

    def __init__(self, training: HeadTraining, validation: Part, on_progress: OnProgress) -> None:
        self.training, self.validation, self.on_progress = training, validation, on_progress
        self.epochs = list[Epoch]()
        self.best, self.best_epoch = float("inf"), 0
        self.kept: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Report each step where a model is tuned, since a pass may take minutes."""
        if self.training.backbone is not None:
            most = self.training.request.max_epochs * int(trainer.num_training_batches)
            self.on_progress(Progress(STAGE, trainer.global_step, most))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate."""
        training, request = self.training, self.training.request
        cells = sum(n for _, n in training.losses)
        trained = float(sum(float(loss) * n for loss, n in training.losses) / max(cells, 1))
        training.losses.clear()
        loss = self._validation_loss()
        epoch = trainer.current_epoch + 1
        if not (np.isfinite(trained) and np.isfinite(loss)):
            raise ConfigError(
                f"The training diverged: the loss of pass {epoch:,} is not finite.", f"It was {trained:g}, validation {loss:g}.",
                "Fit again with a smaller --learning-rate.",
            )  # fmt: skip
        self.epochs.append(Epoch(epoch, trained, loss))
        if loss < self.best:
            self.best, self.best_epoch = loss, epoch
            self.kept = {n: p.detach().clone() for n, p in training.named_parameters() if p.requires_grad}
        trainer.should_stop = epoch - self.best_epoch >= request.patience
        self.on_progress(Progress(STAGE, epoch, request.max_epochs))

    @torch.no_grad()
    def _validation_loss(self) -> float:
        training = self.training
        training.eval()
        total = 0.0
        size = MOST_AT_ONCE if training.backbone is None else training.request.batch_size
        for cells in torch.arange(len(self.validation)).split(size):
            part = self.validation.take(cells).to(training.device)
            total += float(loss_of(training.request.task, training(part.inputs), part.truth, training.weights)) * len(cells)
        training.train()
        return total / len(self.validation)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What fitting left: `training` holds the best weights and is in eval mode."""

    training: HeadTraining
    epochs: tuple[Epoch, ...]
    best_epoch: int
    trained: int
    weights: int


def fit(
    request: FinetuneRequest,
    head: Head,
    backbone: Backbone | None,
    parts: tuple[Part, Part],
    device: Device,
    on_progress: OnProgress,
) -> Fitted:
    """Fit a head on the first part, stopping by the second.

    Args:
        request: the fine-tuning.
        head: standardised already.
        backbone: what of it is trained was chosen already; None where the inputs are features of the head.
        parts: training and validation.
        device: where to compute.
        on_progress: told each pass; may raise `JobCancelled`.

    Raises:
        ConfigError: the loss is not finite.
    """
    train, validation = parts
    weights = label_weights(request.task, train.truth, head.config.outputs, request.class_weights)
    training = HeadTraining(request, head, backbone, weights)
    watch = _Watch(training, validation, on_progress)
    # threads wait for each other longer than a layer this small takes to compute
    with quiet(), torch.random.fork_rng(devices=[]), _threads(1 if backbone is None else torch.get_num_threads()):
        torch.manual_seed(request.seed)  # dropout
        trainer = pl.Trainer(
            accelerator={"cuda": "gpu"}.get(device.kind, device.kind), devices=1, max_epochs=request.max_epochs, callbacks=[watch],
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            use_distributed_sampler=False, gradient_clip_val=1.0,
        )  # fmt: skip
        trainer.fit(training, train_dataloaders=_Batches(train, request))
    with torch.no_grad():
        named = dict(training.named_parameters())
        for name, value in watch.kept.items():
            named[name].copy_(value)
    count = sum(p.numel() for p in training.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in training.parameters())
    return Fitted(training.to(device.torch_device).eval(), tuple(watch.epochs), watch.best_epoch, count, everything)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def new_head(head: Head, seed: int) -> Head:
    """Draw first weights from a seed, in place: of the last layer zero, so that no label is favoured."""
    generator = torch.Generator().manual_seed(seed)
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in linears:
            layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
            layer.bias.zero_()
        linears[-1].weight.zero_()
    return head


def fit_temperature(task: Task, logits: NDArray[np.float64], truth: Truth) -> float:
    """Return the number by which logits are divided so that validation cells are most likely; 1 for a regression.

    Args:
        logits: (n, k) of validation cells.
        truth: (n,) places, or (n, k) 0 and 1.
    """
    if task == "regression":
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if task == "multi-label":
            return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))
        top = scaled.max(1, keepdims=True)
        logsum = top[:, 0] + np.log(np.exp(scaled - top).sum(1))
        return float(np.mean(logsum - scaled[np.arange(len(truth)), truth.astype(int)]))

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-4})
    # of no use where it gains nothing, as with labels that are all certain
    return float(np.exp(found.x)) if loss(float(found.x)) < loss(0.0) else 1.0
