"""The variants of arc-state models that parity is shown for, as options of the script that makes them (`make_st.py`).

Plain values only: read by the tests and by `make_fixtures.py`.
"""

from __future__ import annotations

B = "transformer_backbone_kwargs."
EMBEDDING = ("--embed-key", "X_state")

# name -> (arc-state configuration, options of the script, keys set in model.kwargs)
VARIANTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "state": ("state", (), ()),
    "state_sm": ("state_sm", (), ()),
    "causal": ("state_sm", (), (B + "bidirectional_attention=false",)),
    "no_key": ("state_sm", ("--no-bidirectional-key",), ()),
    "batch_encoder": ("state", (), ("batch_encoder=true",)),
    "batch_token": ("state", (), ("use_batch_token=true", "basal_mapping_strategy=batch")),
    "confidence_token": ("state", (), ("confidence_token=true",)),
    "both_tokens": ("state", (), ("confidence_token=true", "use_batch_token=true", "basal_mapping_strategy=batch")),
    "causal_tokens": (
        "state",
        (),
        (
            "confidence_token=true", "use_batch_token=true", "basal_mapping_strategy=batch", B + "bidirectional_attention=false",
        ),
    ),
    "lora": ("state", (), ("lora.enable=true", "lora.r=4", "lora.alpha=8")),
    "lora_mlp": ("state_sm", (), ("lora.enable=true", "lora.r=2", "lora.alpha=3", "lora.adapt_mlp=true")),
    "residual_off": ("state", (), ("predict_residual=false",)),
    "embedding_decoder": ("state_sm", EMBEDDING, ("gene_decoder_bool=true",)),
    "embedding_residual_decoder": ("state_sm", EMBEDDING, ("gene_decoder_bool=true", "residual_decoder=true")),
    "embedding_all": ("state_sm", (*EMBEDDING, "--output-space", "all"), ("gene_decoder_bool=true",)),
    "embedding_only": ("state_sm", (*EMBEDDING, "--output-space", "embedding"), ()),
    "all_genes": ("state_sm", ("--embed-key", "none", "--output-space", "all"), ()),
    "all_genes_residual_off": ("state_sm", ("--embed-key", "none", "--output-space", "all"), ("predict_residual=false",)),
    "features": ("state_sm", ("--features", "12"), ()),
    "masked": ("state", (), ("mask_attn=true",)),
    "masked_tokens": ("state", (), ("mask_attn=true", "confidence_token=true")),
    "shared_key_heads": ("state", (), (B + "num_key_value_heads=2", B + "head_dim=6")),
    "basal_mlp": ("state_sm", (), ("use_basal_projection=true",)),
    "tahoe": ("tahoe_best", (), ()),
    "relu": ("state_sm", (), ("activation=relu", "n_encoder_layers=2", "n_decoder_layers=3")),
}  # fmt: skip

# settings that published configurations carry and that change nothing; compared in the live test only
WITHOUT_INFLUENCE = "without_influence"
LIVE = VARIANTS | {
    WITHOUT_INFLUENCE: (
        "state",
        (),
        ("softplus=false", "transformer_decoder=true", "use_effect_gating_token=true", "confidence_head=true"),
    )
}


def options(name: str, folder: str, *, hidden: int, genes: int, embedding: int, set_size: int, seed: int) -> list[str]:
    """Arguments of `make_st.py` for a small model of a variant."""
    config, extra, keys = LIVE[name]
    heads = 4
    shape = [
        f"hidden_dim={hidden}", f"{B}hidden_size={hidden}", f"{B}intermediate_size={2 * hidden}", f"{B}num_hidden_layers=2",
        f"{B}num_attention_heads={heads}", f"{B}num_key_value_heads={heads}", f"{B}head_dim={hidden // heads}",
        f"cell_set_len={set_size}",
    ]  # fmt: skip
    sets = [part for key in (*shape, *keys) for part in ("--set", key)]
    widths = ["--genes", str(genes), "--embed-dim", str(embedding)]
    return [folder, "--config", config, *widths, "--perts", "3", "--seed", str(seed), *sets, *extra]


def input_key(name: str) -> str:
    """Representation a variant reads."""
    extra = LIVE[name][1]
    key = extra[extra.index("--embed-key") + 1] if "--embed-key" in extra else "X_hvg"
    return "X" if key == "none" else key
