"""What an embedding is asked for, and whether it can be made. No torch: pages import this."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.data.cell_sentences import SentenceMaker
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.gene_vocabulary import GeneMap, map_genes
from state_engine.device import DeviceName, Precision
from state_engine.errors import RepresentationError, RequestError
from state_engine.files import free_output
from state_engine.options import about, check, option, part

ENDINGS = (".h5ad", ".npy")


@dataclass(frozen=True)
class EmbedRequest:
    """An embedding, complete: together with the files it names it determines the result."""

    VERB: ClassVar = "embed"
    data: str = field(metadata=about("data set (.h5ad, or what is converted to it)", metavar="X.h5ad", data=True))
    model: str = field(metadata=about("model folder, ours or arc-state's, or a checkpoint", metavar="PATH"))
    choices: Choices = part(Choices())
    key: str = option("X_state", "name of the embedding in obsm", label="Name of the embedding", metavar="K")
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")
    batch_size: int | None = option(
        None,
        "cells per forward pass; it does not change the result",
        label="Cells a forward pass",
        metavar="N",
        least=1,
        offered=4096,
    )
    seed: int = option(
        0, "of the unexpressed genes that fill the sentences of cells with few genes", metavar="S", least=0, offered=2**31 - 1
    )
    checkpoint: str | None = option(None, "which file, when the folder has several", metavar="FILE")
    compile: bool = option(
        False, "on a GPU, let torch compile the network first: a minute that pays where passes are many; the last bits may differ",
        label="Compile the network for the GPU",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self, RequestError)
        if not self.key or "/" in self.key:
            raise RequestError(f"'{self.key}' is no name of an embedding.", "It must not be empty or have a slash.")


@dataclass(frozen=True)
class DecodeRequest:
    """What to decode (`state_engine.embedding.decode`)."""

    VERB: ClassVar = "decode"
    data: str = field(metadata=about("embedded cells (.h5ad)", metavar="Y.h5ad", data=True))
    model: str = field(metadata=about("the model that made the embedding", metavar="PATH"))
    genes: tuple[str, ...] = field(metadata=about("gene, named as the model does", flag="--gene", metavar="NAME"))
    choices: Choices = part(Choices())
    key: str = option("X_state", "the embedding in obsm", metavar="K")
    # what training shows the decoder: the mean of the values above 0 (`models.embedding_losses.read_depths`)
    read_depth: float | None = option(
        None, "depth of every cell, on the scale of log1p expression; default: the mean of its expressed genes", metavar="R"
    )
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")
    allow_other: bool = option(False, "decode an embedding that is recorded as another model's")
    checkpoint: str | None = option(None, "which file, when the folder has several", metavar="FILE")

    def __post_init__(self) -> None:
        check(self, RequestError)


@dataclass(frozen=True)
class EmbedSummary:
    """Facts of an embedding.

    Args:
        cells: of the data set.
        empty: cells that express no gene the model knows: they have NaN.
        width, cell_width: columns, and those of them that describe the cell.
        genes: how many of which genes matched, a sentence.
        overlap: matched genes as a part of those that could match.
        scale: counts or log1p, as decided.
        batch_size: cells a forward pass in the end.
        device: for people.
        seconds: of reading, embedding and writing.
        sentence_seconds: spent in another thread on making cell sentences.
        waited_seconds: the forward pass waited so long for cells to be read and made into sentences.
        remarks: sentences worth showing.
    """

    cells: int
    empty: int
    width: int
    cell_width: int
    genes: str
    overlap: float
    scale: str
    batch_size: int
    device: str
    seconds: float
    sentence_seconds: float
    waited_seconds: float
    remarks: tuple[str, ...]


def summary_lines(output: Path, summary: EmbedSummary) -> list[str]:
    """Return what was embedded, one line each."""
    speed = summary.cells / summary.seconds if summary.seconds else 0.0
    waiting = 100 * summary.waited_seconds / summary.seconds if summary.seconds else 0.0
    return [
        f"{output}: {summary.cells - summary.empty:,} of {summary.cells:,} cells, {summary.width:,} columns "
        f"({summary.cell_width:,} for the cell), from {summary.scale}, on {summary.device}",
        f"  {summary.genes}",
        f"  {speed:,.0f} cells per second, {summary.batch_size:,} per pass; {waiting:.1f} % of the time waiting for cell sentences.",
        *(f"  {remark}" for remark in summary.remarks),
    ]


def gene_map_of(dataset: Dataset, card: EmbeddingCard) -> GeneMap:
    """Return which of the model's genes the data set has; `warning` and `require` say whether they are enough."""
    return map_genes(dataset.genes, card.vocabulary, dataset.choices.gene_column)


def sentence_maker(dataset: Dataset, card: EmbeddingCard, genes: GeneMap, seed: int) -> SentenceMaker:
    """Return the maker of the data set's cell sentences for a model.

    Raises:
        RepresentationError: the data set has no expression.
        ScaleError: the scale of the expression is not known.
        GeneError: too few genes match.
    """
    if dataset.expression is None:
        raise RepresentationError(f"{dataset.path.name} has no expression.", "It has no X and no layers.", "Choose another file.")
    scale = dataset.scale.require()
    return SentenceMaker(genes.require(), scale, card.config.tokens, card.config.cls_gene, seed)


def check_output(output: Path, *inputs: str) -> None:
    """Make sure, before any work, that the output can be written; its name says what to write.

    Raises:
        RequestError: it ends in neither .h5ad nor .npy, is a folder, or one of the inputs.
    """
    if output.suffix not in ENDINGS:
        raise RequestError(f"{output.name} is no name for an embedding.", f"It must end in {' or '.join(ENDINGS)}.")
    free_output(output, *inputs)
