"""The transformer over the cells of a set: two layouts of the same pre-norm stack.

llama: RMSNorm, attention without biases (key heads may be shared), SwiGLU. gpt2: LayerNorm, biases, GELU. Neither adds
positions to its input: a set has no order, and only the mode `causal-rotary` knows distances.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from state_engine.models.blocks import Attention, FeedForward, SwiGLU
from state_engine.models.config import AttentionMode, BackboneConfig

INITIAL_SPREAD = 0.02


def _norm(config: BackboneConfig) -> nn.Module:
    if config.kind == "llama":
        return nn.RMSNorm(config.hidden, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden, eps=config.norm_eps)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        gpt2 = config.kind == "gpt2"
        self.norm_attention = _norm(config)
        self.attention = Attention(config, bias=gpt2)
        self.norm_feed = _norm(config)
        self.feed = FeedForward(config.hidden, config.intermediate) if gpt2 else SwiGLU(config.hidden, config.intermediate)

    def forward(
        self, x: Tensor, mode: AttentionMode, alone: bool, maps: bool, sizes: Sequence[int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (b, t, d) for (b, t, d), and the attention weights when `maps`."""
        mixed, weights = self.attention(self.norm_attention(x), mode, alone, maps, sizes)
        x = x + mixed
        return x + self.feed(self.norm_feed(x)), weights


class Backbone(nn.Module):
    """A stack of layers and a last norm."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = _norm(config)
        self.apply(_initialise)

    def forward(
        self, x: Tensor, mode: AttentionMode, alone: bool = False, maps: bool = False, sizes: Sequence[int] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Transform the positions of a set.

        Args:
            x: (b, t, d).
            mode: which positions see which.
            alone: each position sees only itself.
            maps: collect the attention weights.
            sizes: positions of the sets that lie one after the other in x (1, t, d).

        Returns:
            (b, t, d), and a (b, heads, t, t) a layer when `maps`, else nothing.
        """
        collected = []
        for layer in self.layers:
            x, weights = layer(x, mode, alone, maps, sizes)
            if weights is not None:
                collected.append(weights)
        # layers norm what they read, never what they add to, so one norm is left for the end
        return self.norm(x), tuple(collected)


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    # weights that come from a file need no values first (and normal_ on the meta device imports a second of torch)
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.normal_(module.weight, std=INITIAL_SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
