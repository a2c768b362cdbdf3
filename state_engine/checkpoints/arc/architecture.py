"""From the hyper-parameters of an arc-state checkpoint to a `TransitionConfig`.

The hyper-parameters are the authority on the architecture. What they leave out because a version did not have it yet takes
that version's behaviour; counts of layers that are left out are read off the weights. Boundary: plain values in, config out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from state_engine.checkpoints.card import AttentionOrigin
from state_engine.errors import CheckpointError, ConfigError
from state_engine.models.config import (
    Activation,
    AttentionMode,
    BackboneConfig,
    BackboneKind,
    DecoderConfig,
    OutputSpace,
    TransitionConfig,
)

T = TypeVar("T")
# values of another program: each is converted where it is read, and a value that cannot be becomes a CheckpointError
Hyper = Mapping[str, Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


GENE_KEYS = (None, "X_hvg")
# set by our writer: the gene decoder of the checkpoint is there only to keep a ReLU away, and decodes nothing
FILLER_DECODER = "filler_decoder"
# set by our writer: the output space of the model, where arc-state needs another word to build the same network
OWN_SPACE = "own_output_space"
SPACES: dict[str, OutputSpace] = {"gene": "hvg", "all": "genes", "embedding": "embedding"}
ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}

# settings of the backbone without influence on its numbers, or that must have the value the layout implies
BACKBONE_IGNORED = _names(
    """
    bidirectional_attention use_cache attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop pad_token_id bos_token_id
    eos_token_id tie_word_embeddings rotary_dim use_rotary_embeddings max_position_embeddings n_positions n_ctx vocab_size
    initializer_range layer_norm_eps pretraining_tp torch_dtype dtype model_type attn_implementation _attn_implementation
    """
)
LLAMA_READ = _names(
    """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim rms_norm_eps rope_theta
    """
)
GPT2_READ = _names(
    """
    hidden_size n_embd n_layer num_hidden_layers n_head num_attention_heads n_inner layer_norm_epsilon
    """
)
BACKBONE_FIXED: dict[str, object] = {
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None, "activation_function": "gelu_new",
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}  # fmt: skip

READ = _names(
    """
    input_dim hidden_dim output_dim pert_dim batch_dim dropout embed_key output_space gene_names gene_dim hvg_dim decoder_cfg
    cell_set_len confidence_token n_encoder_layers n_decoder_layers batch_encoder use_batch_token mask_attn use_basal_projection
    gene_decoder_bool predict_residual transformer_backbone_key transformer_backbone_kwargs lora activation control_pert loss
    distributional_loss basal_mapping_strategy filler_decoder own_output_space log1p_from_raw_counts counts_target_sum
    """
)
TRAINING_ONLY = _names(
    """
    lr loss_fn batch_size blur residual_decoder freeze_pert_backbone freeze_pert finetune_vci_decoder init_from mmd_num_chunks
    randomize_mmd_chunks decoder_loss_weight regularization extra_tokens decoder_hidden_dims llm_name softplus transformer_decoder
    confidence_head use_effect_gating_token weight_decay max_lr min_lr warmup_steps scheduler optimizer confidence_target_scale
    confidence_weight wandb name seed detach_decoder max_steps train_seed gradient_clip_val
    """
)


@dataclass(frozen=True)
class ArcArchitecture:
    """What the hyper-parameters say.

    Args:
        config: the network.
        input_key: "X", "X_hvg" or another obsm key.
        attention, attention_source, attention_origin: which cells see which, why in a sentence, and where that comes from.
        lora: alpha / r of the adapters (for rank-stabilised ones alpha / sqrt(r)), or None.
        notes: what was decided, for people.
    """

    config: TransitionConfig
    input_key: str
    attention: AttentionMode
    attention_source: str
    attention_origin: AttentionOrigin
    lora: tuple[float, int] | None
    notes: tuple[str, ...]


def read_architecture(hyper: Hyper, names: Sequence[str]) -> ArcArchitecture:
    """The architecture of a checkpoint.

    Args:
        hyper: its `hyper_parameters`, plain values.
        names: names of its weights.

    Raises:
        CheckpointError: a value is missing, or asks for a part that is not known here.
    """
    try:
        return _architecture(hyper, names)
    except KeyError as error:
        raise CheckpointError(
            f"The checkpoint's hyper_parameters lack {error}.",
            "They decide the architecture.",
            "Use a checkpoint of arc-state 0.9.14 or later.",
        ) from error
    except (ConfigError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError("The checkpoint's hyper_parameters make no network.", f"{error}") from error


def _architecture(hyper: Hyper, names: Sequence[str]) -> ArcArchitecture:
    key = hyper["embed_key"]
    _check_counts(hyper, key)
    space = _choice(SPACES, hyper.get(OWN_SPACE) or hyper["output_space"], "output_space")
    backbone = _backbone(hyper)
    decoder = _decoder(hyper, names, key)
    batch_encoder = bool(hyper.get("batch_encoder", False))
    random_mapping = hyper.get("basal_mapping_strategy", "random") == "random"
    config = TransitionConfig(
        input_dim=int(hyper["input_dim"]),
        output_dim=int(hyper["output_dim"]),
        perturbation_dim=int(hyper["pert_dim"]),
        backbone=backbone,
        output_space=space,
        set_size=int(hyper["cell_set_len"]),
        batch_dim=int(hyper["batch_dim"]) if batch_encoder else 0,
        encoder_layers=int(hyper.get("n_encoder_layers") or _count_linears(names, "pert_encoder.")),
        decoder_layers=int(hyper.get("n_decoder_layers") or _count_linears(names, "project_out.")),
        basal_mlp=bool(hyper.get("use_basal_projection", True)),
        predict_residual=bool(hyper.get("predict_residual", True)),
        final_relu=key in GENE_KEYS or (decoder is None and not hyper.get(FILLER_DECODER)),
        batch_encoder=batch_encoder,
        batch_token=bool(hyper.get("use_batch_token", False)) and not batch_encoder and not random_mapping,
        confidence_token=bool(hyper.get("confidence_token", False)),
        mask_attention=bool(hyper.get("mask_attn", False)),
        dropout=float(hyper.get("dropout", 0.1)),
        activation=_choice(ACTIVATIONS, str(hyper.get("activation") or "gelu").lower(), "activation"),
        decoder=decoder,
    )
    attention, source, origin = _attention(hyper, backbone.kind)
    return ArcArchitecture(config, key or "X", attention, source, origin, _lora(hyper), _notes(hyper))


def _check_counts(hyper: Hyper, key: str | None) -> None:
    """Refuse a network that normalises raw counts itself: of each cell, by the sum over its own genes.

    Cells come to a network here as log1p of counts by the depth of the whole cell, which are other numbers. On embeddings the setting
    changes only what a decoder is trained to predict, and no prediction.
    """
    own = hyper.get("log1p_from_raw_counts", False)
    if own not in (True, False, None):
        raise CheckpointError(f"The checkpoint's log1p_from_raw_counts is {str(own)[:60]!r}.", "It is true or false.")
    if not own or key not in GENE_KEYS:
        return
    total = float(hyper.get("counts_target_sum", 10_000))
    if not (math.isfinite(total) and total > 0):
        raise CheckpointError(
            f"The checkpoint's counts_target_sum is {total:g}.", "A cell's counts are brought to a sum above 0."
        )
    raise CheckpointError(
        "The checkpoint normalises raw counts itself.",
        f"log1p_from_raw_counts is true: each cell is divided by the sum over the model's own genes, to {total:,.0f}. Here cells are "
        "normalised by the depth of the whole cell, so its predictions would not be those of arc-state.",
        "Use a checkpoint that was trained on log1p values (log1p_from_raw_counts: false).",
    )


def _choice(known: Mapping[str, T], value: str, what: str) -> T:
    if value not in known:
        raise CheckpointError(f"The checkpoint's {what} is {value!r}.", f"Known here: {', '.join(known)}.")
    return known[value]


def _backbone(hyper: Hyper) -> BackboneConfig:
    kinds: dict[str, BackboneKind] = {"llama": "llama", "GPT2": "gpt2", "gpt2": "gpt2"}
    kind: BackboneKind = _choice(kinds, hyper["transformer_backbone_key"], "transformer_backbone_key")
    kwargs = hyper["transformer_backbone_kwargs"]
    read = LLAMA_READ if kind == "llama" else GPT2_READ | LLAMA_READ
    for name, value in kwargs.items():
        if name in BACKBONE_FIXED and value == BACKBONE_FIXED[name]:
            continue
        if name not in read | BACKBONE_IGNORED:
            raise CheckpointError(
                f"The backbone of the checkpoint has {name} = {value!r}.", "That is not known here and may change its numbers."
            )
    hidden = int(hyper["hidden_dim"])
    for name in ("hidden_size", "n_embd"):
        if int(kwargs.get(name, hidden)) != hidden:
            raise CheckpointError(f"{name} of the backbone is {kwargs[name]}, hidden_dim of the model is {hidden}.")
    return _llama(kwargs, hidden) if kind == "llama" else _gpt2(kwargs, hidden)


def _llama(kwargs: Hyper, hidden: int) -> BackboneConfig:
    heads = int(kwargs["num_attention_heads"])
    return BackboneConfig(
        kind="llama",
        hidden=hidden,
        layers=int(kwargs["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(kwargs.get("num_key_value_heads") or heads),
        head_dim=int(kwargs.get("head_dim") or hidden // heads),
        intermediate=int(kwargs["intermediate_size"]),
        norm_eps=float(kwargs.get("rms_norm_eps", 1e-6)),
        rope_theta=float(kwargs.get("rope_theta", 10000.0)),
    )


def _gpt2(kwargs: Hyper, hidden: int) -> BackboneConfig:
    heads = int(kwargs.get("n_head") or kwargs.get("num_attention_heads") or 12)
    return BackboneConfig(
        kind="gpt2",
        hidden=hidden,
        layers=int(kwargs.get("n_layer") or kwargs.get("num_hidden_layers") or 12),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        intermediate=int(kwargs.get("n_inner") or 4 * hidden),
        norm_eps=float(kwargs.get("layer_norm_epsilon", 1e-5)),
    )


def _decoder(hyper: Hyper, names: Sequence[str], key: str | None) -> DecoderConfig | None:
    """Gene decoders are used on embeddings only; in gene space they lie unused in the checkpoint."""
    cfg = hyper.get("decoder_cfg")
    if key in GENE_KEYS or not cfg or not hyper.get("gene_decoder_bool", True) or hyper.get(FILLER_DECODER):
        return None
    return DecoderConfig(
        latent=int(cfg["latent_dim"]),
        genes=int(cfg["gene_dim"]),
        hidden=tuple(int(width) for width in cfg["hidden_dims"]),
        dropout=float(cfg.get("dropout", 0.1)),
        residual=any(name.startswith("gene_decoder.blocks.") for name in names),
    )


def _attention(hyper: Hyper, kind: BackboneKind) -> tuple[AttentionMode, str, AttentionOrigin]:
    declared = hyper["transformer_backbone_kwargs"].get("bidirectional_attention")
    if declared is True:
        return "full", "Declared by the checkpoint (bidirectional_attention: true).", "declared"
    if declared is False:
        mode: AttentionMode = "causal-rotary" if kind == "llama" else "causal"
        return mode, "Declared by the checkpoint (bidirectional_attention: false).", "declared"
    why = (
        "Assumed: the checkpoint does not declare bidirectional_attention; models from before that key were, going by the "
        "library versions of their time, trained with full attention, where a set has no order."
    )
    return "full", why, "assumed"


def _lora(hyper: Hyper) -> tuple[float, int] | None:
    lora = hyper.get("lora")
    if not lora or not lora.get("enable", False):
        return None
    known = {"enable", "r", "alpha", "dropout", "bias", "target", "adapt_mlp", "task_type", "merge_on_eval"}
    unknown = sorted(name for name, value in lora.items() if name not in known and value)
    if unknown:
        raise CheckpointError(f"The adapters of the checkpoint have {', '.join(unknown)}.", "That is not known here.")
    return float(lora["alpha"]) / float(lora["r"]), int(lora["r"])


def _notes(hyper: Hyper) -> tuple[str, ...]:
    unknown = {n: v for n, v in hyper.items() if n not in READ | TRAINING_ONLY and v not in (None, False, 0, "", {}, [])}
    return tuple(
        f"Hyper-parameter {name} = {str(value)[:60]} is not known here; it was left out."
        for name, value in sorted(unknown.items())
    )


def _count_linears(names: Sequence[str], prefix: str) -> int:
    count = sum(name.startswith(prefix) and name.endswith(".weight") for name in names)
    if not count:
        raise CheckpointError(f"The checkpoint has no weights called {prefix}*.", "It is not a State Transition model.")
    return count
