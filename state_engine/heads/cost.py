"""What vectors and tuning cost, before anything is computed. No torch: pages import this."""

from __future__ import annotations

import os
from dataclasses import dataclass

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.heads.request import FinetuneRequest

# multiply-adds a second that matrix products reach: a CPU core, one GPU; for estimates only
_RATE = {"cpu": 5e10, "cuda": 1e13, "mps": 1e12}
START_SECONDS = 10.0  # beside vectors and passes: reading labels, fitting the head and what stands beside it, testing


@dataclass(frozen=True)
class Cost:
    """A rough guide.

    Args:
        seconds_a_cell: of one forward pass.
        vector_seconds: vectors of all cells, once.
        pass_seconds: one pass over the training cells, where the model is tuned; 0 for the head alone.
        memory_bytes: weights, their gradients and the optimiser's state, where the model is tuned.
        seconds: all of it: where the model is tuned, with every pass that is allowed.
    """

    seconds_a_cell: float
    vector_seconds: float
    pass_seconds: float
    memory_bytes: int
    seconds: float

    @property
    def words(self) -> str:
        """For people."""
        if not self.pass_seconds:
            return f"The vectors take about {_duration(self.vector_seconds)}, the head seconds."
        return (
            f"Each pass over the cells takes about {_duration(self.pass_seconds)}, in {self.memory_bytes / 1e9:,.1f} GB of memory; fitting "
            "ends before the last one where nothing gets better. Training the head alone computes each cell once."
        )


def cost(request: FinetuneRequest, card: ModelCard | EmbeddingCard, cells: int, device: str = "cpu") -> Cost:
    """Estimate a fine-tuning.

    Args:
        request: what is asked.
        card: the model that gives the vectors.
        cells: with a label.
        device: cpu, cuda or mps.
    """
    products, layers, weights = _products(card)
    rate = _RATE.get(device, 1e12) * ((os.cpu_count() or 1) if device == "cpu" else 1)
    each = products / rate
    if not request.tunes_model:
        return Cost(each, each * cells, 0.0, 4 * weights, START_SECONDS + each * cells)
    # a step back costs twice a step forward, through the layers that it passes
    back = 2.0 * (request.last_layers / max(layers, 1) if request.last_layers else 1.0)
    trained = weights * (request.last_layers / max(layers, 1) if request.last_layers else float(request.tune == "full"))
    fitted = cells * (1 - request.test_share)
    passes = each * fitted * ((1 - request.validation_share) * (1 + back) + request.validation_share)
    seconds = START_SECONDS + 2 * each * cells + request.max_epochs * passes
    return Cost(each, each * cells, passes, int(4 * weights + 12 * trained), seconds)


def _products(card: ModelCard | EmbeddingCard) -> tuple[float, int, int]:
    """Multiply-adds of a cell, layers, and weights of a model."""
    if isinstance(card, EmbeddingCard):
        c = card.config
        layer = 4 * c.hidden**2 + 2 * c.hidden * c.feed_forward
        return float(c.layers * c.tokens * (layer + 2 * c.tokens * c.hidden)), c.layers, c.layers * layer + c.token_dim * c.hidden
    b = card.config.backbone
    layer = (2 * b.heads + 2 * b.kv_heads) * b.head_dim * b.hidden + 3 * b.hidden * b.intermediate
    ends = (card.config.input_dim + card.config.output_dim) * b.hidden + 4 * b.hidden**2
    return float(b.layers * layer + ends), b.layers, b.layers * layer + ends


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
