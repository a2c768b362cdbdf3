"""What an embedding is asked for, and whether it can be made. No torch: pages import this."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.data.cell_sentences import SentenceMaker
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.gene_vocabulary import GeneMap, map_genes
from state_engine.device import DeviceName, Precision
from state_engine.errors import RepresentationError, RequestError

ENDINGS = (".h5ad", ".npy")


@dataclass(frozen=True)
class EmbedRequest:
    """An embedding, complete: together with the files it names it determines the result.

    Args:
        data: path of the .h5ad.
        model: path of the model: our store, a folder of arc-state, or a checkpoint file.
        choices: what the user said about the data set; `scale`, `gene_column` and `expression` matter here.
        key: name of the embedding in obsm.
        device, precision: where and how to compute.
        batch_size: cells a forward pass; None for the device's usual number. It does not change the result.
        seed: of the unexpressed genes that fill short cell sentences.
        checkpoint: which file, when the folder of arc-state has several.
    """

    data: str
    model: str
    choices: Choices = Choices()
    key: str = "X_state"
    device: DeviceName = "auto"
    precision: Precision = "fp32"
    batch_size: int | None = None
    seed: int = 0
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.key or "/" in self.key:
            raise RequestError(f"'{self.key}' is no name of an embedding.", "It must not be empty or have a slash.")
        if self.batch_size is not None and self.batch_size < 1:
            raise RequestError(f"The batch size is {self.batch_size}.", "It must be positive.")
        if self.seed < 0:
            raise RequestError(f"The seed is {self.seed}.", "It must not be negative.")

    def command(self, output: str) -> str:
        """The command line that does the same."""
        parts = ["python", "-m", "state_engine", "embed", "--model", self.model, "--data", self.data, "--output", output]
        parts += ["--key", self.key, "--seed", str(self.seed), "--device", self.device, "--precision", self.precision]
        given = {
            "--scale": self.choices.scale,
            "--gene-column": self.choices.gene_column,
            "--expression": self.choices.expression,
            "--batch-size": self.batch_size,
            "--checkpoint": self.checkpoint,
        }
        for name, value in given.items():
            parts += [name, str(value)] if value is not None else []
        return shlex.join(parts)


@dataclass(frozen=True)
class EmbedSummary:
    """What was made.

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


def gene_map_of(dataset: Dataset, card: EmbeddingCard) -> GeneMap:
    """Which of the model's genes the data set has; `warning` and `require` say whether they are enough."""
    return map_genes(dataset.genes, card.vocabulary, dataset.choices.gene_column)


def sentence_maker(dataset: Dataset, card: EmbeddingCard, genes: GeneMap, seed: int) -> SentenceMaker:
    """The maker of the data set's cell sentences for a model.

    Raises:
        RepresentationError: the data set has no expression.
        ScaleError: the scale of the expression is not known.
        GeneError: too few genes match.
    """
    if dataset.expression is None:
        raise RepresentationError(f"{dataset.path.name} has no expression.", "It has no X and no layers.", "Choose another file.")
    scale = dataset.scale.require()
    return SentenceMaker(genes.require(), scale, card.config.tokens, card.config.cls_gene, seed)


def check_output(output: Path) -> None:
    """The name of the output says what to write.

    Raises:
        RequestError: it ends in neither .h5ad nor .npy, or its folder is missing.
    """
    if output.suffix not in ENDINGS:
        raise RequestError(f"{output.name} is no name for an embedding.", f"It must end in {' or '.join(ENDINGS)}.")
    if not output.parent.is_dir():
        raise RequestError(f"There is no folder {output.parent}.", "", "Make it first.")
