"""What a prediction is asked for, whether it can be done, and what it will cost. No torch: pages import this.

Notation: c contexts, p perturbations, n cells per perturbation and context, s cells in a set.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, get_args

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.scale import Scale
from state_engine.device import DeviceName, Precision
from state_engine.effects.table import BASELINES, Baseline
from state_engine.errors import ConfigError, LabelError, UnknownLabelError, listed, may_be, near_each
from state_engine.models.config import MOST_SET, AttentionMode, TransitionConfig
from state_engine.options import about, check, join_commas, option, part, split_commas

# multiply-adds a second that matrix products of a State Transition model reach, a CPU core or one GPU; for estimates only
_RATE = {
    ("cpu", "fp32"): 7.5e10,
    ("cpu", "bf16"): 2.5e11,
    ("cuda", "fp32"): 2e13,
    ("cuda", "bf16"): 1.5e14,
    ("mps", "fp32"): 2e12,
}


Method = Literal["model", "paired"] | Baseline
METHODS: tuple[Method, ...] = ("model", "paired", *BASELINES)
UnknownEffect = Literal["control", "mean", "transfer"]

MOST_CELLS = 10_000_000  # of a perturbation in a context; a result with 2,000 genes would have 80 GB


@dataclass(frozen=True)
class CellCount:
    """How many cells of one perturbation are predicted in each context."""

    perturbation: str
    cells: int

    def __post_init__(self) -> None:
        if self.cells > MOST_CELLS:
            raise ConfigError(
                f"{self.cells:,} cells of {self.perturbation} are asked for.", "", f"Ask for {MOST_CELLS:,} at most."
            )
        if self.cells < 1:
            raise ConfigError(
                f"{self.cells:,} cells of {self.perturbation} are asked for.", "", "Ask for 1 or more, or leave it out."
            )


@dataclass(frozen=True)
class MeasuredScreen:
    """A data set whose measured effects are transferred; what is "" or 0 is found by itself, as when a data set is opened.

    Args:
        data: the file.
        perturbation_key, context_key: obs columns.
        control: label of the control cells; several as a,b,c.
        expression, gene_column, scale, depth: see `Choices`.
        name: for people; default: that of the file.
    """

    data: str
    perturbation_key: str = ""
    context_key: str = ""
    control: str = ""
    expression: str = ""
    gene_column: str = ""
    scale: str = ""
    depth: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if self.scale not in ("", *get_args(Scale)):
            raise ConfigError(f"The scale of a measured screen is '{self.scale}'.", fix=f"Known: {', '.join(get_args(Scale))}.")

    @classmethod
    def of(cls, data: str, choices: Choices, name: str = "") -> MeasuredScreen:
        """Return a data set of the library, opened with its user's choices, as a screen."""
        return cls(
            data, choices.perturbation_key or "", choices.context_key or "", join_commas(choices.controls) if choices.controls else "",
            choices.expression or "", choices.gene_column or "", choices.scale or "", choices.depth or 0.0, name,
        )  # fmt: skip

    @property
    def title(self) -> str:
        """For people."""
        return self.name or Path(self.data).name

    def choices(self) -> Choices:
        """Return how the file is opened."""
        scale = next((known for known in get_args(Scale) if known == self.scale), None)
        return Choices(
            self.perturbation_key or None, split_commas(self.control) or None, self.context_key or None, scale=scale,
            gene_column=self.gene_column or None, expression=self.expression or None, depth=self.depth or None,
        )  # fmt: skip


