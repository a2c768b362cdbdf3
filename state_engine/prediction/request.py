"""What a prediction is asked for, whether it can be done, and what it will cost. No torch: pages import this.

Notation: c contexts, p perturbations, n cells per perturbation and context, s cells in a set.
"""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, Dataset
from state_engine.device import DeviceName, Precision
from state_engine.effects.table import BASELINES, Baseline
from state_engine.errors import ConfigError, LabelError, UnknownLabelError, listed
from state_engine.models.config import AttentionMode, TransitionConfig

# multiply-adds a second that matrix products of a State Transition model reach, a CPU core or one GPU; for estimates only
_RATE = {
    ("cpu", "fp32"): 7.5e10,
    ("cpu", "bf16"): 2.5e11,
    ("cuda", "fp32"): 2e13,
    ("cuda", "bf16"): 1.5e14,
    ("mps", "fp32"): 2e12,
}


Method = Literal["model"] | Baseline
METHODS: tuple[Method, ...] = ("model", *BASELINES)


@dataclass(frozen=True)
class PredictionRequest:
    """A prediction, complete: together with the files it names it determines the result.

    Args:
        data: path of the .h5ad.
        model: path of the model folder (our store, or an arc-state run directory).
        perturbations: labels to predict, as the model knows them; the control is always predicted beside.
        contexts: contexts whose control cells are perturbed; empty for all that have control cells.
        cells: cells per perturbation and context (n).
        seed: of the draw of basal cells.
        choices: what the user said about the data set.
        set_size: cells in a set; None for the model's own.
        device, precision: where and how to compute.
        attention: None for the model's own mode.
        allow_unknown: labels the model does not know fall back to the control's vector or the first batch, and rows are marked.
        unknown_effect: what stands in for labels that the model does not know: nothing but its control ("control"), or the mean
            effect of the labels of this request that it knows ("mean").
        keep_raw: keep the raw prediction beside the corrected one.
        observed: most measured cells kept per condition for comparison.
        allow_other_embedding: the embedding may be of another model than the one this model was trained on.
        method: what predicts: the model, or one of the baselines it is compared with, made of the effects saved with the model.
    """

    data: str
    model: str
    perturbations: tuple[str, ...]
    contexts: tuple[str, ...] = ()
    cells: int = 256
    seed: int = 42
    choices: Choices = Choices()
    set_size: int | None = None
    device: DeviceName = "auto"
    precision: Precision = "fp32"
    attention: AttentionMode | None = None
    allow_unknown: bool = False
    unknown_effect: Literal["control", "mean"] = "control"
    keep_raw: bool = True
    observed: int = 512
    allow_other_embedding: bool = False
    method: Method = "model"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method is {self.method!r}.", f"Known: {', '.join(METHODS)}.")
        for name, value, least in (("cells", self.cells, 1), ("set_size", self.set_size or 1, 1), ("observed", self.observed, 0)):
            if value < least:
                raise ConfigError(f"{name} is {value}.", f"It must be at least {least}.")
        repeated = sorted({p for p in self.perturbations if self.perturbations.count(p) > 1})
        if repeated:
            raise ConfigError(f"Perturbations are named twice: {listed(repeated)}.", fix="Name each once.")


@dataclass(frozen=True)
class Estimate:
    """What a prediction will cost. Conditions are perturbation x context; sizes in bytes; seconds are a rough guide."""

    conditions: int
    cells: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    device: Literal["cpu", "cuda", "mps"]


def contexts_of(request: PredictionRequest, dataset: Dataset) -> tuple[str, ...]:
    """The contexts of a request, sorted; all with control cells when it names none.

    Raises:
        UnknownLabelError: a context that the data set does not have.
        LabelError: a context without control cells, or no context with any.
    """
    table = dataset.table()
    known = tuple(str(c) for c in table.columns)
    unknown = [c for c in request.contexts if c not in known]
    if unknown:
        raise UnknownLabelError(
            f"The data set has no context {listed(unknown)}.", f"It has: {listed(known, 12)}.", "Choose among these."
        )
    with_control = tuple(c for c in known if len(dataset.control_rows(c)))
    lacking = [c for c in request.contexts if c not in with_control]
    if lacking or not with_control:
        raise LabelError(
            f"There are no control cells in {listed(lacking or list(known))}.",
            f"A prediction starts from cells labelled '{dataset.labels.control}' of the same context.",
            "Leave these contexts out, or correct the control label on the Data page.",
        )
    return tuple(c for c in sorted(with_control) if not request.contexts or c in request.contexts)


