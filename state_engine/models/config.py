"""Configuration of a State Transition network, with every field explicit. No torch here: cards are read by the UI.

Source: bioRxiv 2025.06.26.661135, and the hyper-parameters that checkpoints of arc-state 0.9.14 to 0.11.1 carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from state_engine.errors import ConfigError

BackboneKind = Literal["llama", "gpt2"]
AttentionMode = Literal["full", "causal", "causal-rotary"]
OutputSpace = Literal["hvg", "genes", "embedding"]
Activation = Literal["gelu", "relu", "silu"]
LossName = Literal["energy", "sinkhorn", "combined", "mse"]
MOST_SET: Final = 8192  # cells that see each other: attention grows with their square; published models see up to 512


@dataclass(frozen=True)
class BackboneConfig:
    """A stack of transformer layers over the cells of a set.

    Args:
        kind: llama (RMSNorm, SwiGLU) or gpt2 (LayerNorm, GELU).
        hidden: width d.
        layers, heads, kv_heads, head_dim: attention geometry; kv_heads < heads shares keys and values (llama only).
        intermediate: width of the feed-forward part.
        norm_eps: epsilon of the norms.
        rope_theta: base of the rotary positions, used in `causal-rotary` only.
    """

    kind: BackboneKind
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        _check_positive(
            "backbone",
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate=self.intermediate,
        )
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.heads} heads cannot share {self.kv_heads} key heads.", "It must divide evenly.")
        if self.kind == "gpt2" and self.head_dim * self.heads != self.hidden:
            raise ConfigError("A gpt2 backbone needs hidden = heads x head_dim.")


@dataclass(frozen=True)
class DecoderConfig:
    """Embedding -> log1p expression. `hidden` are the widths between; `residual` adds blocks 0, 2, 4 to 1, 3, 5."""

    latent: int
    genes: int
    hidden: tuple[int, ...]
    dropout: float = 0.1
    residual: bool = False

    def __post_init__(self) -> None:
        _check_positive("decoder", latent=self.latent, genes=self.genes, hidden=min(self.hidden, default=1))


@dataclass(frozen=True)
class TransitionConfig:
    """The whole network.

    Args:
        input_dim: features of a cell that goes in (g).
        output_dim: features of a cell that comes out.
        perturbation_dim: width of a perturbation's vector (p).
        batch_dim: number of batch labels; 0 when the model has no batch encoder.
        backbone: the transformer.
        encoder_layers, decoder_layers: linears in the encoders and in `project_out`.
        basal_mlp: the basal encoder is an MLP (False: one linear).
        output_space: hvg, genes or embedding.
        predict_residual: project_out sees h + encoded basal (or, in space `genes`, the raw basal input is added behind).
        final_relu: a ReLU at the end (gene space, or no decoder).
        batch_encoder, batch_token, confidence_token, mask_attention: optional parts.
        dropout: training only.
        set_size: cells in a set (s).
        activation: between the linears of the MLPs.
        decoder: gene decoder, only for embedding input.
    """

    input_dim: int
    output_dim: int
    perturbation_dim: int
    backbone: BackboneConfig
    output_space: OutputSpace
    set_size: int
    batch_dim: int = 0
    encoder_layers: int = 4
    decoder_layers: int = 4
    basal_mlp: bool = True
    predict_residual: bool = True
    final_relu: bool = True
    batch_encoder: bool = False
    batch_token: bool = False
    confidence_token: bool = False
    mask_attention: bool = False
    dropout: float = 0.1
    activation: Activation = "gelu"
    decoder: DecoderConfig | None = None

    @property
    def has_bottleneck(self) -> bool:
        """All genes of a prediction pass a narrow layer together, so that each depends on each."""
        return self.output_space == "genes" and self.predict_residual

    def __post_init__(self) -> None:
        _check_positive(
            "network",
            input_dim=self.input_dim,
            output_dim=self.output_dim,
            perturbation_dim=self.perturbation_dim,
            set_size=self.set_size,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
        )
        if self.set_size > MOST_SET:
            raise ConfigError(f"The cell set of a network has {self.set_size:,} cells.", f"Up to {MOST_SET:,} are seen together.")


def _check_positive(part: str, **sizes: int) -> None:
    wrong = [f"{name} is {size}" for name, size in sizes.items() if size < 1]
    if wrong:
        raise ConfigError(f"A {part} has sizes that make none: {', '.join(wrong)}.", "They must be positive.")
