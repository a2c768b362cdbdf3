"""The small parts of the networks: MLPs, attention over the cells of a set, feed-forward layers.

Notation: b sets, t positions of a set (its cells, and tokens before or behind them), d hidden width, h heads, k key heads,
c width of a head. Tensors in, tensors out; knows nothing of genes or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.models.config import Activation, AttentionMode, BackboneConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def mlp(wide_in: int, hidden: int, wide_out: int, layers: int, dropout: float, activation: Activation) -> nn.Sequential:
    """Return `layers` linears from `wide_in` to `wide_out` with activation and dropout between; just one linear when `layers` is 1."""
    widths = [wide_in, *[hidden] * (layers - 1), wide_out]
    parts: list[nn.Module] = []
    for one, next_one in pairwise(widths):
        parts += [nn.Linear(one, next_one), ACTIVATIONS[activation](), nn.Dropout(dropout)]
    return nn.Sequential(*parts[:-2])


def normed_block(wide_in: int, wide_out: int, dropout: float) -> nn.Sequential:
    """Return Linear, LayerNorm, GELU, dropout: one step of a decoder or of the confidence head."""
    return nn.Sequential(nn.Linear(wide_in, wide_out), nn.LayerNorm(wide_out), nn.GELU(), nn.Dropout(dropout))


def rotate(x: Tensor, theta: float) -> Tensor:
    """Apply rotary positions 0..t-1 to (b, h, t, c): each pair (i, i + c/2) of a head is turned by position x theta^(-2i/c)."""
    t, c = x.shape[-2:]
    # angles in float32 whatever x is: bfloat16 cannot tell positions above 256 apart
    frequency = theta ** -(torch.arange(0, c, 2, device=x.device, dtype=torch.float32) / c)  # (c/2,)
    angle = torch.arange(t, device=x.device, dtype=torch.float32)[:, None] * frequency  # (t, c/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Softmax attention between the positions of a set.

    Args:
        config: geometry. Queries, keys and values are one linear, in this order; key heads are shared by groups of heads.
        bias: the linears have biases (gpt2).
    """

    def __init__(self, config: BackboneConfig, bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.theta = config.rope_theta
        self.qkv = nn.Linear(config.hidden, (config.heads + 2 * config.kv_heads) * config.head_dim, bias=bias)
        self.out = nn.Linear(config.heads * config.head_dim, config.hidden, bias=bias)

    def forward(
        self, x: Tensor, mode: AttentionMode, alone: bool = False, maps: bool = False, sizes: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Let the positions see each other.

        Args:
            x: (b, t, d).
            mode: full (no order), causal (a position sees those before it), causal-rotary (and knows distances).
            alone: each position sees only itself, whatever the mode.
            maps: also return the weights, (b, h, t, t); a row sums to one.
            sizes: x is one row (1, t, d) of several sets one after the other, of these many positions each.
        """
        b, t, _ = x.shape
        queries, keys, values = self._split(self.qkv(x))
        # cells see each other in the softmax only: there the sets are taken one by one, all else is one product over all of them
        if sizes is not None and not alone:
            one, other, third = (part.split(list(sizes), dim=2) for part in (queries, keys, values))
            parts = [self._mix(q, k, v, mode).transpose(1, 2) for q, k, v in zip(one, other, third, strict=True)]
            return self.out(torch.cat(parts, dim=1).view(b, t, self.heads * self.head_dim)), None
        weights = None
        if alone:  # the softmax over one position is 1: no product of queries and keys is needed
            mixed = values
            if maps:
                weights = torch.eye(t, device=x.device, dtype=x.dtype).expand(b, self.heads, t, t)
        elif maps:
            weights = self._weights(queries, keys, mode)
            mixed = weights @ values
        else:
            mixed = self._mix(queries, keys, values, mode)
        return self.out(mixed.transpose(1, 2).reshape(b, t, self.heads * self.head_dim)), weights

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, t, _ = qkv.shape
        heads = qkv.view(b, t, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)  # (b, h + 2k, t, c)
        queries, keys, values = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        # a key head serves neighbouring query heads, so its copies lie side by side
        if self.kv_heads != self.heads:
            group = self.heads // self.kv_heads
            keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        return queries, keys, values

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, mode: AttentionMode) -> Tensor:
        if mode == "causal-rotary":
            queries, keys = rotate(queries, self.theta), rotate(keys, self.theta)
        return functional.scaled_dot_product_attention(queries, keys, values, is_causal=mode != "full")

    def _weights(self, queries: Tensor, keys: Tensor, mode: AttentionMode) -> Tensor:
        if mode == "causal-rotary":
            queries, keys = rotate(queries, self.theta), rotate(keys, self.theta)
        scores = queries @ keys.transpose(-1, -2) * self.head_dim**-0.5  # (b, h, t, t)
        if mode != "full":
            t = scores.shape[-1]
            future = torch.ones(t, t, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        # in float32, so that the rows sum to one in half precision too
        return scores.float().softmax(dim=-1).to(queries.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases; gate and up are one linear, in this order."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * intermediate, bias=False)
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, d) -> (b, t, d)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class FeedForward(nn.Module):
    """down(gelu(up(x))) with biases and the tanh form of GELU, as gpt2 has it."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, intermediate)
        self.down = nn.Linear(intermediate, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, d) -> (b, t, d)."""
        return self.down(functional.gelu(self.up(x), approximate="tanh"))
