"""What to train, and how: every choice of a training as one frozen value. No torch here: pages make and show it.

Fields are resolved: a preset (`state_engine.train.presets`) is a set of values for some of them, overridden one by one.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

from state_engine.device import DeviceName, Precision
from state_engine.errors import ConfigError
from state_engine.models.config import Activation, BackboneKind, LossName, OutputSpace
from state_engine.plain import from_plain

ControlMapping = Literal["random", "batch"]
Schedule = Literal["constant", "cosine"]
Balance = Literal["cells", "contexts"]


@dataclass(frozen=True)
class TrainRequest:
    """A training. Widths of the network that are None follow from others, as said.

    Args:
        name: of the model, for people.
        preset: where the values came from; "" for none. Only noted.
        embedding: obsm matrix to read; None reads expression. "X_hvg" holds expression of chosen genes, any other key an embedding.
        genes: names of the genes to read, in order; empty: the `hvgs` most variable ones. No genes are chosen for an obsm matrix,
            unless a gene decoder needs them as its target.
        hvgs: how many; 0 for every gene of the data set.
        output_space: of the network: hvg, genes (the residual passes a bottleneck), embedding. None: hvg, or embedding when it
            reads one.
        features: file of perturbation vectors (.pt or .csv); "" for one-hot vectors.
        gene_decoder: train a decoder from the embedding to expression of the genes.
        decoder_hidden, decoder_dropout, decoder_residual: its widths between, dropout, paired blocks.
        decoder_weight: of its loss.
        decoder_detach: its loss does not reach the network below it.
        backbone, hidden, layers, heads: the transformer.
        kv_heads: None: `heads`.
        head_dim: None: hidden / heads.
        intermediate: None: 4 x hidden.
        encoder_layers, decoder_layers: linears of the encoders and of the projection out.
        set_size: cells in a set (s).
        predict_residual, basal_mlp, batch_encoder, batch_token, confidence_token, mask_attention: parts, see `TransitionConfig`.
        dropout, activation: of the MLPs.
        loss: between predicted and observed cells of a set.
        blur: of the Sinkhorn divergence, in units of the features.
        energy_weight, sinkhorn_weight: in `combined`.
        loss_chunks: the features are cut into as many parts, whose mean loss counts; 1: all together.
        shuffle_chunks: which features are together is drawn anew every step.
        effect_weight: of the squared error between mean predicted and mean observed cell of a set, mean over the features.
        l1: weight of the mean absolute difference between predicted and basal cells.
        confidence_weight, confidence_scale: the confidence learns scale x loss by squared error of this weight.
        batch_token_weight: of the cross entropy of the batch that is read off the batch token.
        learning_rate, weight_decay: of Adam (AdamW when there is decay).
        schedule: constant, or cosine down to 0 at the last step.
        warmup: steps over which the learning rate rises from 0.
        gradient_clip: largest norm of the gradient; 0 for none.
        ema: decay of a running mean of the weights, which then is the model; 0 for none.
        gene_dropout: part of a basal cell's features that is set to 0 in training; 0 for none.
        basal_noise: standard deviation of noise added to basal cells in training, in units of the features.
        fill: a group smaller than a set gives some of its cells again until the set is full, as the reference's do; else the set is
            smaller, and no cell is computed twice.
        sets_a_step: sets in a mini-batch, over all devices (b).
        steps: optimiser steps; 0 for a number that suits how many perturbations are trained (`state_engine.train.length`).
        control_mapping: basal cells are controls of the same context: any of them (random), or, with the cells of a set all of one
            batch, those of that batch (any, where it has none).
        train_control: the control label is trained too, so that a prediction can be paired.
        paired: sets come in pairs with the same basal cells, one trained towards a perturbation and one towards the control; the
            control is then trained in no other sets.
        balance: how often a set is of a context: by its cells, or all contexts alike.
        mix: part of the sets (or pairs) that are mixed cell by cell with cells of the same perturbation in a context drawn anew, in
            a proportion drawn anew; 0 for none.
        validate_every, checkpoint_every: steps; 0 for at the end only.
        validation_sets: most sets the validation loss is measured on.
        freeze: parts of the network that are not trained: the beginnings of names of its weights.
        lora_rank, lora_alpha, lora_dropout: adapters of the backbone's attention are trained instead of it; rank 0 for none.
        lora_feed: its feed-forward parts get adapters too.
        seed: of weights, dropout and the order of the data. Mini-batch k depends on the seed and k only.
        device, precision, devices, nodes: where it is computed; `devices` a node.
        compile: let torch compile the network (minutes before the first step).
        cache_gb: features beyond this are read from a file beside the run instead of memory.
        calibrate: fit the calibration on validation cells at the end.
        cross_fit: where there are none, fit it on contexts of the training that are left out of further, shorter trainings in turn.
        licence, data_name, simulated: noted on the card.
    """

    name: str = "State Transition"
    preset: str = ""
    embedding: str | None = None
    genes: tuple[str, ...] = ()
    hvgs: int = 2000
    output_space: OutputSpace | None = None
    features: str = ""
    gene_decoder: bool = False
    decoder_hidden: tuple[int, ...] = (1024, 1024, 512)
    decoder_dropout: float = 0.1
    decoder_residual: bool = False
    decoder_weight: float = 1.0
    decoder_detach: bool = False
    backbone: BackboneKind = "llama"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    head_dim: int | None = None
    intermediate: int | None = None
    encoder_layers: int = 2
    decoder_layers: int = 2
    set_size: int = 32
    predict_residual: bool = True
    basal_mlp: bool = True
    batch_encoder: bool = False
    batch_token: bool = False
    confidence_token: bool = False
    mask_attention: bool = False
    dropout: float = 0.0
    activation: Activation = "gelu"
    loss: LossName = "energy"
    blur: float = 0.05
    energy_weight: float = 1.0
    sinkhorn_weight: float = 0.01
    loss_chunks: int = 1
    shuffle_chunks: bool = False
    effect_weight: float = 0.0
    l1: float = 0.0
    confidence_weight: float = 0.01
    confidence_scale: float = 10.0
    batch_token_weight: float = 0.1
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup: int = 0
    weight_decay: float = 0.0
    gradient_clip: float = 10.0
    ema: float = 0.0
    gene_dropout: float = 0.0
    basal_noise: float = 0.0
    fill: bool = False
    sets_a_step: int = 8
    steps: int = 1500
    control_mapping: ControlMapping = "random"
    train_control: bool = True
    paired: bool = False
    balance: Balance = "cells"
    mix: float = 0.0
    validate_every: int = 250
    checkpoint_every: int = 500
    validation_sets: int = 64
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_feed: bool = False
    seed: int = 42
    device: DeviceName = "auto"
    precision: Precision = "fp32"
    devices: int = 1
    nodes: int = 1
    compile: bool = False
    cache_gb: float = 4.0
    calibrate: bool = True
    cross_fit: bool = False
    licence: str = "unknown"
    data_name: str = ""
    simulated: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.head_dim is None and (self.hidden % self.heads or self.hidden < 8):
            raise ConfigError(
                f"A hidden width of {self.hidden} cannot be shared by {self.heads} heads.", "It must divide evenly."
            )
        if self.batch_encoder and self.batch_token:
            raise ConfigError("A model has a batch encoder or a batch token, not both.", fix="Turn one of them off.")
        if self.batch_token and self.control_mapping != "batch":
            raise ConfigError(
                "A batch token needs sets of one batch.", "Controls are mapped at random.", "Set control_mapping=batch."
            )
        if self.sets_a_step % (self.devices * self.nodes):
            raise ConfigError(
                f"{self.sets_a_step} sets a step cannot be shared by {self.devices * self.nodes} devices.",
                "Each takes the same number of sets.",
                "Make sets_a_step a multiple of devices x nodes.",
            )
        if self.compile and not self.fill:
            raise ConfigError("A compiled network needs sets of one size.", "Small groups give small sets.", "Set fill=true.")
        if self.paired and (self.sets_a_step // (self.devices * self.nodes)) % 2:
            raise ConfigError("Sets come in pairs.", f"sets_a_step is {self.sets_a_step}.", "Make it even for each device.")
        if self.mix > 1 or (self.mix and self.batch_token):
            raise ConfigError("mix is a part of the sets, 0 to 1, and mixed sets have no one batch for a batch token.")
        if self.gene_decoder and (self.embedding is None or self.reads_genes):
            raise ConfigError(
                "A gene decoder needs an embedding to decode.", "This model reads expression.", "Set gene_decoder=false."
            )
        if self.output_space == "embedding" and self.reads_genes:
            raise ConfigError("The output space is an embedding, but expression is read.", fix="Say which embedding.")
        if self.output_space in ("hvg", "genes") and not self.reads_genes and not self.gene_decoder:
            raise ConfigError(
                f"The output space is {self.output_space}, but an embedding is read.",
                "Only a gene decoder comes from there to expression.",
                "Set gene_decoder=true, or leave output_space out.",
            )

    @property
    def reads_genes(self) -> bool:
        """The network reads expression, not an embedding."""
        return self.embedding in (None, "X_hvg")


_POSITIVE = (
    "sets_a_step", "set_size", "hidden", "layers", "heads", "encoder_layers", "decoder_layers", "loss_chunks", "devices",
    "nodes", "learning_rate", "validation_sets", "blur", "confidence_scale",
)  # fmt: skip
_NOT_NEGATIVE = (
    "steps", "hvgs", "decoder_weight", "energy_weight", "sinkhorn_weight", "effect_weight", "l1", "confidence_weight", "batch_token_weight",
    "warmup", "weight_decay", "gradient_clip", "basal_noise", "mix", "validate_every", "checkpoint_every", "lora_rank", "lora_alpha",
    "cache_gb", "seed",
)  # fmt: skip
_PARTS = ("dropout", "decoder_dropout", "ema", "gene_dropout", "lora_dropout")


def _check_numbers(request: TrainRequest) -> None:
    odd = [f.name for f in fields(request) if isinstance(v := getattr(request, f.name), float) and not math.isfinite(v)]
    if odd:
        raise ConfigError(f"{', '.join(odd)} must be finite.")
    small = [n for n in _POSITIVE if getattr(request, n) <= 0]
    small += [n for n in ("kv_heads", "head_dim", "intermediate") if (getattr(request, n) or 1) <= 0]
    if small:
        raise ConfigError(f"{', '.join(small)} must be positive.")
    negative = [n for n in _NOT_NEGATIVE if getattr(request, n) < 0]
    if negative:
        raise ConfigError(f"{', '.join(negative)} must not be negative.")
    outside = [n for n in _PARTS if not 0 <= getattr(request, n) < 1]
    if outside:
        raise ConfigError(f"{', '.join(outside)} must be 0 or more and less than 1.")


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> TrainRequest:
    """The request of a preset with some fields overridden.

    Args:
        preset: a name of `state_engine.train.presets.PRESETS`; "" for the plain defaults.
        overrides: field -> value.

    Raises:
        ConfigError: no such preset; a field that is not known (near names are told) or a value it does not admit.
    """
    from state_engine.train.presets import PRESETS

    if preset and preset not in PRESETS:
        raise ConfigError(f"There is no preset '{preset}'.", _near(preset, PRESETS), f"Choose one of: {', '.join(PRESETS)}.")
    given = dict(overrides or {})
    check_names(given)
    return from_plain(TrainRequest, {**(PRESETS[preset] if preset else {}), "preset": preset, **given})


def check_names(names: Iterable[str]) -> None:
    """All are fields of `TrainRequest`.

    Raises:
        ConfigError: some are not; near names are told.
    """
    known = [f.name for f in fields(TrainRequest)]
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no setting '{name}'.", _near(name, known), f"Settings: {', '.join(known)}.")


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` words of the command line as field -> value of its type.

    Text is taken as it is, numbers and true/false as such, `none` where a field may be None, and lists as a,b,c.

    Raises:
        ConfigError: no '=' in it, a field that is not known, or a value that is not of its type.
    """
    hints = typing.get_type_hints(TrainRequest)
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"'{word}' is not a setting.", "It has no '='.", "Write --set key=value.")
        check_names([name])
        values[name] = _value(hints[name], text.strip(), name)
    return values


def _value(hint: Any, text: str, name: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text.lower() in ("none", "null"):
            return None
        return _value(next(a for a in args if a is not type(None)), text, name)
    if origin is tuple:
        words = [w for w in text.strip("[]()").split(",") if w.strip()]
        return tuple(_value(args[0], w.strip(), name) for w in words)
    if origin is Literal:
        if text not in args:
            raise ConfigError(f"{name} is '{text}'.", f"Known: {', '.join(map(str, args))}.", "Choose one of them.")
        return text
    if hint is str:
        return text
    return _number(hint, text, name)


def _number(hint: type, text: str, name: str) -> Any:
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    try:
        value = json.loads(text.lower()) if hint is bool else hint(text)
    except ValueError:
        value = None
    if not isinstance(value, hint):
        raise ConfigError(f"{name} is '{text}'.", f"It must be {words[hint]}.")
    return value


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 3, 0.6)
    return f"Near: {', '.join(close)}." if close else "Nothing is called nearly so."
