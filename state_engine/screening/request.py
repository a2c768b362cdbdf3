"""What a screen is asked for: which perturbations and contexts, how many cells, and by which goal they are ranked. No torch: pages import this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from state_engine.data.dataset import Choices
from state_engine.device import DeviceName, Precision
from state_engine.errors import RequestError, listed
from state_engine.models.config import MOST_SET
from state_engine.options import about, check, option, part
from state_engine.plain import agreed, plural
from state_engine.prediction.request import METHODS, Method, PredictionRequest

Goal = Literal["signature", "explanation", "target cells", "head", "effect size"]
MOST_GENES: Final = 20_000  # of a signature


@dataclass(frozen=True)
class GeneChange:
    """A gene of a measured effect, and its log2 fold change."""

    gene: str
    log2_fold_change: float


@dataclass(frozen=True)
class ScreenRequest:
    """A screen, complete: together with the files it names it determines the result. Without a goal the ranking is by effect size."""

    VERB: ClassVar = "screen"
    data: str = field(metadata=about("data set (.h5ad, or what is converted to it)", metavar="X.h5ad", data=True))
    model: str = field(metadata=about("model folder, ours or an arc-state run directory", metavar="DIR"))
    contexts: tuple[str, ...] = option(
        (), "context whose control cells are perturbed; default: all with control cells", flag="--context", metavar="NAME",
        label="Contexts (cell types or lines)",
    )  # fmt: skip
    perturbations: tuple[str, ...] = option(
        (), "label to screen, as the model knows it; default: all of the model", flag="--perturbation", metavar="NAME",
        label="Perturbations; none means all of the model",
    )  # fmt: skip
    up_genes: tuple[str, ...] = option(
        (), "gene that is to go up", flag="--up-gene", metavar="GENE", label="Genes that are to go up"
    )
    down_genes: tuple[str, ...] = option(
        (), "gene that is to go down", flag="--down-gene", metavar="GENE", label="Genes that are to go down"
    )
    changes: tuple[GeneChange, ...] = option(
        (), "gene of a measured effect and its log2 fold change: which perturbations would explain it?", flag="--change",
        label="Measured effect to explain",
    )  # fmt: skip
    opposite: bool = option(False, "rank by the opposite of the goal's genes: what would undo a measured effect, or a signature",
                            label="Rank what does the opposite")  # fmt: skip
    target_cells: str = option(
        "",
        "cells of the data set to come close to, an obs column and a value of it",
        metavar="COLUMN=VALUE",
        label="Target cells",
    )
    head: str = option("", "folder of a head; ranked by how much more probable its label becomes", metavar="DIR")
    label: str = option("", "label of the head; default: its last one", metavar="LABEL", label="Label of the head")
    backbone: str = option("", "folder of the model whose vectors the head reads; default: where it was, or in the library",
                           label="Model behind the head", metavar="DIR")  # fmt: skip
    combinations: int = option(
        0, "also the sums of each two of the N best perturbations of a context; effects are assumed to add up", metavar="N", least=0,
        most=200, label="Also combine the best",
    )  # fmt: skip
    cells: int = option(
        256,
        "cells per perturbation and context",
        label="Cells per perturbation and context",
        metavar="N",
        least=3,
        offered=10_000,
    )
    sample: int = option(
        64, "of these, cells that are kept for target cells and heads; 0 keeps means alone", metavar="N", least=0, offered=1000,
        label="Cells kept of each",
    )  # fmt: skip
    splits: int = option(
        10_000, "comparisons of control cells with control cells behind p", metavar="N", least=100, most=1_000_000,
        label="Comparisons of controls behind p",
    )  # fmt: skip
    seed: int = option(42, "the same seed draws the same control cells", metavar="S", least=0, offered=2**31 - 1)
    choices: Choices = part(Choices())
    method: Method = option(
        "model",
        "model: what its card recommends; paired: the network's own effect alone; else a baseline, from the effects saved with the model",
        label="Predicted by",
    )
    set_size: int | None = option(
        None, "cells that the model sees together; default: as many as in training", label="Cells in a set", metavar="N", least=1,
        most=MOST_SET, offered=4096,
    )  # fmt: skip
    allow_other_embedding: bool = option(
        False, "read embeddings of another model than the one this model was trained on; the result is marked so",
        label="Predict from the embedding of another model all the same",
    )  # fmt: skip
    earlier: str = option(
        "",
        "folder of an earlier screen whose predictions are ranked again, by another goal",
        metavar="DIR",
        label="Earlier screen",
    )
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")

    def __post_init__(self) -> None:
        check(self, RequestError)
        if self.method not in METHODS:
            raise RequestError(f"There is no method '{self.method}'.", f"Known: {listed(METHODS, 12)}.")
        self._check_goal()
        self._check_genes()
        if self.sample > self.cells:
            raise RequestError(
                f"{plural(self.sample, 'cell')} of each condition {agreed(self.sample, 'is', 'are')} to be kept, "
                f"but {self.cells:,} {agreed(self.cells, 'is', 'are')} predicted.",
                "",
                "Keep as many at most.",
            )

    @property
    def goal(self) -> Goal:
        """What perturbations are ranked by."""
        if self.up_genes or self.down_genes:
            return "signature"
        if self.changes:
            return "explanation"
        return "target cells" if self.target_cells else "head" if self.head else "effect size"

    @property
    def by_network(self) -> bool:
        """The network predicts, not a baseline."""
        return self.method in ("model", "paired")

    @property
    def needs_cells(self) -> bool:
        """The goal is scored on cells, not on mean effects."""
        return self.goal in ("target cells", "head")

    def target(self) -> tuple[str, str]:
        """Return column and value of the target cells."""
        column, _, value = self.target_cells.partition("=")
        return column.strip(), value.strip()

    def prediction(self, perturbations: tuple[str, ...], context: str, cells: int, observed: int = 0) -> PredictionRequest:
        """Return the request of a part of the screen: some perturbations in one context."""
        return PredictionRequest(
            self.data, self.model, perturbations, (context,), cells, self.seed, self.choices, self.set_size, self.device, self.precision,
            keep_raw=False, observed=observed, allow_other_embedding=self.allow_other_embedding, method=self.method,
        )  # fmt: skip

    def _check_goal(self) -> None:
        goals = {
            "a signature": bool(self.up_genes or self.down_genes),
            "a measured effect": bool(self.changes),
            "target cells": bool(self.target_cells),
            "a head": bool(self.head),
        }
        named = [name for name, there in goals.items() if there]
        if len(named) > 1:
            raise RequestError(f"Several goals are named: {listed(named)}.", "A ranking has one.", "Leave all but one out.")
        if self.target_cells and not all(self.target()):
            raise RequestError(
                f"'{self.target_cells}' names no target cells.",
                "It must be COLUMN=VALUE.",
                "Such as --target-cells 'cell_type=NK'.",
            )
        if self.opposite and self.goal not in ("signature", "explanation"):
            raise RequestError("The opposite is of genes alone.", f"The goal is {self.goal}.", "Leave --opposite out.")
        if (self.label or self.backbone) and not self.head:
            raise RequestError("A label or a backbone is named, but no head.", "", "Give --head DIR too.")
        if self.needs_cells and self.sample < 3:
            raise RequestError(
                f"{self.sample} cells of each condition are kept.",
                f"The goal, {self.goal}, is scored on cells.",
                "Keep 3 at least.",
            )

    def _check_genes(self) -> None:
        both = sorted({*self.up_genes} & {*self.down_genes})
        if both:
            raise RequestError(f"Genes are to go up and down: {listed(both)}.", "", "Name each once.")
        named = [*self.up_genes, *self.down_genes] or [c.gene for c in self.changes]
        if len(named) > MOST_GENES:
            raise RequestError(f"{len(named):,} genes are named.", "", f"Name {MOST_GENES:,} at most.")
        twice = sorted({g for g in named if named.count(g) > 1}) if len(set(named)) < len(named) else []
        if twice:
            raise RequestError(f"Genes are named twice: {listed(twice)}.", "", "Name each once.")
        if any(abs(c.log2_fold_change) == float("inf") or c.log2_fold_change != c.log2_fold_change for c in self.changes):
            raise RequestError("A log2 fold change is not finite.", "", "Leave such genes out.")
