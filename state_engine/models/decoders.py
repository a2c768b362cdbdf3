"""From an embedding of a cell to its expression on the log1p scale."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from state_engine.errors import ConfigError
from state_engine.models.blocks import normed_block
from state_engine.models.config import DecoderConfig


class GeneDecoder(nn.Module):
    """Blocks of Linear, LayerNorm, GELU and dropout, a last Linear, and a ReLU: expression is never negative.

    Raises:
        ConfigError: a residual decoder whose paired blocks differ in width.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        pairs = zip(config.hidden[::2], config.hidden[1::2], strict=False)
        if config.residual and any(one != other for one, other in pairs):
            raise ConfigError(
                "A residual decoder adds each even block to the next one.",
                f"Their widths differ: {', '.join(map(str, config.hidden))}.",
                "Make them equal in pairs.",
            )
        self.residual = config.residual
        widths = [config.latent, *config.hidden]
        self.blocks = nn.ModuleList(normed_block(a, b, config.dropout) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], config.genes)

    def forward(self, embedding: Tensor) -> Tensor:
        """(..., latent) -> (..., genes), log1p."""
        x = embedding
        for number, block in enumerate(self.blocks):
            before, x = x, block(x)
            if self.residual and number % 2:
                x = x + before
        return functional.relu(self.out(x))
