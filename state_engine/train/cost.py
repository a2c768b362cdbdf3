"""What a training will take, before it runs: parameters of the network, time, memory. No torch: pages show it.

The number of parameters is exact; the time is rough, from the multiplications of a step and rates as measured on common machines.

Notation: b sets per step, s cells in a set, d hidden width, g features, o output features, t positions of a set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from state_engine.data.splits.apply import Split
from state_engine.models.config import BackboneConfig, TransitionConfig
from state_engine.train.folds import calibrating_blocks, calibrating_perturbations, calibrating_places, fold_steps
from state_engine.train.network import network_config
from state_engine.train.request import TrainRequest

# multiplications and additions a second, of a step's mixture of small and large products; the CPU's are for one core
_RATE = {("cpu", "fp32"): 2.5e10, ("cpu", "bf16"): 5e10, ("cuda", "fp32"): 1e13, ("cuda", "bf16"): 5e13, ("mps", "fp32"): 1e12}
_STEP_SECONDS = {"cpu": 0.012, "cuda": 0.012, "mps": 0.02}  # of a step that multiplies nothing
_START_SECONDS = 8.0  # imports, reading labels, saving
_BOTTLENECK = 8  # the width of the space `genes` is divided by it


@dataclass(frozen=True)
class TrainEstimate:
    """Parameters of the network; seconds of the training on `device`; bytes of memory for weights, optimiser and features."""

    parameters: int
    seconds: float
    memory_bytes: int
    device: str


def estimate_for(request: TrainRequest, split: Split, width: int, n_genes: int) -> tuple[TrainEstimate, int]:
    """Estimate a training on a split, on the CPU; also return how many trainings of a calibration are counted in.

    Args:
        request: what is trained.
        split: on what.
        width: how many features the network reads.
        n_genes: genes of the data set.
    """
    labels = {p for source in split.sources for p in source.dataset.perturbations}
    batches = {b for source in split.sources for b in source.dataset.batches}
    decoded = n_genes if request.network.gene_decoder else 0
    config = network_config(request, width, len(labels), max(1, len(batches)), decoded)
    folds = 0
    if request.run.calibrate and request.run.cross_fit and not (split.table()["val"] > 0).any():
        folds = len(calibrating_places(split)) + bool(calibrating_blocks(split))
        folds += bool(request.network.features and calibrating_perturbations(split))
    return estimate_training(request, config, split.cells()["train"], folds=folds), folds


def count_parameters(config: TransitionConfig) -> int:
    """Count all numbers of the network's weights."""
    d, o = config.backbone.hidden, config.output_dim
    total = _mlp(config.perturbation_dim, d, d, config.encoder_layers)
    total += _mlp(config.input_dim, d, d, config.encoder_layers if config.basal_mlp else 1)
    total += _backbone(config.backbone) + _mlp(d, d, o, config.decoder_layers)
    total += config.batch_dim * d if config.batch_encoder else 0
    total += d * (config.batch_token + config.confidence_token)
    if config.confidence_token:
        total += _normed(d, d // 2) + _normed(d // 2, d // 4) + d // 4 + 1
    if config.has_bottleneck:
        total += _mlp(o, o // _BOTTLENECK, o, 2)
    if config.decoder is not None:
        widths = (config.decoder.latent, *config.decoder.hidden)
        total += sum(_normed(a, b) for a, b in pairwise(widths)) + (widths[-1] + 1) * config.decoder.genes
    return total


def estimate_training(
    request: TrainRequest,
    config: TransitionConfig,
    cells: int,
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    folds: int = 0,
) -> TrainEstimate:
    """Estimate time and memory of a training.

    Args:
        request: what is trained.
        config: its network, see `network_config`.
        cells: that are trained on.
        device: where it will run.
        folds: further trainings that calibrate it.
    """
    parameters, rows = count_parameters(config), request.sets.sets_per_step * request.sets.set_size
    once_a_set = _mlp(config.perturbation_dim, config.backbone.hidden, config.backbone.hidden, config.encoder_layers)
    forward = 2.0 * ((parameters - once_a_set) * rows + once_a_set * request.sets.sets_per_step)
    attention = 4.0 * config.backbone.layers * rows * request.sets.set_size * config.backbone.heads * config.backbone.head_dim
    distances = 6.0 * rows * request.sets.set_size * config.output_dim
    rate = _RATE.get((device, request.run.precision), 1e12) * ((os.cpu_count() or 1) if device == "cpu" else 1)
    step = _STEP_SECONDS[device] + 3 * (forward + attention + distances) / rate
    features = min(4 * cells * config.input_dim, int(request.run.cache_gb * 1024**3))
    seconds = _START_SECONDS * (1 + folds / 2) + (request.optimiser.steps + folds * fold_steps(request.optimiser.steps)) * step
    return TrainEstimate(parameters, seconds, 16 * parameters + features + 800_000_000, device)


def _mlp(wide_in: int, hidden: int, wide_out: int, layers: int) -> int:
    widths = (wide_in, *[hidden] * (layers - 1), wide_out)
    return sum((a + 1) * b for a, b in pairwise(widths))


def _normed(wide_in: int, wide_out: int) -> int:
    return (wide_in + 1) * wide_out + 2 * wide_out


def _backbone(config: BackboneConfig) -> int:
    d, inner = config.hidden, config.heads * config.head_dim
    attention = d * (inner + 2 * config.kv_heads * config.head_dim) + inner * d
    if config.kind == "llama":
        return config.layers * (attention + 3 * d * config.intermediate + 2 * d) + d
    biases = inner + 2 * config.kv_heads * config.head_dim + d + config.intermediate + d
    return config.layers * (attention + 2 * d * config.intermediate + biases + 4 * d) + 2 * d
