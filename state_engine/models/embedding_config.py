"""Configuration of a State Embedding network, with every field explicit. No torch here: cards are read by the UI.

Source: bioRxiv 2025.06.26.661135, and the configurations that checkpoints of arc-state carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from state_engine.errors import ConfigError

TaskLossName = Literal["tabular", "mmd", "mse", "cross_entropy", "wasserstein"]  # of pretraining
DATASET_WIDTH = 10  # columns that describe the data set, behind those of the cell


@dataclass(frozen=True)
class EmbeddingConfig:
    """The whole network.

    Args:
        genes: size of the gene vocabulary.
        token_dim: width of a gene's vector (5120 for ESM2 15B).
        hidden: width d of the transformer.
        layers, heads: of the transformer.
        feed_forward: width of its feed-forward part.
        output_dim: columns of the cell part (e).
        tokens: positions of a cell sentence: CLS and `tokens` - 1 genes; the data set token comes on top.
        dataset_token: it has one, and `DATASET_WIDTH` columns more come out.
        counts: amounts are embedded and added to the tokens.
        read_depth: the expression decoder is told the read depth of the cell.
        cls_gene: CLS carries the amount of this gene of the data set (its number among the genes that the vocabulary knows, in
            file order). A slip of the reference that its weights were trained with. None: CLS carries 0.
        dropout: training only.
    """

    genes: int
    token_dim: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    output_dim: int
    tokens: int
    dataset_token: bool = True
    counts: bool = True
    read_depth: bool = True
    cls_gene: int | None = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = ("genes", "token_dim", "hidden", "layers", "heads", "feed_forward", "output_dim")
        wrong = [f"{name} is {getattr(self, name)}" for name in sizes if getattr(self, name) < 1]
        if self.tokens < 2:
            wrong.append(f"tokens is {self.tokens}")
        if self.cls_gene is not None and self.cls_gene < 0:
            wrong.append(f"cls_gene is {self.cls_gene}")
        if wrong:
            raise ConfigError(f"An embedding network has sizes that make none: {', '.join(wrong)}.", "They must be positive.")
        if self.hidden % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide a width of {self.hidden}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"A dropout of {self.dropout} leaves nothing.", "It must be at least 0 and below 1.")

    @property
    def width(self) -> int:
        """Columns of an embedding: the cell part, then the data set part."""
        return self.output_dim + (DATASET_WIDTH if self.dataset_token else 0)

    @property
    def decoder_width(self) -> int:
        """Features the expression decoder sees of one gene in one cell."""
        return self.hidden + self.output_dim + int(self.read_depth) + (DATASET_WIDTH if self.dataset_token else 0)
