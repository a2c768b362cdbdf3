"""What a head is asked for: to be fitted on labelled cells, and to be applied to others. No torch: pages import this."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from state_engine.data.dataset import Choices
from state_engine.device import DeviceName, Precision
from state_engine.errors import RequestError, listed
from state_engine.options import about, check, option, part

Task = Literal["classification", "multi-label", "regression"]
HeadKind = Literal["linear", "mlp"]
Features = Literal["auto", "embedding", "hidden", "prediction", "expression"]
TUNED: Final = "head, lora, last-N or full"
LARGEST: Final = (
    1e18  # of a number that is learnt, or learnt from: weights and losses are float32, and squares of these still are
)
_LAST = re.compile(r"last-([1-9][0-9]{0,2})")


@dataclass(frozen=True)
class FinetuneRequest:
    """A head to fit, complete: together with the files it names it determines the result.

    The vectors come from `embedding_key` (a matrix of the data set), from `model` (an SE: its embedding; an ST: its hidden states or its
    output for each cell under the control label), or from the expression of the most variable genes where neither is given.
    """

    VERB: ClassVar = "finetune"
    data: str = field(metadata=about("labelled cells (.h5ad, or what is converted to it)", metavar="X.h5ad", data=True))
    labels: tuple[str, ...] = field(
        metadata=about("obs column with the labels or numbers; several columns of yes and no with --task multi-label",
                       flag="--label", metavar="COLUMN")
    )  # fmt: skip
    embedding_key: str = option(
        "", "vectors that the data set has, a key of obsm", label="Embedding of the data set", metavar="K"
    )
    model: str = option("", "model whose vectors are read: State Embedding or State Transition", metavar="DIR")
    features: Features = option(
        "auto", "which vectors of the model: an SE has its embedding; an ST its hidden states (default) or its prediction; "
        "expression: log1p of the most variable genes, without a model",
    )  # fmt: skip
    genes_of: str = option(
        "", "vectors from expression take genes that this State Transition model predicts, so that the head fits its predictions",
        label="Genes that a model predicts", metavar="ST",
    )  # fmt: skip
    choices: Choices = part(Choices())
    task: Task = option("classification", "one label for each cell, several for each cell, or a number")
    separator: str = option(";", "with --task multi-label and one column: between the labels of a cell", metavar="TEXT")
    head: HeadKind = option("linear", "one linear layer, or a network with one hidden layer")
    hidden: int = option(128, "width of the hidden layer of an mlp", metavar="N", least=1, most=8192, offered=2048)
    class_weights: bool = option(True, "all cells count alike, also those of frequent labels", label="Weigh rare labels up")
    group: str = option("", "obs column, such as donor or batch, of which each group is in one part alone", metavar="COLUMN")
    test_groups: tuple[str, ...] = option((), "group to test on; default: drawn", flag="--test-group", metavar="NAME")
    test_share: float = option(0.2, "part of the cells, or groups, to test on", metavar="P", above=0, below=1)
    validation_share: float = option(0.15, "part of the others for early stopping and calibration", metavar="P", above=0, below=1)
    least_cells: int | None = option(
        None, "labels with fewer cells are left out; default: labels with too few cells are an error", metavar="N", least=3,
        offered=1000,
    )  # fmt: skip
    tune: str = option(
        "head", f"what is trained: {TUNED}; all but the head need --model", label="What is trained", metavar="WHAT"
    )
    rank: int = option(8, "of the adapters, with --tune lora", metavar="R", least=1, most=512)
    max_epochs: int = option(200, "most passes over the training cells", metavar="N", least=1, most=100_000)
    patience: int = option(15, "passes without a better validation loss before it stops", metavar="N", least=1, most=100_000)
    learning_rate: float | None = option(
        None,
        "of AdamW; default: 0.01 for a linear head, 0.003 for an mlp, 0.0003 where the model is tuned",
        metavar="LR",
        above=0,
        most=1,
    )
    weight_decay: float = option(0.01, "of AdamW", metavar="W", least=0, most=10)
    batch_size: int = option(128, "cells of a mini-batch", metavar="N", least=1, most=65536, offered=4096)
    variable_genes: int = option(2000, "most variable genes for the PCA, and for vectors from expression", metavar="N", least=2)
    components: int = option(50, "of the PCA that the regression beside it reads", metavar="N", least=1, most=1000)
    neighbours: int = option(15, "labelled cells that vote on each cell, beside it", metavar="N", least=1, most=10_000)
    resamples: int = option(1000, "bootstrap samples of the intervals", metavar="N", least=10, most=100_000)
    name: str = option("", "of the head, for people; default: the labels' column", metavar="NAME")
    seed: int = option(42, "of the split, the first weights and the bootstrap", metavar="S", least=0, offered=2**31 - 1)
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "of the model that gives the vectors")

    def __post_init__(self) -> None:
        check(self, RequestError)
        _check_columns(self)
        _check_vectors(self)

    @property
    def tunes_model(self) -> bool:
        """Weights of the model are trained too."""
        return self.tune != "head"

    @property
    def last_layers(self) -> int:
        """N of `last-N`; 0 for anything else."""
        found = _LAST.fullmatch(self.tune)
        return int(found[1]) if found else 0


def _check_columns(request: FinetuneRequest) -> None:
    names = request.labels
    if not names or not all(names):
        raise RequestError("No column of labels is named.", "A head learns what a column of obs says.", "Give --label COLUMN.")
    if len(set(names)) < len(names):
        raise RequestError(f"A column of labels is named twice: {listed(names)}.", "", "Name each once.")
    if len(names) > 1 and request.task != "multi-label":
        raise RequestError(
            f"{len(names)} columns of labels are named.",
            f"For {request.task} there is one.",
            "Name one column, or choose --task multi-label.",
        )
    if request.task == "multi-label" and len(names) == 1 and not request.separator:
        raise RequestError("There is no separator of labels.", "One column holds several for each cell.", "Give --separator.")
    if request.test_groups and not request.group:
        raise RequestError(
            "Groups to test on are named, but no column of groups.", "", "Give --group COLUMN too, or leave --test-group out."
        )
    if request.group in names:
        raise RequestError(f"'{request.group}' is the label and the group.", "Then no label is in two parts.", "Choose another.")


def _check_vectors(request: FinetuneRequest) -> None:
    if request.embedding_key and request.model:
        raise RequestError(
            "Both an embedding of the data set and a model are named.", "The vectors come from one of them.", "Leave one out."
        )
    if request.features == "expression" and (request.model or request.embedding_key):
        raise RequestError("Vectors from expression need no model and no embedding.", "", "Leave --features or these out.")
    if request.features in ("embedding", "hidden", "prediction") and not request.model:
        raise RequestError(f"No model is named whose {request.features} is to be read.", "", "Give --model DIR.")
    if request.genes_of and (request.model or request.embedding_key):
        raise RequestError(
            "Genes are chosen for vectors from expression alone.", "", "Leave --genes-of out, or the model or embedding."
        )
    if request.tune not in ("head", "lora", "full") and not _LAST.fullmatch(request.tune):
        raise RequestError(f"What is trained is '{request.tune}'.", f"Known: {TUNED}.", "Such as last-2.")
    if request.tunes_model and not request.model:
        raise RequestError(
            f"No model is named that --tune {request.tune} could train.", "", "Give --model DIR, or tune the head alone."
        )


@dataclass(frozen=True)
class AnnotateRequest:
    """Cells to apply a head to: those of a data set, or those of a prediction, with the measured cells beside."""

    VERB: ClassVar = "annotate"
    model: str = field(metadata=about("folder of the head", metavar="DIR"))
    data: str = option("", "cells to annotate (.h5ad, or what is converted to it)", metavar="Y.h5ad", data=True)
    result: str = option("", "in place of --data: a prediction, its folder or its result.h5ad", metavar="DIR")
    threshold: float = option(
        0.0, "cells whose best label has a smaller probability are called 'unknown'", metavar="P", least=0, most=1
    )
    choices: Choices = part(Choices())
    embedding_key: str = option(
        "", "where the vectors are in obsm; default: where they were when the head was fitted", metavar="K"
    )
    backbone: str = option("", "folder of the model whose vectors the head reads; default: where it was, or in the library",
                           label="Model behind the head", metavar="DIR")  # fmt: skip
    batch_size: int | None = option(None, "cells per forward pass of the model", metavar="N", least=1, offered=4096)
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "of the model that gives the vectors")

    def __post_init__(self) -> None:
        check(self, RequestError)
        if bool(self.data) == bool(self.result):
            what = "Both cells and a prediction are named." if self.data else "No cells are named."
            raise RequestError(what, "A head is applied to one of them.", "Give --data Y.h5ad, or --result DIR.")
