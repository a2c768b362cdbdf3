"""What a pretraining will take, before it runs: parameters of the network and time. No torch: pages show it.

The time is rough: from the multiplications of a step and a rate as measured on common machines, or on this one where a pretraining has run.

Notation: b cells of a step, p positions of a sentence, k genes of a task, h width, f width within the feed-forward part.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from state_engine.pretrain.request import PretrainRequest, Sizes
from state_engine.pretrain.run_folder import PretrainRecord

# multiplications and additions a second in the small products of a step; the CPU's are for one core
_RATE = {"cpu": 1.5e10, "cuda": 1e13, "mps": 1e12}
_START_SECONDS = 12.0  # imports, reading labels, gene vectors, the tests at the end
_LEAST = 20  # steps from which a rate is taken


@dataclass(frozen=True)
class PretrainEstimate:
    """Parameters of the network, and seconds on `device`; `measured` when the rate is that of an earlier pretraining here."""

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
    """Return multiplications and additions of a step, there and back."""
    s, b, p = request.sizes, request.schedule.cells_per_step, request.sizes.tokens
    layer = 4 * s.hidden**2 + 2 * s.hidden * s.feed_forward + 2 * p * s.hidden
    genes = (gene_width or s.gene_width) * s.hidden
    return 6.0 * b * (p * (s.layers * layer + genes) + request.task.genes * _decoder(s))


def rate_of(record: PretrainRecord) -> float | None:
    """Return operations a second of a pretraining that has run here; None after too few steps."""
    if record.steps < _LEAST or record.seconds <= 0:
        return None
    return operations(record.request) * record.steps / record.seconds


def estimate_pretraining(
    request: PretrainRequest,
    device: Literal["cpu", "cuda", "mps"] = "cpu",
    rate: float | None = None,
    gene_width: int | None = None,
) -> PretrainEstimate:
    """Estimate the time of a pretraining.

    Args:
        request: what is pretrained.
        device: where it will run.
        rate: operations a second, as `rate_of` measured them; None takes a usual one.
        gene_width: of gene vectors that are given.
    """
    usual = _RATE[device] * ((os.cpu_count() or 1) if device == "cpu" else 1)
    seconds = _START_SECONDS + request.schedule.steps * operations(request, gene_width) / (rate or usual)
    return PretrainEstimate(count_parameters(request.sizes, gene_width), seconds, device, rate is not None)
