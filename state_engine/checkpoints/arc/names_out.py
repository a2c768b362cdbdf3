"""Our weights under arc-state's names: the inverse of `arc_weights`, with what it wants and never reads filled in.

Boundary: dictionaries of tensors. A model that arc-state cannot have is refused by the writer before it comes here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from state_engine.checkpoints.arc.names_in import BACKBONE
from state_engine.models.config import TransitionConfig

# rows of the token embeddings, which no cell ever passes; both backbones are declared with as few
VOCABULARY = 3

CONFIDENCE = {"blocks.0.0": 0, "blocks.0.1": 1, "blocks.1.0": 4, "blocks.1.1": 5, "out": 8}
LLAMA = {
    "norm_attention": "input_layernorm", "norm_feed": "post_attention_layernorm", "attention.out": "self_attn.o_proj",
    "feed.down": "mlp.down_proj",
}  # fmt: skip
GPT2 = {
    "norm_attention": "ln_1", "norm_feed": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "feed.up": "mlp.c_fc", "feed.down": "mlp.c_proj",
}  # fmt: skip


def to_arc(config: TransitionConfig, weights: Mapping[str, Tensor], batches: int) -> dict[str, Tensor]:
    """The `state_dict` of an arc-state checkpoint.

    Args:
        config: the network.
        weights: of its `TransitionModel`.
        batches: classes of the batch classifier that arc-state keeps beside a batch token.

    Returns:
        Float32 copies; dead weights are zero.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        plain = tensor.detach().cpu().float()
        if part == "backbone":
            named |= _backbone(config, rest, plain)
        else:
            named[_rename(config, part, rest)] = plain
    # copies: tensors that share memory would be saved as the whole of what they are part of
    return {name: tensor.clone().contiguous() for name, tensor in (named | _dead(config, batches)).items()}


def positions(config: TransitionConfig) -> int:
    """Positions of the backbone: the cells of a set and the tokens beside them."""
    return config.set_size + int(config.batch_token) + int(config.confidence_token)


def _rename(config: TransitionConfig, part: str, rest: str) -> str:
    if part == "perturbation_encoder":
        return f"pert_encoder.{rest}"
    if part == "basal_encoder" and not config.basal_mlp:
        return f"basal_encoder.{rest.removeprefix('0.')}"
    if part == "confidence_token":
        return "confidence_token.confidence_token"
    if part == "confidence_head":
        inner, _, kind = rest.rpartition(".")
        return f"confidence_token.confidence_projection.{CONFIDENCE[inner]}.{kind}"
    if part == "bottleneck":
        return f"final_down_then_up.{rest}"
    if part == "gene_decoder" and config.decoder is not None:
        return _decoder(rest, len(config.decoder.hidden), config.decoder.residual)
    return f"{part}.{rest}" if rest else part


def _decoder(rest: str, depth: int, residual: bool) -> str:
    inner, _, kind = rest.rpartition(".")
    if residual:
        return f"gene_decoder.final_layer.0.{kind}" if inner == "out" else f"gene_decoder.{rest}"
    if inner == "out":
        return f"gene_decoder.decoder.{4 * depth}.{kind}"
    _, block, place = inner.split(".")
    return f"gene_decoder.decoder.{4 * int(block) + int(place)}.{kind}"  # Linear, LayerNorm, GELU, dropout


def _backbone(config: TransitionConfig, rest: str, tensor: Tensor) -> dict[str, Tensor]:
    llama = config.backbone.kind == "llama"
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", rest)
    if found is None:  # the last norm
        return {f"{BACKBONE}{'norm' if llama else 'ln_f'}.{rest.rpartition('.')[2]}": tensor}
    number, inner, kind = found.groups()
    if not llama:
        linear = kind == "weight" and "norm" not in inner
        return {f"{BACKBONE}h.{number}.{GPT2[inner]}.{kind}": tensor.T if linear else tensor}  # stored (in, out)
    place = f"{BACKBONE}layers.{number}."
    if inner == "attention.qkv":
        heads, keys = (config.backbone.head_dim * n for n in (config.backbone.heads, config.backbone.kv_heads))
        parts = zip("qkv", tensor.split([heads, keys, keys]), strict=True)
        return {f"{place}self_attn.{letter}_proj.weight": part for letter, part in parts}
    if inner == "feed.gate_up":
        gate, up = tensor.chunk(2)
        return {f"{place}mlp.gate_proj.weight": gate, f"{place}mlp.up_proj.weight": up}
    return {f"{place}{LLAMA[inner]}.{kind}": tensor}


def _dead(config: TransitionConfig, batches: int) -> dict[str, Tensor]:
    hidden, width = config.backbone.hidden, config.output_dim
    shapes: dict[str, tuple[int, ...]] = {}
    if config.backbone.kind == "llama":
        shapes[f"{BACKBONE}embed_tokens.weight"] = (VOCABULARY, hidden)
    else:
        shapes |= {f"{BACKBONE}wte.weight": (VOCABULARY, hidden), f"{BACKBONE}wpe.weight": (positions(config), hidden)}
    if config.batch_token:
        shapes |= {"batch_classifier.0.weight": (batches, hidden), "batch_classifier.0.bias": (batches,)}
    if config.output_space == "genes" and not config.predict_residual:
        narrow = width // 8
        shapes |= {"final_down_then_up.0.weight": (narrow, width), "final_down_then_up.0.bias": (narrow,)}
        shapes |= {"final_down_then_up.2.weight": (width, narrow), "final_down_then_up.2.bias": (width,)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}
