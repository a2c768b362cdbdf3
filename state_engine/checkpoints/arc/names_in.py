"""Names of arc-state's weights to ours: renamed, adapters merged, projections that we keep as one linear put together.

Boundary: dictionaries of tensors. Nothing is left out but what is named in `DEAD`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from state_engine.errors import CheckpointError, listed

BACKBONE = "transformer_backbone."

# in the checkpoint, but without influence on a prediction
DEAD = (
    r"transformer_backbone\.embed_tokens\.weight",
    r"transformer_backbone\.wpe\.weight",
    r"transformer_backbone\.wte\.weight",
    r"transformer_backbone\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    r"transformer_backbone\.h\.\d+\.attn\.(bias|masked_bias)",
    r"batch_classifier\..*",
)
DEAD_DECODER = r"gene_decoder\..*"  # in gene space
DEAD_BOTTLENECK = r"final_down_then_up\..*"  # when nothing is added to the basal cells

_L = r"transformer_backbone\.layers\.(\d+)\."
_H = r"transformer_backbone\.h\.(\d+)\."
RENAMES: tuple[tuple[str, str], ...] = (
    (r"pert_encoder\.", "perturbation_encoder."),
    (r"basal_encoder\.(weight|bias)$", r"basal_encoder.0.\1"),
    (r"confidence_token\.confidence_token$", "confidence_token"),
    (r"confidence_token\.confidence_projection\.([01])\.", r"confidence_head.blocks.0.\1."),
    (r"confidence_token\.confidence_projection\.4\.", "confidence_head.blocks.1.0."),
    (r"confidence_token\.confidence_projection\.5\.", "confidence_head.blocks.1.1."),
    (r"confidence_token\.confidence_projection\.8\.", "confidence_head.out."),
    (r"final_down_then_up\.", "bottleneck."),
    (r"gene_decoder\.final_layer\.0\.", "gene_decoder.out."),
    (_L + r"input_layernorm\.", r"backbone.layers.\1.norm_attention."),
    (_L + r"post_attention_layernorm\.", r"backbone.layers.\1.norm_feed."),
    (_L + r"self_attn\.o_proj\.", r"backbone.layers.\1.attention.out."),
    (_L + r"self_attn\.([qkv])_proj\.", r"backbone.layers.\1.attention.\2."),
    (_L + r"mlp\.(gate|up)_proj\.", r"backbone.layers.\1.feed.\2."),
    (_L + r"mlp\.down_proj\.", r"backbone.layers.\1.feed.down."),
    (_H + r"ln_1\.", r"backbone.layers.\1.norm_attention."),
    (_H + r"ln_2\.", r"backbone.layers.\1.norm_feed."),
    (_H + r"attn\.c_attn\.", r"backbone.layers.\1.attention.qkv."),
    (_H + r"attn\.c_proj\.", r"backbone.layers.\1.attention.out."),
    (_H + r"mlp\.c_fc\.", r"backbone.layers.\1.feed.up."),
    (_H + r"mlp\.c_proj\.", r"backbone.layers.\1.feed.down."),
    (r"transformer_backbone\.(norm|ln_f)\.", "backbone.norm."),
)
TOGETHER = {"attention.qkv": ("attention.q", "attention.k", "attention.v"), "feed.gate_up": ("feed.gate", "feed.up")}


def translate(
    weights: Mapping[str, Tensor], lora_scale: float | None, decoder_depth: int | None, residual: bool = True
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """arc-state's weights under our names.

    Args:
        weights: the checkpoint's `state_dict`.
        lora_scale: scale of the adapters (alpha / r), or None when it has none.
        decoder_depth: how many hidden widths the gene decoder has; None when it is not used.
        residual: the model adds its prediction to the basal cells.

    Returns:
        Float32 weights for a `TransitionModel`, and the names that were left out as dead.

    Raises:
        CheckpointError: adapters that are incomplete, or there without being declared.
    """
    plain = merge_adapters(weights, lora_scale)
    dead = (*DEAD, *([] if decoder_depth is not None else [DEAD_DECODER]), *([] if residual else [DEAD_BOTTLENECK]))
    dropped = tuple(name for name in plain if any(re.fullmatch(pattern, name) for pattern in dead))
    gpt2 = any(name.startswith(BACKBONE + "h.") for name in plain)
    renamed = {}
    for name, tensor in plain.items():
        if name in dropped:
            continue
        if gpt2 and name.endswith(".weight") and re.search(r"\.(c_attn|c_proj|c_fc)\.", name):
            tensor = tensor.T  # stored (in, out)
        renamed[_rename(name, decoder_depth)] = tensor
    return _put_together(renamed), dropped


def merge_adapters(weights: Mapping[str, Tensor], scale: float | None) -> dict[str, Tensor]:
    """Low-rank adapters added into the weights they adapt: W + scale x B A. Other weights keep their tensors.

    Raises:
        CheckpointError: see `translate`.
    """
    # without the names that the wrapper of the adapters puts around those of the network
    plain = {
        name.replace(BACKBONE + "base_model.model.", BACKBONE).replace(".base_layer.", "."): tensor
        for name, tensor in weights.items()
    }
    merged = {name: tensor for name, tensor in plain.items() if ".lora_" not in name}
    for first, second, target in _adapters(plain, scale):
        change = float(scale or 0) * (plain[second].float() @ plain[first].float())
        # square weights fit both ways; gpt2's are stored (in, out)
        merged[target] = merged[target].float() + (change.T if ".h." in target else change)
    return merged


def _adapters(plain: Mapping[str, Tensor], scale: float | None) -> list[tuple[str, str, str]]:
    """Return the names of the matrices A and B of each adapter, and of the weight that it adapts."""
    adapters = sorted(name for name in plain if ".lora_" in name)
    if adapters and scale is None:
        raise CheckpointError(
            f"The checkpoint has adapters ({listed(adapters, 2)}).", "Its hyper_parameters do not declare them."
        )
    firsts = [name for name in adapters if ".lora_A.default.weight" in name]
    seconds = [first.replace("lora_A", "lora_B") for first in firsts]
    strange = sorted({*adapters} - {*firsts, *seconds})
    if strange or not {*seconds} <= plain.keys():
        raise CheckpointError(
            "The adapters of the checkpoint are incomplete or of another kind.", f"{listed(strange or firsts)}."
        )
    targets = [first.replace(".lora_A.default", "") for first in firsts]
    for first, target in zip(firsts, targets, strict=True):
        if target not in plain:
            raise CheckpointError(f"The adapter {first} has nothing to adapt.", f"There is no {target}.")
    return list(zip(firsts, seconds, targets, strict=True))


def _rename(name: str, decoder_depth: int | None) -> str:
    for pattern, ours in RENAMES:
        if re.match(pattern, name):
            return re.sub("^" + pattern, ours, name)
    found = re.match(r"gene_decoder\.decoder\.(\d+)\.(.*)", name)
    if found and decoder_depth is not None:
        block, part = divmod(int(found.group(1)), 4)  # Linear, LayerNorm, GELU, dropout
        return (
            f"gene_decoder.out.{found.group(2)}"
            if block == decoder_depth
            else f"gene_decoder.blocks.{block}.{part}.{found.group(2)}"
        )
    return name


def _put_together(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our fused linears from their parts. Everything is copied once, off the mapped file, in float32."""
    together: dict[str, Tensor] = {}
    taken: set[str] = set()
    for name in weights:
        found = re.fullmatch(r"(backbone\.layers\.\d+\.)(attention\.q|feed\.gate)\.weight", name)
        if not found:
            continue
        whole = "attention.qkv" if found.group(2) == "attention.q" else "feed.gate_up"
        parts = [f"{found.group(1)}{part}.weight" for part in TOGETHER[whole]]
        if all(part in weights for part in parts):
            together[f"{found.group(1)}{whole}.weight"] = torch.cat([weights[part].float() for part in parts])
            taken.update(parts)
    rest = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in weights.items() if name not in taken}
    return rest | together