@dataclass(frozen=True)
class PredictionRequest:
    """A prediction, complete: together with the files it names it determines the result."""

    VERB: ClassVar = "predict"
    data: str = field(metadata=about("data set (.h5ad, or what is converted to it)", metavar="X.h5ad", data=True))
    model: str = field(metadata=about("model folder, ours or an arc-state run directory", metavar="DIR"))
    perturbations: tuple[str, ...] = field(
        metadata=about(
            "label to predict, as the model knows it; the control is predicted too", flag="--perturbation", metavar="NAME"
        )
    )
    contexts: tuple[str, ...] = option(
        (), "context whose control cells are perturbed; default: all with control cells", flag="--context", metavar="NAME",
        label="Contexts (cell types or lines) to start from",
    )  # fmt: skip
    cells: int = option(
        256,
        "cells per perturbation and context",
        label="Cells per perturbation and context",
        metavar="N",
        least=1,
        offered=100_000,
    )
    seed: int = option(42, "the same seed draws the same control cells", metavar="S", least=0, offered=2**31 - 1)
    choices: Choices = part(Choices())
    set_size: int | None = option(
        None, "cells that the model sees together; default: as many as in training", label="Cells in a set", metavar="N", least=1,
        most=MOST_SET, offered=4096,
    )  # fmt: skip
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")
    attention: AttentionMode | None = option(None, "which cells of a set see which; default: the model's")
    allow_unknown: bool = option(
        False, "labels that the model does not know fall back to the control and the first batch; rows are marked",
        label="Allow batches the model does not know",
    )  # fmt: skip
    unknown_effect: UnknownEffect = option(
        "control",
        "with --allow-unknown: unknown perturbations get the control's effect, the mean effect of the known ones, or the transfer of "
        "their effects in measured screens (--measured)",
    )
    keep_raw: bool = option(
        True, "leave the uncorrected prediction out of the file", flag="--no-raw", label="Keep the uncorrected prediction too"
    )
    observed: int = option(
        512, "most measured cells kept per condition, to compare with", metavar="N", least=0, offered=100_000,
        label="Measured cells to keep per condition",
    )  # fmt: skip
    allow_other_embedding: bool = option(
        False, "read embeddings of another model than the one this model was trained on; the result is marked so",
        label="Predict from the embedding of another model all the same",
    )  # fmt: skip
    method: Method = option(
        "model",
        "model: what its card recommends; paired: the network's own effect alone; else a baseline, from the effects saved with the model",
        label="Predicted by",
    )
    cells_of: tuple[CellCount, ...] = option((), "cells of this perturbation in each context, in place of --cells")
    least_cells: int | None = option(
        None, "fewest cells of a perturbation in each context", label="Fewest cells of a perturbation", metavar="N", least=1,
        offered=100_000,
    )  # fmt: skip
    most_cells: int | None = option(
        None, "most cells of a perturbation in each context", label="Most cells of a perturbation", metavar="N", least=1,
        offered=100_000,
    )  # fmt: skip
    measured: tuple[MeasuredScreen, ...] = option(
        (), "with --unknown-effect transfer: data set that measured perturbations which the model does not know, with its columns of "
        "perturbation and context and its control label where they are not found, and expression, gene column, scale and depth",
        data=True,
    )  # fmt: skip
    compile: bool = option(
        False, "on a GPU, let torch compile the network first: a minute that pays where passes are many; the last bits may differ",
        label="Compile the network for the GPU",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if (self.unknown_effect == "transfer") != bool(self.measured):
            raise ConfigError(
                "Effects are transferred from measured screens."
                if not self.measured
                else "Measured screens are named, but not used.",
                f"unknown_effect is '{self.unknown_effect}', with {len(self.measured)} screens.",
                "Give --unknown-effect transfer together with --measured FILE.",
            )
        repeated = sorted({p for p in self.perturbations if self.perturbations.count(p) > 1})
        if repeated:
            raise ConfigError(f"Perturbations are named twice: {listed(repeated)}.", fix="Name each once.")
        self._check_cells()

    @property
    def by_network(self) -> bool:
        """Whether the network predicts, not a baseline in its place."""
        return self.method in ("model", "paired")

    def _check_cells(self) -> None:
        counted = [count.perturbation for count in self.cells_of]
        if len(counted) > len({*counted}):
            twice = listed(sorted({p for p in counted if counted.count(p) > 1}))
            raise ConfigError(f"Cells are counted twice for {twice}.", fix="Count each perturbation once.")
        if (most := max(self.cells, self.least_cells or 0, self.most_cells or 0)) > MOST_CELLS:
            raise ConfigError(
                f"{most:,} cells of a perturbation are asked for.",
                "",
                f"A context's cells of one must be at most {MOST_CELLS:,}.",
            )
        if others := [p for p in counted if p not in self.perturbations]:
            raise ConfigError(
                f"Cells are counted for perturbations that are not predicted: {listed(others)}.", fix="Choose these too."
            )
        if self.least_cells is not None and self.most_cells is not None and self.least_cells > self.most_cells:
            raise ConfigError(
                f"The fewest cells of a perturbation, {self.least_cells:,}, are more than the most, {self.most_cells:,}."
            )

    def count(self, perturbation: str) -> int:
        """Return how many cells of a perturbation are predicted in each context."""
        cells = next((c.cells for c in self.cells_of if c.perturbation == perturbation), self.cells)
        least, most = self.least_cells or 1, self.most_cells or math.inf
        return int(min(max(cells, least), most))

    def most(self, control: str) -> int:
        """Return the cells of the perturbation with most of them: so many basal cells are drawn, the first of which serve the others."""
        return max((self.count(p) for p in self.perturbations if p != control), default=self.count(control))


@dataclass(frozen=True)
class ReplayRequest:
    """A replay of a whole data set as `state tx infer` computes it (`state_engine.prediction.replay`)."""

    VERB: ClassVar = "predict --replay"
    data: str = field(metadata=about("data set (.h5ad, or what is converted to it)", metavar="X.h5ad", data=True))
    model: str = field(metadata=about("model folder, ours or an arc-state run directory", metavar="DIR"))
    choices: Choices = part(Choices())
    seed: int = option(42, "the same seed draws the same control cells", metavar="S", least=0)
    set_size: int | None = option(
        None, "cells that the model sees together; default: as many as in training", metavar="N", least=1, most=MOST_SET
    )
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")
    attention: AttentionMode | None = option(None, "which cells of a set see which; default: the model's")
    embedding_key: str | None = option(
        None, "representation to read in a replay (X or an obsm key); default: the one that the model names", metavar="K"
    )
    allow_unknown: bool = option(False, "labels that the model does not know fall back to the control and the first batch")

    def __post_init__(self) -> None:
        check(self)


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
            f"The data set has no context {listed(unknown)}.",
            f"It has: {listed(known, 12)}.",
            may_be(near_each(unknown, known)) or "Choose among these.",
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
            f"It knows {len(card.offered):,} and its control '{card.control}'.",
            f"Choose among {listed(card.perturbations, 12)}.",
        )
    if not [p for p in request.perturbations if p != card.control]:
        raise ConfigError("No perturbation was chosen.", "The control alone is not a prediction.", "Choose at least one, or all.")


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
    labels, most = len(request.perturbations), request.most(card.control)
    counts = [request.count(p) for p in request.perturbations]
    sets = sum(math.ceil(n / size) for n in [*counts, most]) * len(contexts)
    computed = sets * size if request.by_network else 0
    cells = sum(counts) * len(contexts)
    rate = _RATE.get((device, request.precision), 1e12) * ((os.cpu_count() or 1) if device == "cpu" else 1)
    seconds = 2.0 * computed * parameters(card.config) / rate / 2 + 1e-9 * computed * card.config.output_dim * 4
    width = card.config.output_dim if card.config.decoder is None else card.config.decoder.genes + card.config.output_dim
    rows = cells + most * len(contexts) + request.observed * len(contexts) * (labels + 1)
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
    return 1 + request.keep_raw + (card.calibration is not None and request.method == "model") if request.by_network else 1