def check_perturbations(request: PredictionRequest, card: ModelCard) -> None:
    """Refuses perturbations that the model does not know.

    Raises:
        UnknownLabelError: names them; not with `allow_unknown`.
    """
    unknown = [p for p in request.perturbations if p not in card.perturbations]
    if unknown and not request.allow_unknown:
        raise UnknownLabelError(
            f"The model does not know {len(unknown):,} of {len(request.perturbations):,} perturbations: {listed(unknown)}.",
            f"It was trained on {len(card.perturbations):,} labels.",
            "Choose labels from the model's list.",
        )
    if not [p for p in request.perturbations if p != card.control]:
        raise ConfigError("No perturbation was chosen.", "The control alone is not a prediction.", "Choose at least one.")


def parameters(config: TransitionConfig) -> int:
    """Weights a cell passes through, counted from the configuration (norms, biases and tokens left out)."""
    d, o = config.backbone.hidden, config.output_dim
    heads = (2 * config.backbone.heads + 2 * config.backbone.kv_heads) * config.backbone.head_dim
    feed = (3 if config.backbone.kind == "llama" else 2) * config.backbone.intermediate
    encoder = config.input_dim * d + (d * d * (config.encoder_layers - 1) if config.basal_mlp else 0)
    out = d * d * (config.decoder_layers - 1) + d * o
    if config.output_space == "genes":
        out += o * o // 4
    if config.decoder is not None:
        widths = (config.decoder.latent, *config.decoder.hidden, config.decoder.genes)
        out += sum(a * b for a, b in pairwise(widths))
    return encoder + config.backbone.layers * d * (heads + feed) + out


def estimate(
    request: PredictionRequest, dataset: Dataset, card: ModelCard, device: Literal["cpu", "cuda", "mps"] = "cpu"
) -> Estimate:
    """Time and memory of a prediction, before it runs.

    Args:
        request: what is asked.
        dataset: where the basal cells come from.
        card: the model.
        device: where it will run.
    """
    contexts = contexts_of(request, dataset)
    size = request.set_size or card.set_size
    labels = len(request.perturbations)
    sets = math.ceil(request.cells / size) * len(contexts)
    computed = sets * size * (labels + 1) if request.method == "model" else 0
    cells = request.cells * len(contexts) * labels
    rate = _RATE.get((device, request.precision), 1e12) * ((os.cpu_count() or 1) if device == "cpu" else 1)
    seconds = 2.0 * computed * parameters(card.config) / rate / 2 + 1e-9 * computed * card.config.output_dim * 4
    width = card.config.output_dim if card.config.decoder is None else card.config.decoder.genes + card.config.output_dim
    rows = cells + request.cells * len(contexts) + request.observed * len(contexts) * (labels + 1)
    weights = parameters(card.config) * (2 if request.precision == "bf16" else 4)
    return Estimate(
        conditions=labels * len(contexts),
        cells=cells,
        seconds=seconds,
        memory_bytes=weights + 600_000_000,
        disk_bytes=rows * width * 4 * _layers(request, card),
        device=device,
    )


def _layers(request: PredictionRequest, card: ModelCard) -> int:
    """Matrices of the result, each as large as the corrected one."""
    return 1 if request.method != "model" else 1 + request.keep_raw + (card.calibration is not None)


def command_of(request: PredictionRequest, output: str = "prediction.h5ad") -> str:
    """The command line that makes the same result again."""
    words = ["python", "-m", "state_engine", "predict", "--model", request.model, "--data", request.data, "--output", output]
    for option, values in (("--perturbation", request.perturbations), ("--context", request.contexts)):
        for value in values:
            words += [option, value]
    choices = request.choices
    named = {
        "--cells": request.cells,
        "--seed": request.seed,
        "--perturbation-key": choices.perturbation_key,
        "--control": choices.control,
        "--context-key": choices.context_key,
        "--batch-key": choices.batch_key,
        "--scale": choices.scale,
        "--gene-column": choices.gene_column,
        "--set-size": request.set_size,
        "--device": request.device,
        "--precision": request.precision,
        "--attention": request.attention,
        "--observed": request.observed,
    }
    for option, given in named.items():
        if given is not None:
            words += [option, str(given)]
    words += ["--allow-unknown"] if request.allow_unknown else []
    words += ["--unknown-effect", "mean"] if request.unknown_effect == "mean" else []
    words += ["--allow-other-embedding"] if request.allow_other_embedding else []
    words += [] if request.keep_raw else ["--no-raw"]
    words += [] if request.method == "model" else ["--method", request.method]
    return shlex.join(words)
