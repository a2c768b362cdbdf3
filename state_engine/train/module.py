"""The training of a State Transition model as a Lightning module: losses of a step, optimiser, running mean of the weights.

The loss of a step is `state_engine.models.losses.Objective`. Random numbers of a step (dropout, noise) depend on the seed, the step
and the device's rank alone, as its cells do.

Boundary: tensors; no files. Imported only where a training starts, since Lightning takes seconds to import.

Notation: b sets, s cells in a set, n cells of all sets, set after set, g features, p width of a perturbation's vector, l perturbations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from state_engine.device import dtype_of
from state_engine.errors import ConfigError
from state_engine.models.distances import build_loss
from state_engine.models.losses import BatchClassifier, MiniBatch, Objective
from state_engine.models.transition import TransitionModel, TransitionOutput
from state_engine.train.request import Optimiser, TrainRequest

EMA_KEY = "running_mean"


class TransitionTraining(pl.LightningModule):
    """A network in training.

    Args:
        request: the training.
        network: what is trained.
        vectors: (l, p) of the perturbations.
        batches: how many there are.

    Raises:
        ConfigError: a part that is to be frozen is not there, or nothing is left to train.
    """

    vectors: Tensor

    def __init__(self, request: TrainRequest, network: TransitionModel, vectors: Tensor, batches: int) -> None:
        super().__init__()
        self.request, self.network = request, network
        loss = request.loss
        self.register_buffer("vectors", vectors, persistent=False)
        self.classifier = BatchClassifier(request.network.hidden, batches) if request.network.batch_token else None
        self._shuffle = torch.Generator() if loss.shuffle_chunks else None
        distance = build_loss(
            loss.loss, blur=loss.blur, sinkhorn_weight=loss.sinkhorn_weight, energy_weight=loss.energy_weight,
            chunks=loss.loss_chunks, shuffle=self._shuffle,
        )  # fmt: skip
        self.objective = Objective(distance, added_parts(request), loss.confidence_scale, loss.decoder_detach)
        self._forward = torch.compile(network.forward) if request.run.compile else network.forward
        self.parts: dict[str, Tensor] = {}
        self.gradient_norm = torch.zeros(())
        self.mean: dict[str, Tensor] = {}
        freeze(network, request.optimiser.freeze)

    def training_step(self, batch: MiniBatch, index: int) -> Tensor:
        """Return the loss of a step; `parts` then holds it and its terms, detached."""
        # each step and device has a seed of its own, so that a training that was cut off goes on as if it had not been
        world, rank = self.trainer.world_size, self.trainer.global_rank
        seed = ((self.request.run.seed * 1_000_003 + self.trainer.global_step) * world + rank) % 2**63
        torch.manual_seed(seed)
        if self._shuffle is not None:
            self._shuffle.manual_seed(seed)
        output = self.predict(batch._replace(basal=self._disturbed(batch)))
        loss = self.objective(batch, output, self.network, self.classifier)
        self.parts = {name: value.detach() for name, value in {"loss": loss.total, **loss.terms}.items()}
        return loss.total

    def predict(self, batch: MiniBatch) -> TransitionOutput:
        """Return the network's output for the basal cells, in the precision of the request; predicted (n, o)."""
        dtype, network = dtype_of(self.request.run.precision), self.network
        vectors = self.vectors[batch.perturbations]
        given = batch.batches if network.batch_encoder is not None else None
        with torch.autocast(batch.basal.device.type, dtype, enabled=dtype != torch.float32):
            if batch.even:
                shape = (len(batch.sizes), batch.sizes[0])
                batches = None if given is None else given.unflatten(0, shape)
                output = self._forward(batch.basal.unflatten(0, shape), vectors, batches, attention="full")
                return replace(output, predicted=output.predicted.flatten(0, 1))
            encoded = network.encode_basal(batch.basal), network.encode_perturbation(vectors)
            return network.transform_packed(*encoded, batch.sizes, batch.basal, given, attention="full")

    def _disturbed(self, batch: MiniBatch) -> Tensor:
        """Basal cells with noise; the two sets of a pair, which follow each other, get the same."""
        sets, basal = self.request.sets, batch.basal
        each = 2 if sets.paired else 1
        sizes = torch.tensor(batch.sizes, device=basal.device)
        if sets.gene_dropout:
            keep = torch.rand(len(sizes) // each, basal.shape[1], device=basal.device) >= sets.gene_dropout
            basal = basal * keep.repeat_interleave(each, dim=0).repeat_interleave(sizes, dim=0)
        if sets.basal_noise:
            noise = torch.randn(int(sizes[::each].sum()), basal.shape[1], device=basal.device)
            parts = noise.split(batch.sizes[::each])
            basal = basal + sets.basal_noise * torch.cat([part for part in parts for _ in range(each)])
        return basal

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return Adam with the learning rates of the schedule."""
        r = self.request.optimiser
        kind = torch.optim.AdamW if r.weight_decay else torch.optim.Adam
        trained = [p for p in self.parameters() if p.requires_grad]
        optimiser = kind(trained, lr=r.learning_rate, weight_decay=r.weight_decay, fused=self.device.type in ("cpu", "cuda"))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(r, step) / r.learning_rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer | LightningOptimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to the request's norm, and remember the norm before."""
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        most = self.request.optimiser.gradient_clip or math.inf
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(trained, most).detach()

    def on_train_start(self) -> None:
        """Start the running mean at the first weights."""
        if self.request.optimiser.ema and not self.mean:
            self.mean = {name: p.detach().clone() for name, p in self.network.named_parameters()}

    def follow(self, step: int) -> None:
        """Move the running mean of the weights after a step; young means forget faster."""
        if not self.mean:
            return
        decay = min(self.request.optimiser.ema, step / (9 + step))
        names = list(self.mean)
        now = dict(self.network.named_parameters())
        torch._foreach_lerp_([self.mean[n] for n in names], [now[n].detach() for n in names], 1 - decay)

    @contextmanager
    def final_weights(self) -> Iterator[TransitionModel]:
        """Lend the network as it would be saved now, in eval mode: with the mean of the weights, when there is one."""
        self.network.eval()
        current = {name: p.detach().clone() for name, p in self.network.named_parameters()} if self.mean else {}
        try:
            _put(self.network, self.mean)
            yield self.network
        finally:
            _put(self.network, current)
            self.network.train()

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Save the running mean too."""
        if self.mean:
            checkpoint[EMA_KEY] = {name: value.cpu() for name, value in self.mean.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Load the running mean too."""
        place = self.vectors.device
        saved = cast(dict[str, Tensor], checkpoint.get(EMA_KEY, {}))
        self.mean = {name: value.to(place) for name, value in saved.items()}


@torch.no_grad()
def _put(network: nn.Module, weights: dict[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def added_parts(request: TrainRequest) -> dict[str, float]:
    """Return names and weights of what is added to the distance."""
    loss, network = request.loss, request.network
    parts = {
        "effect": loss.effect_weight,
        "change": loss.l1,
        "decoder": loss.decoder_weight if network.gene_decoder else 0.0,
        "confidence": loss.confidence_weight if network.confidence_token else 0.0,
        "batch_token": loss.batch_token_weight if network.batch_token else 0.0,
    }
    return {name: weight for name, weight in parts.items() if weight}


def learning_rate(optimiser: Optimiser, step: int) -> float:
    """Return the learning rate after `step` steps: a rise over the warmup, then constant or half a cosine down to 0 at the end."""
    rise = min(1.0, (step + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    fall = (1 + math.cos(math.pi * min(step / optimiser.steps, 1.0))) / 2 if optimiser.schedule == "cosine" else 1.0
    return optimiser.learning_rate * rise * fall


def freeze(network: nn.Module, beginnings: tuple[str, ...]) -> None:
    """Exclude weights from the training by the beginnings of their names.

    Raises:
        ConfigError: a beginning that no name has, or nothing left to train.
    """
    parameters = dict(network.named_parameters())
    frozen: list[str] = []
    for beginning in beginnings:
        found = [name for name in parameters if name == beginning or name.startswith(beginning.rstrip(".") + ".")]
        if not found:
            parts = sorted({name.split(".")[0] for name in parameters})
            raise ConfigError(f"No part of the network is called '{beginning}'.", f"Parts: {', '.join(parts)}.")
        frozen += found
    for name in frozen:
        parameters[name].requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError("Nothing is left to train.", "All parts are frozen.", "Freeze fewer.")
