"""What a pretraining will take, before it runs: parameters of the network and time. No torch: pages show it.

The time is that of the steps of pretrainings that ran on this machine, where there are any; else it is rough, from the multiplications
of a step and a rate.

Notation: b cells of a step, p positions of a sentence, k genes of a task, h width, f width within the feed-forward part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from state_engine.pretrain.request import PretrainRequest, Sizes
from state_engine.pretrain.run_folder import read_pretraining
from state_engine.train.curves import LOG, read_curve

# multiplications and additions a second in the products of a step; the CPU's are for one core
_RATE = {"cpu": 6e10, "cuda": 1e13, "mps": 1e12}
_STEP_SECONDS = {"cpu": 0.03, "cuda": 0.03, "mps": 0.05}  # of a step that multiplies nothing
_START_SECONDS = 12.0  # imports, reading labels, gene vectors, the tests at the end
_LEAST = 20  # steps from which a pace is taken
_WARM = 5  # first steps that do not count: memory is fetched, kernels are chosen
_ENCODED = 20_000  # different genes of a mini-batch, at most: each is encoded once
_COUNTS = 512 * 11  # of the embedding of an amount


@dataclass(frozen=True)
class PretrainEstimate:
    """Parameters of the network, and seconds on `device`; `measured` when the pace is that of an earlier pretraining here."""

    parameters: int
    seconds: float
    device: str
    measured: bool


def count_parameters(sizes: Sizes, gene_width: int | None = None) -> int:
    """Count the weights, but for the small ones of norms and biases.

    Args:
        sizes: of the network.
        gene_width: of gene vectors that are given; None: those that are learnt.
    """
    h = sizes.hidden
    layers = sizes.layers * (4 * h * h + 2 * h * sizes.feed_forward)
    return layers + (gene_width or sizes.gene_width) * h + 4 * h * h + h * sizes.output_dim + _decoder(sizes)


def _decoder(sizes: Sizes) -> int:
    """Weights between a gene beside a cell and its expression: two blocks that double the width and halve it again."""
    return 8 * (sizes.hidden + sizes.output_dim) ** 2


def operations(request: PretrainRequest, gene_width: int | None = None) -> float:
    """Return multiplications and additions of a step, there and back: the last layer has queries at two positions only."""
    s, b, p, h = request.sizes, request.schedule.cells_per_step, request.sizes.tokens, request.sizes.hidden
    layer = p * (4 * h**2 + 2 * h * s.feed_forward + 2 * p * h)
    cell = (s.layers - 1) * layer + 4 * s.heads * p * h + p * (_COUNTS + 10 * h) + request.task.genes * _decoder(s)
    return 6.0 * (b * cell + min(b * p, _ENCODED) * (gene_width or s.gene_width) * h)


@dataclass(frozen=True)
class Pace:
    """Seconds per step of a pretraining that ran, to its end or not."""

    request: PretrainRequest
    seconds: float


def pace_of(folder: Path) -> Pace | None:
    """Return the pace of the pretraining of a folder on a processor; None after too few steps, or on another device.

    Raises:
        RunError: the folder has none, or it cannot be read.
    """
    record, seconds = read_pretraining(folder), read_curve(folder / LOG).get("seconds", [])
    if record.device != "cpu" or len(seconds) < _LEAST:
        return None
    each = (seconds[-1] - seconds[_WARM - 1]) / (len(seconds) - _WARM)
    return Pace(record.request, each) if each > 0 else None


def estimate_pretraining(
    request: PretrainRequest,
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    before: Sequence[Pace] = (),
    gene_width: int | None = None,
) -> PretrainEstimate:
    """Estimate the time of a pretraining.

    Args:
        request: what is pretrained.
        device: where it will run.
        before: paces of pretrainings on this machine's CPU, the newest first. One with the same sizes, task and cells per step counts
            as it is; else the newest tells how much faster or slower than usual this machine is.
        gene_width: of gene vectors that are given.
    """
    step = _usual(request, device, gene_width)
    same = next((pace.seconds for pace in before if _alike(pace.request, request)), None)
    if same is not None:
        step = same
    elif before:
        step *= before[0].seconds / _usual(before[0].request, device, None)
    seconds = _START_SECONDS + request.schedule.steps * step
    return PretrainEstimate(count_parameters(request.sizes, gene_width), seconds, device, bool(before))


def _usual(request: PretrainRequest, device: str, gene_width: int | None) -> float:
    """Seconds per step on a common machine."""
    cores = (os.cpu_count() or 1) if device == "cpu" else 1
    return _STEP_SECONDS[device] + operations(request, gene_width) / (_RATE[device] * cores)


def _alike(one: PretrainRequest, other: PretrainRequest) -> bool:
    """Whether a step of both is the same work: sizes, task, cells per step and precision, and where the gene vectors come from."""
    told = [
        (r.sizes, r.task, r.schedule.cells_per_step, r.running.precision, r.genes, r.init_from, r.variable_genes)
        for r in (one, other)
    ]
    return told[0] == told[1]
