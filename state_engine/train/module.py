"""The training of a State Transition model as a Lightning module: losses of a step, optimiser, running mean of the weights.

Loss of a step: distance between predicted and observed sets, plus what the request adds (`state_engine.models.objectives`). Random
numbers of a step (dropout, noise) depend on the seed, the step and the device's rank alone, as its cells do.

Boundary: tensors; no files. Imported only where a training starts, since Lightning takes seconds to import.

Notation: b sets, s cells in a set, g features, p width of a perturbation's vector, l perturbations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from state_engine.device import dtype_of
from state_engine.errors import ConfigError
from state_engine.models import objectives
from state_engine.models.losses import build_loss
from state_engine.models.transition import TransitionModel
from state_engine.train.request import TrainRequest

EMA_KEY = "running_mean"


class MiniBatch(NamedTuple):
    """basal, observed (b, s, g); perturbations (b,); batches (b, s); targets (b, s, genes), empty without a decoder."""

    basal: Tensor
    observed: Tensor
    perturbations: Tensor
    batches: Tensor
    targets: Tensor


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
        self.register_buffer("vectors", vectors, persistent=False)
        self.classifier = objectives.BatchClassifier(request.hidden, batches) if request.batch_token else None
        self._shuffle = torch.Generator() if request.shuffle_chunks else None
        self._loss = build_loss(
            request.loss, blur=request.blur, sinkhorn_weight=request.sinkhorn_weight, energy_weight=request.energy_weight,
            chunks=request.loss_chunks, shuffle=self._shuffle,
        )  # fmt: skip
        self._forward = torch.compile(network.forward) if request.compile else network.forward
        self.parts: dict[str, Tensor] = {}
        self.gradient_norm = torch.zeros(())
        self.mean: dict[str, Tensor] = {}
        freeze(network, request.freeze)

    def training_step(self, batch: MiniBatch, index: int) -> Tensor:
        """The loss of a step; `parts` then holds its parts, detached."""
        self._seed()
        basal = self._disturbed(batch.basal)
        output = self.predict(basal, batch.perturbations, batch.batches)
        predicted = output.predicted.float()
        distance = self._loss(predicted, batch.observed)
        terms = {"distance": distance.mean(), **self._added(batch, output, predicted, distance)}
        weights = {"distance": 1.0, **added_parts(self.request)}
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.parts = {"loss": total.detach(), **{name: value.detach() for name, value in terms.items()}}
        return total

    def predict(self, basal: Tensor, perturbations: Tensor, batches: Tensor) -> Any:
        """The network's output for sets, in the precision of the request."""
        dtype = dtype_of(self.request.precision)
        with torch.autocast(basal.device.type, dtype, enabled=dtype != torch.float32):
            given = batches if self.network.batch_encoder is not None else None
            return self._forward(basal, self.vectors[perturbations], given, attention="full")

    def distances(self, predicted: Tensor, observed: Tensor) -> Tensor:
        """The distance that is trained on, of each set: (b,)."""
        return self._loss(predicted.float(), observed)

    def _added(self, batch: MiniBatch, output: Any, predicted: Tensor, distance: Tensor) -> dict[str, Tensor]:
        """What is added to the distance, unweighted, in the order of `added_parts`."""
        r, found = self.request, {}
        wanted = added_parts(r)
        if "effect" in wanted:
            found["effect"] = (predicted.mean(1) - batch.observed.mean(1)).square().mean()
        if "change" in wanted:
            found["change"] = objectives.l1_change(predicted, batch.basal)
        if "decoder" in wanted:
            decoded = objectives.decoder_loss(self.network, predicted, batch.targets, self._loss, r.decoder_detach)
            found["decoder"] = decoded.mean()
        if "confidence" in wanted:
            found["confidence"] = objectives.confidence_loss(output.confidence, distance, r.confidence_scale)
        if "batch_token" in wanted and self.classifier is not None:
            sets = objectives.batch_of_sets(batch.batches)
            found["batch_token"] = objectives.batch_token_loss(self.classifier(output.token), sets)
        return found

    def _disturbed(self, basal: Tensor) -> Tensor:
        """Noise on the basal cells; the two sets of a pair get the same."""
        r, each = self.request, 2 if self.request.paired else 1
        b, s, g = basal.shape
        if r.gene_dropout:
            keep = torch.rand(b // each, 1, g, device=basal.device) >= r.gene_dropout
            basal = basal * keep.repeat_interleave(each, dim=0)
        if r.basal_noise:
            noise = torch.randn(b // each, s, g, device=basal.device)
            basal = basal + r.basal_noise * noise.repeat_interleave(each, dim=0)
        return basal

    def _seed(self) -> None:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        seed = (self.request.seed * 1_000_003 + self.trainer.global_step) * world + rank
        torch.manual_seed(seed % 2**63)
        if self._shuffle is not None:
            self._shuffle.manual_seed(seed % 2**63)

    def configure_optimizers(self) -> Any:
        """Adam with the learning rates of the schedule."""
        r = self.request
        kind = torch.optim.AdamW if r.weight_decay else torch.optim.Adam
        trained = [p for p in self.parameters() if p.requires_grad]
        optimiser = kind(trained, lr=r.learning_rate, weight_decay=r.weight_decay, fused=self.device.type in ("cpu", "cuda"))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(r, step) / r.learning_rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip to the request's norm, and remember the norm before."""
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        most = self.request.gradient_clip or math.inf
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(trained, most).detach()

    def on_train_start(self) -> None:
        """The running mean starts at the first weights."""
        if self.request.ema and not self.mean:
            self.mean = {name: p.detach().clone() for name, p in self.network.named_parameters()}

    def follow(self, step: int) -> None:
        """Move the running mean of the weights after a step; young means forget faster."""
        if not self.mean:
            return
        decay = min(self.request.ema, step / (9 + step))
        names = list(self.mean)
        now = dict(self.network.named_parameters())
        torch._foreach_lerp_([self.mean[n] for n in names], [now[n].detach() for n in names], 1 - decay)

    @contextmanager
    def final_weights(self) -> Iterator[TransitionModel]:
        """The network as it would be saved now, in eval mode: with the mean of the weights, when there is one."""
        self.network.eval()
        current = {name: p.detach().clone() for name, p in self.network.named_parameters()} if self.mean else {}
        try:
            _put(self.network, self.mean)
            yield self.network
        finally:
            _put(self.network, current)
            self.network.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The running mean goes along."""
        if self.mean:
            checkpoint[EMA_KEY] = {name: value.cpu() for name, value in self.mean.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The running mean comes back."""
        place = self.vectors.device
        self.mean = {name: value.to(place) for name, value in checkpoint.get(EMA_KEY, {}).items()}


@torch.no_grad()
def _put(network: nn.Module, weights: dict[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def added_parts(request: TrainRequest) -> dict[str, float]:
    """Names and weights of what is added to the distance."""
    parts = {
        "effect": request.effect_weight,
        "change": request.l1,
        "decoder": request.decoder_weight if request.gene_decoder else 0.0,
        "confidence": request.confidence_weight if request.confidence_token else 0.0,
        "batch_token": request.batch_token_weight if request.batch_token else 0.0,
    }
    return {name: weight for name, weight in parts.items() if weight}


def learning_rate(request: TrainRequest, step: int) -> float:
    """Of the step after `step` steps: a rise over the warmup, then constant or half a cosine down to 0 at the end."""
    rise = min(1.0, (step + 1) / request.warmup) if request.warmup else 1.0
    fall = (1 + math.cos(math.pi * min(step / request.steps, 1.0))) / 2 if request.schedule == "cosine" else 1.0
    return request.learning_rate * rise * fall


def freeze(network: nn.Module, beginnings: tuple[str, ...]) -> None:
    """Weights whose names begin so are not trained.

    Raises:
        ConfigError: a beginning that no name has, or nothing left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for beginning in beginnings:
        if not any(_begins(name, beginning) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ConfigError(f"No part of the network is called '{beginning}'.", f"Parts: {', '.join(parts)}.")
    for name, parameter in network.named_parameters():
        if any(_begins(name, beginning) for beginning in beginnings):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError("Nothing is left to train.", "All parts are frozen.", "Freeze fewer.")


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(beginning.rstrip(".") + ".")
