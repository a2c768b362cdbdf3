"""What embedding a cell takes on a CPU, before anything is computed: by embeddings that were made here, or roughly. No torch: pages import this.

Notation: t tokens of a sentence, d width, f width within the feed-forward part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from state_engine.models.embedding_config import EmbeddingConfig

_RATE = 2e10  # multiplications and additions a second that one core reaches; rough
MUCH_SMALLER = 4.0  # a model is offered in place of one that takes so many times as long
LONG = 60.0  # seconds for a data set, from which a smaller model is offered


@dataclass(frozen=True)
class EmbeddingCost:
    """Seconds for one cell on this machine's CPU; `measured` by an embedding that was made here."""

    seconds_a_cell: float
    measured: bool


def operations(config: EmbeddingConfig) -> float:
    """Return multiplications and additions of one cell: all layers but the last read every position, that one only two of them."""
    t, d = config.tokens, config.hidden
    layer = 4.0 * d * d + 2.0 * d * config.feed_forward + 2.0 * t * d
    return (config.layers - 1) * t * layer + 2.0 * config.heads * t * d * 2 + 512.0 * t


def embedding_cost(config: EmbeddingConfig, before: Sequence[tuple[EmbeddingConfig, float]] = ()) -> EmbeddingCost:
    """Estimate a model's time for a cell.

    Args:
        config: of the model.
        before: networks of embeddings that were made on this machine's CPU, with their seconds for a cell, the newest first. One of
            the same network counts as it is; else the newest tells how fast this machine is.
    """
    same = next((seconds for other, seconds in before if other == config), None)
    if same is not None:
        return EmbeddingCost(same, True)
    if before:
        other, seconds = before[0]
        return EmbeddingCost(seconds * operations(config) / operations(other), True)
    return EmbeddingCost(operations(config) / (_RATE * (os.cpu_count() or 1)), False)
