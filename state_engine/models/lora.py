"""Low-rank adapters for training: the backbone's linears stay as they are, and W x becomes W x + alpha / r B A x.

Source: LoRA (arXiv:2106.09685), with the initial values and the scale of PEFT. Our fused linears (queries, keys and values; gate and
up) get adapters of their own for each part, so that the numbers are those of adapters on separate projections, as arc-state
has them. Merging adds the adapters into the weights; a model is saved merged, so no one who loads it needs to know.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.errors import ConfigError
from state_engine.models.embedding import EmbeddingModel, EncoderLayer
from state_engine.models.transition import TransitionModel

Network = TransitionModel | EmbeddingModel


class AdaptedLinear(nn.Module):
    """A linear with low-rank adapters on the parts of its output.

    Args:
        base: the linear; it is not trained.
        sizes: features of each part of its output, in order; their sum is its whole output.
        rank, alpha: r, and the scale alpha / r.
        dropout: of what the adapters see, in training.
    """

    def __init__(self, base: nn.Linear, sizes: tuple[int, ...], rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.sizes, self.scale = sizes, alpha / rank
        # b is zero at first, so that the adapted network starts as the base; a is drawn as a linear's weight is
        self.a = nn.ParameterList(nn.Parameter(base.weight.new_empty(rank, base.in_features)) for _ in sizes)
        self.b = nn.ParameterList(nn.Parameter(base.weight.new_zeros(size, rank)) for size in sizes)
        self.dropout = nn.Dropout(dropout)
        for down in self.a:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The weight (out, in) of the one linear that does the same, for what reads weights itself; gradients reach the adapters."""
        change = torch.cat([up @ down for up, down in zip(self.b, self.a, strict=True)])
        return self.base.weight + self.scale * change

    @property
    def bias(self) -> Tensor | None:
        """The linear's own."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        seen = self.dropout(x)
        # the parts share their input, so one product serves all of them
        low = functional.linear(seen, torch.cat([*self.a])).chunk(len(self.sizes), dim=-1)  # r features each
        change = torch.cat([functional.linear(part, up) for part, up in zip(low, self.b, strict=True)], dim=-1)
        return self.base(x) + self.scale * change

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Return the weight (out, in) of the one linear that does the same."""
        # in float32: a change this small would be rounded away in half precision
        change = torch.cat([up.float() @ down.float() for up, down in zip(self.b, self.a, strict=True)])
        return (self.base.weight.float() + self.scale * change).to(self.base.weight.dtype)


def add_adapters(
    network: Network, rank: int, alpha: float, dropout: float = 0.0, feed: bool = False, beside: tuple[str, ...] = ()
) -> int:
    """Give the attention of a network's transformer adapters, in place, and train them instead of it; other parts are trained as before.

    Args:
        network: has none yet.
        rank, alpha, dropout: see `AdaptedLinear`.
        feed: the feed-forward linears get adapters too.
        beside: names of linears outside the backbone that get adapters too.

    Returns:
        How many linears were adapted.

    Raises:
        ConfigError: a rank below 1, or adapters that are there already.
    """
    if rank < 1:
        raise ConfigError(f"Adapters of rank {rank} change nothing.", "The rank must be 1 or more.")
    if adapters(network):
        raise ConfigError("The network has adapters already.", fix="Merge them first.")
    transformer_of(network).requires_grad_(False)
    count = 0
    for owner, name, sizes in _linears(network, feed):
        setattr(owner, name, AdaptedLinear(getattr(owner, name), sizes, rank, alpha, dropout))
        count += 1
    for path in beside:
        linear, (place, _, name) = network.get_submodule(path), path.rpartition(".")
        assert isinstance(linear, nn.Linear)
        setattr(network.get_submodule(place), name, AdaptedLinear(linear, (linear.out_features,), rank, alpha, dropout))
    return count + len(beside)


def adapters(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the linears that have adapters."""
    return tuple(name for name, module in network.named_modules() if isinstance(module, AdaptedLinear))


def merge(network: Network) -> int:
    """Add the adapters into the weights, in place; everything can be trained again. Returns how many linears had some."""
    names = adapters(network)
    for name in names:
        owner_name, _, last = name.rpartition(".")
        adapted = network.get_submodule(name)
        assert isinstance(adapted, AdaptedLinear)
        adapted.base.weight.data.copy_(adapted.merged_weight())
        setattr(network.get_submodule(owner_name), last, adapted.base)
    if names:
        transformer_of(network).requires_grad_(True)
    return len(names)


def merged_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights as they would be after merging, under plain names; the network keeps its adapters."""
    names = adapters(network)
    plain = {
        name.replace(".base.", ".") if _of(name, names) else name: tensor
        for name, tensor in network.state_dict().items()
        if not (_of(name, names) and ".base." not in name)
    }
    for name in names:
        adapted = network.get_submodule(name)
        assert isinstance(adapted, AdaptedLinear)
        plain[f"{name}.weight"] = adapted.merged_weight()
    return plain


def _of(name: str, adapted: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{linear}.") for linear in adapted)


def transformer_of(network: Network) -> nn.Module:
    """Return the layers of a network, without what encodes their input and reads their output."""
    return network.layers if isinstance(network, EmbeddingModel) else network.backbone


def train_only(network: Network, how: str, layers: int = 0, rank: int = 8) -> int:
    """Choose what of a network is trained, in place: "lora" (adapters of attention), "last" (its last layers), or "full".

    Args:
        how: which.
        layers: of "last".
        rank: of the adapters; their scale is 2.

    Returns:
        How many weights are trained.

    Raises:
        ConfigError: the network has fewer layers.
    """
    network.requires_grad_(how == "full")
    if how == "lora":
        add_adapters(network, rank, 2.0 * rank)
    if how == "last":
        there = network.layers if isinstance(network, EmbeddingModel) else network.backbone.layers
        if layers > len(there):
            raise ConfigError(
                f"The last {layers} layers cannot be trained.", f"The model has {len(there)}.", "Name fewer, or choose full."
            )
        for layer in list(there)[len(there) - layers :]:
            layer.requires_grad_(True)
        # what reads the last layer follows it
        (network.decoder if isinstance(network, EmbeddingModel) else network.backbone.norm).requires_grad_(True)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _linears(network: Network, feed: bool) -> Iterator[tuple[nn.Module, str, tuple[int, ...]]]:
    """Owner, attribute and the sizes of the output's parts of each linear to adapt."""
    if isinstance(network, EmbeddingModel):
        d, wide = network.config.hidden, network.config.feed_forward
        for layer in network.layers:
            assert isinstance(layer, EncoderLayer)
            yield layer, "qkv", (d, d, d)
            yield layer, "out", (d,)
            if feed:
                yield layer, "up", (wide,)
                yield layer, "down", (d,)
        return
    config = network.config.backbone
    heads, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    # gpt2 is one projection there too; llama is three
    projections = (heads + 2 * keys,) if config.kind == "gpt2" else (heads, keys, keys)
    for block in network.backbone.layers:
        yield block.get_submodule("attention"), "qkv", projections
        yield block.get_submodule("attention"), "out", (config.hidden,)
        if feed:
            up = ("up", (config.intermediate,)) if config.kind == "gpt2" else ("gate_up", (config.intermediate,) * 2)
            yield block.get_submodule("feed"), *up
            yield block.get_submodule("feed"), "down", (config.hidden,)
