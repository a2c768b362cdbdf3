"""Named settings of a training, as data: values for fields of `TrainRequest`. No torch here: pages show them.

state, state_sm and state_lg are arc-state 0.11.1's configurations of those names, as `state tx train` resolves them. tahoe and replogle
are what the published models of those data were trained with: arc-state's `tahoe_llama_212693232` in sets of 256 with a batch
encoder (ST-Tahoe), and its `state` with hidden 328 in sets of 64 with a batch encoder (ST-HVG-Replogle). `default` is for data sets
of some thousand cells, on a processor.

All of arc-state's train with Adam at 1e-4, constant; the weight decay that its configurations name is not used by its optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ARC: dict[str, object] = {
    "backbone": "llama",
    "loss": "energy",
    "blur": 0.05,
    "energy_weight": 1.0,
    "sinkhorn_weight": 0.01,
    "loss_chunks": 1,
    "shuffle_chunks": False,
    "predict_residual": True,
    "batch_encoder": False,
    "batch_token": False,
    "confidence_token": False,
    "mask_attention": False,
    "activation": "gelu",
    "dropout": 0.1,
    "decoder_hidden": (1024, 1024, 512),
    "decoder_dropout": 0.1,
    "decoder_residual": False,
    "decoder_weight": 1.0,
    "l1": 0.0,
    "effect_weight": 0.0,
    "confidence_weight": 0.01,
    "confidence_scale": 10.0,
    "batch_token_weight": 0.1,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "warmup": 0,
    "weight_decay": 0.0,
    "gradient_clip": 10.0,
    "ema": 0.0,
    "gene_dropout": 0.0,
    "basal_noise": 0.0,
    "equalise_depth": "off",
    "sets_per_step": 16,
    "steps": 400_000,
    "control_mapping": "random",
    "train_control": True,
    "validate_every": 2000,
    "checkpoint_every": 2000,
    "freeze": (),
    "lora_rank": 0,
    "lora_alpha": 32.0,
    "lora_dropout": 0.05,
    "seed": 42,
}  # fmt: skip

_STATE: dict[str, object] = {
    **_ARC, "hidden": 768, "layers": 8, "heads": 12, "kv_heads": 12, "head_dim": 64, "intermediate": 3072, "set_size": 512,
    "encoder_layers": 1, "decoder_layers": 1, "basal_mlp": True,
}  # fmt: skip
_STATE_SM: dict[str, object] = {
    **_ARC, "hidden": 672, "layers": 4, "heads": 8, "kv_heads": 8, "head_dim": 84, "intermediate": 2688, "set_size": 128,
    "encoder_layers": 4, "decoder_layers": 4, "basal_mlp": False,
}  # fmt: skip
_STATE_LG: dict[str, object] = {
    **_ARC, "hidden": 1488, "layers": 6, "heads": 12, "kv_heads": 12, "head_dim": 124, "intermediate": 5952, "set_size": 512,
    "encoder_layers": 4, "decoder_layers": 4, "basal_mlp": False,
}  # fmt: skip
# Small data sets have few contexts, and a network that knows each of them by heart says little about another. Hence the means against
# that: sets mixed between contexts that are drawn alike, noise on basal cells, strong dropout, a running mean of the weights.
_DEFAULT: dict[str, object] = {
    "backbone": "llama", "hidden": 256, "layers": 2, "heads": 8, "intermediate": 512, "encoder_layers": 2, "decoder_layers": 2,
    "set_size": 32, "dropout": 0.4, "loss": "energy", "learning_rate": 1e-3, "schedule": "cosine", "gradient_clip": 10.0, "ema": 0.98,
    "basal_noise": 0.3, "paired": True, "balance": "contexts", "mix": 1.0, "sets_per_step": 8, "steps": 0, "validate_every": 50,
    "checkpoint_every": 100, "cross_fit": True,
}  # fmt: skip

PRESETS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        name: MappingProxyType(values)
        for name, values in {
            "default": _DEFAULT,
            "state": _STATE,
            "state_sm": _STATE_SM,
            "state_lg": _STATE_LG,
            "tahoe": {**_STATE_LG, "set_size": 256, "batch_encoder": True},
            "replogle": {**_STATE, "hidden": 328, "set_size": 64, "batch_encoder": True},
        }.items()
    }
)
