"""What to train, and how: every choice of a training as one frozen value of five parts. No torch here: pages make and show it.

A preset (`state_engine.train.presets`) is a set of values for some fields; `resolve` overrides them one by one. Help, bounds and choices
stand beside each field (`state_engine.options`); the command line and the form of the Train page come from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from state_engine.device import DeviceName, Precision
from state_engine.errors import ConfigError
from state_engine.models.config import Activation, BackboneKind, LossName, OutputSpace
from state_engine.options import SET, check, near, option, part, setting
from state_engine.plain import from_plain, to_plain
from state_engine.train.presets import PRESETS

if TYPE_CHECKING:
    from state_engine.data.splits.apply import Split

ControlMapping = Literal["random", "batch"]
Schedule = Literal["constant", "cosine"]
Balance = Literal["cells", "contexts"]
EqualiseDepth = Literal["auto", "off"]

# Steps of the first trained perturbation, of each further one, and at most. One perturbation is learnt in some hundred steps (with more, a
# small data set is known by heart); each further one takes steps of its own, as a step holds a few cell sets only. Measured on the data
# sets of benchmarks/RESULTS.md.
FIRST_STEPS, FURTHER_STEPS, MOST_STEPS = 300, 200, 6000


TUNED = "lora, last-N or full"  # what of a model can be trained on when it is adapted
_LAST = re.compile(r"last-([1-9][0-9]{0,2})")


@dataclass(frozen=True)
class Network:
    """What the model reads and how it is built. Widths that are None follow from others."""

    embedding: str | None = option(
        None, "obsm matrix to read; default: expression of the genes that vary most. X_hvg holds expression of chosen genes, any other "
        "key an embedding", flag="--embedding-key", metavar="K",
    )  # fmt: skip
    genes: tuple[str, ...] = option((), "names of the genes to read, in order; empty: the most variable ones (hvgs)", commas=True)
    hvgs: int = option(2000, "how many genes to read, the most variable ones; 0 for every gene of the data set", least=0)
    output_space: OutputSpace | None = option(
        None, "space of the prediction: hvg, genes (the residual passes a bottleneck) or embedding; none: hvg, or embedding when the "
        "model reads one", none="none",
    )  # fmt: skip
    features: str = option("", "vectors of the perturbations (.pt, .csv); default: one-hot", flag="--features", metavar="F")
    gene_decoder: bool = option(False, "train a decoder from the embedding to expression of the genes")
    decoder_hidden: tuple[int, ...] = option((1024, 1024, 512), "widths within the gene decoder", commas=True, above=0)
    decoder_dropout: float = option(0.1, "dropout of the gene decoder", least=0, below=1)
    decoder_residual: bool = option(False, "blocks of the gene decoder are paired by residual connections")
    backbone: BackboneKind = option("llama", "kind of the transformer")
    hidden: int = option(128, "width of the transformer", label="Width", above=0, offered=8192)
    layers: int = option(4, "layers of the transformer", above=0, offered=96)
    heads: int = option(4, "attention heads of the transformer", above=0)
    kv_heads: int | None = option(None, "heads of keys and values; none: as many as heads", above=0)
    head_dim: int | None = option(None, "width of a head; none: hidden / heads", above=0)
    intermediate: int | None = option(None, "width within the feed-forward part; none: 4 x hidden", above=0)
    encoder_layers: int = option(2, "linear layers of each encoder", above=0)
    decoder_layers: int = option(2, "linear layers of the projection to the output", above=0)
    predict_residual: bool = option(True, "the network predicts the difference from the encoded basal cells")
    basal_mlp: bool = option(True, "the basal cells are encoded by an MLP, else by one linear layer")
    batch_encoder: bool = option(False, "a vector for each batch is added to its cells")
    batch_token: bool = option(False, "a token from which the batch of the set is learnt")
    confidence_token: bool = option(False, "a token from which the model's own loss is learnt")
    mask_attention: bool = option(False, "each cell attends to itself only")
    dropout: float = option(0.0, "dropout of the MLPs and the transformer", least=0, below=1)
    activation: Activation = option("gelu", "activation of the MLPs")

    def __post_init__(self) -> None:
        check(self)
        if self.head_dim is None and (self.hidden % self.heads or self.hidden < 8):
            raise ConfigError(
                f"A hidden width of {self.hidden} cannot be shared by {self.heads} heads.", "It must divide evenly."
            )
        if self.batch_encoder and self.batch_token:
            raise ConfigError("A model has a batch encoder or a batch token, not both.", fix="Turn one of them off.")
        if self.gene_decoder and self.reads_genes:
            raise ConfigError(
                "A gene decoder needs an embedding to decode.", "This model reads expression.", "Set gene_decoder=false."
            )
        self._check_output_space()

    def _check_output_space(self) -> None:
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


@dataclass(frozen=True)
class Loss:
    """What a step minimises: the distance between predicted and observed cells of a set, and the terms added to it."""

    loss: LossName = option("energy", "distance between predicted and observed cells of a set")
    blur: float = option(0.05, "blur of the Sinkhorn divergence, in units of the features", above=0)
    energy_weight: float = option(1.0, "weight of the energy distance in the combined distance", least=0)
    sinkhorn_weight: float = option(0.01, "weight of the Sinkhorn divergence in the combined distance", least=0)
    loss_chunks: int = option(
        1, "the distance is the mean over this many parts of the features; 1: all features together", above=0
    )
    shuffle_chunks: bool = option(False, "the features of each part are drawn again in every step")
    effect_weight: float = option(
        0.0, "weight of the squared error between mean predicted and mean observed cell of a set, mean over the features", least=0
    )
    l1: float = option(0.0, "weight of the mean absolute difference between predicted and basal cells", least=0)
    decoder_weight: float = option(1.0, "weight of the distance of the decoded genes", least=0)
    decoder_detach: bool = option(False, "the loss of the gene decoder does not reach the network below it")
    confidence_weight: float = option(0.01, "weight of the squared error of the confidence", least=0)
    confidence_scale: float = option(10.0, "the confidence learns this times the distance of a set", above=0)
    batch_token_weight: float = option(0.1, "weight of the cross entropy of the batch that is read from the batch token", least=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Optimiser:
    """How long and in what way the weights change, and which of them."""

    steps: int = option(
        1500, "optimiser steps; more perturbations need more; 0 for a number that suits how many perturbations are trained",
        flag="--max-steps", label="Steps", metavar="N", least=0, offered=10_000_000,
    )  # fmt: skip
    learning_rate: float = option(1e-3, "learning rate of Adam (AdamW with weight decay)", above=0)
    weight_decay: float = option(0.0, "weight decay", least=0)
    schedule: Schedule = option("cosine", "the learning rate stays constant, or falls as a cosine to 0 at the last step")
    warmup: int = option(0, "steps over which the learning rate rises from 0", least=0)
    gradient_clip: float = option(10.0, "largest norm of the gradient; 0 for none", least=0)
    ema: float = option(0.0, "decay of a running mean of the weights, which then is the model; 0 for none", least=0, below=1)
    freeze: tuple[str, ...] = option(
        (), "parts of the network that are not trained: the first letters of the names of their weights", commas=True
    )
    lora_rank: int = option(
        0, "rank of adapters that are trained in place of the attention of the transformer; 0 for none", least=0
    )
    lora_alpha: float = option(32.0, "scale of the adapters, divided by their rank", least=0)
    lora_dropout: float = option(0.0, "dropout of the adapters", least=0, below=1)
    lora_feed: bool = option(False, "the feed-forward parts get adapters too")
    tune: str = option(
        "", f"what changes of a model that is adapted: {TUNED}; lora: adapters in every layer; last-N: its last N layers and the output. "
        "Vectors of labels that are new to the model are trained in each case; default with --adapt: lora",
        flag="--tune", label="What is trained", metavar="WHAT",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if self.tune not in ("", "lora", "full") and not self.last_layers:
            raise ConfigError(f"'{self.tune}' is nothing to train.", f"Known: {TUNED}.", "Say --tune lora, for one.")
        if self.tune == "lora" and not self.lora_rank:
            raise ConfigError("Adapters need a rank.", "lora_rank is 0.", "Set lora_rank=8, for one.")
        if self.tune not in ("", "full") and self.weight_decay:
            raise ConfigError(
                "Weight decay would move the weights that are to stay.", f"--tune is {self.tune}.", "Set weight_decay=0."
            )

    @property
    def last_layers(self) -> int:
        """N of `last-N`; 0 for anything else."""
        found = _LAST.fullmatch(self.tune)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Sets:
    """Which cells a step sees: cell sets, their controls, and what is done to them."""

    set_size: int = option(32, "cells that the model sees together, in a cell set", label="Cells in a set", above=0, offered=4096)
    sets_per_step: int = option(
        8, "cell sets in a mini-batch, over all devices", label="Sets per step", above=0, offered=4096, old=("sets_a_step",)
    )
    fill: bool = option(
        False, "a group smaller than a set repeats some of its cells until the set is full, as arc-state does; else the set is smaller, "
        "and no cell is computed twice",
    )  # fmt: skip
    control_mapping: ControlMapping = option(
        "random", "basal cells are controls of the same context: any of them (random), or, with the cells of a set all of one batch, those "
        "of that batch (any, where it has none)",
    )  # fmt: skip
    train_control: bool = option(True, "the control label is trained too, so that a prediction can be paired")
    paired: bool = option(
        False, "sets come in pairs with the same basal cells, one trained towards a perturbation and one towards the control; the control "
        "is then trained in no other sets",
    )  # fmt: skip
    balance: Balance = option("cells", "how often a set is of a context: by its cells, or all contexts alike")
    mix: float = option(
        0.0, "share of the sets (or pairs) that are mixed cell by cell with cells of the same perturbation in another context, in a "
        "proportion drawn for each; 0 for none", least=0, most=1,
    )  # fmt: skip
    equalise_depth: EqualiseDepth = option(
        "auto", "counts of a context whose control and perturbed cells were read at depths over 1.5-fold apart are thinned to the shallower "
        "ones (auto), or left as they are (off)", flag="--equalise-depth", label="Equalise depth",
    )  # fmt: skip
    gene_dropout: float = option(
        0.0, "share of the features of a basal cell that is set to 0 in training; 0 for none", least=0, below=1
    )
    basal_noise: float = option(
        0.0, "standard deviation of noise added to basal cells in training, in units of the features", least=0
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Run:
    """How the training is named, computed, watched and finished."""

    name: str = option("State Transition", "name of the model, for people", label="Name of the model")
    preset: str = option(
        "", "values for all settings; default: default; '' for the plain defaults", choices=("", *PRESETS), flag="--preset",
        metavar="P",
    )  # fmt: skip
    seed: int = option(
        42,
        "of weights, dropout and the order of the data; mini-batch k depends on the seed and k only",
        least=0,
        offered=2**31 - 1,
    )
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one", flag="--device")
    precision: Precision = option("fp32", "precision of the arithmetic; bf16 is faster", flag="--precision")
    devices: int = option(1, "devices of each node", above=0)
    nodes: int = option(1, "nodes", above=0)
    compile: bool = option(False, "let torch compile the network (minutes before the first step)")
    cache_gb: float = option(4.0, "features beyond this many GB are read from a file beside the run instead of memory", least=0)
    validate_every: int = option(250, "steps between two validations; 0 for at the end only", least=0)
    checkpoint_every: int = option(500, "steps between two checkpoints; 0 for at the end only", least=0)
    validation_sets: int = option(64, "largest number of sets that the validation loss is measured on", above=0)
    calibrate: bool = option(True, "fit the calibration on validation cells at the end")
    cross_fit: bool = option(
        False,
        "where there are no validation cells, fit the calibration on contexts that further, shorter trainings leave out in turn",
    )
    compare: bool = option(
        True, "where a model is adapted and cells are held out for testing: one more is trained from scratch for as many steps, and both are "
        "tested beside the model as it was and the baselines", flag="--no-compare", label="Compare with a training from scratch",
    )  # fmt: skip
    licence: str = option("unknown", "licence of the model, noted on its card")
    data_name: str = option("", "name of the data, noted on the card of the model")
    simulated: bool = option(False, "the data are simulated, noted on the card of the model")

    def __post_init__(self) -> None:
        check(self)

    @property
    def all_devices(self) -> int:
        """Devices of all nodes."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class TrainRequest:
    """A training.

    A setting may be named by its path ("optimiser.steps") or by its own name ("steps"): `resolve`, `with_settings` and `--set`
    take both.
    """

    network: Network = part(Network(), flag=SET)
    loss: Loss = part(Loss(), flag=SET)
    optimiser: Optimiser = part(Optimiser(), flag=SET)
    sets: Sets = part(Sets(), flag=SET)
    run: Run = part(Run(), flag=SET, always=("preset",))

    def __post_init__(self) -> None:
        sets, devices = self.sets.sets_per_step, self.run.all_devices
        if self.network.batch_token and self.sets.control_mapping != "batch":
            raise ConfigError(
                "A batch token needs sets of one batch.", "Controls are mapped at random.", "Set control_mapping=batch."
            )
        if sets % devices:
            raise ConfigError(
                f"{sets} sets per step cannot be shared by {devices} devices.",
                "Each takes the same number of sets.",
                "Make sets_per_step a multiple of devices x nodes.",
            )
        if self.run.compile and not self.sets.fill:
            raise ConfigError("A compiled network needs sets of one size.", "Small groups give small sets.", "Set fill=true.")
        if self.sets.paired and (sets // devices) % 2:
            raise ConfigError("Sets come in pairs.", f"sets_per_step is {sets}.", "Make it even for each device.")
        if self.sets.mix and self.network.batch_token:
            raise ConfigError("Mixed sets have no one batch for a batch token.", fix="Set mix=0 or batch_token=false.")

    def with_settings(self, settings: Mapping[str, object] | None = None, /, **more: object) -> TrainRequest:
        """Return the request with some settings changed: path or name -> value.

        Raises:
            ConfigError: a setting that is not known (near names are told) or a value that it does not admit.
        """
        plain = to_plain(self)
        for name, values in TrainRequest.upgrade({**(settings or {}), **more}).items():
            plain[name] |= values
        return from_plain(TrainRequest, plain)

    @classmethod
    def upgrade(cls, plain: Mapping[str, object]) -> dict[str, dict[str, object]]:
        """Return settings by part: those named by path or name, as in requests of before there were parts, go to theirs.

        Raises:
            ConfigError: a setting that is not known.
        """
        parts = {f.name for f in fields(cls)}
        found: dict[str, dict[str, object]] = {
            name: dict(value) for name, value in plain.items() if name in parts and isinstance(value, dict)
        }
        for name in [n for n in plain if n not in found]:
            where, _, field = setting(cls, name).path.partition(".")
            found.setdefault(where, {})[field] = plain[name]
        return found


def resolve(preset: str, overrides: Mapping[str, object] | None = None) -> TrainRequest:
    """Return the request of a preset with some settings overridden.

    Args:
        preset: a name of `state_engine.train.presets.PRESETS`; "" for the plain defaults.
        overrides: path or name of a setting -> value.

    Raises:
        ConfigError: no such preset; a setting that is not known (near names are told) or a value that it does not admit.
    """
    if preset and preset not in PRESETS:
        raise ConfigError(f"There is no preset '{preset}'.", near(preset, PRESETS), f"Choose one of: {', '.join(PRESETS)}.")
    values = PRESETS[preset] if preset else {}
    return TrainRequest().with_settings({**values, "preset": preset, **(overrides or {})})


def suggested_steps(perturbations: int) -> int:
    """Return the optimiser steps that suit this many trained perturbations, the control not counted."""
    return min(MOST_STEPS, FIRST_STEPS + FURTHER_STEPS * max(0, perturbations - 1))


def with_steps(request: TrainRequest, split: Split) -> TrainRequest:
    """Return the request with its number of steps: its own, or (where that is 0) as suits the perturbations that the split trains."""
    if request.optimiser.steps:
        return request
    table = split.table()
    trained = table[(table["train"] > 0) & (table["perturbation"] != split.control)]
    return request.with_settings(steps=suggested_steps(trained["perturbation"].nunique()))
