"""What is known about a State Embedding model without loading its weights. Plain JSON; read by pages, so no torch.

`embedding.json` in a folder of our store is an `EmbeddingCard` written by `state_engine.plain.to_plain`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.card import TrainingSummary
from state_engine.checkpoints.folder import AGAIN, id_with_names, read_card_file
from state_engine.checkpoints.folder import FORMAT as FORMAT
from state_engine.errors import CheckpointError
from state_engine.models.embedding_config import EmbeddingConfig

CARD = "embedding.json"


@dataclass(frozen=True)
class EmbeddingCard:
    """A State Embedding model's card.

    Args:
        format: version of the store's layout (`FORMAT`).
        id: first 12 hex digits of `weights_hash`; in a library that has these weights by other names, `embedding_id`.
        name: for people.
        config: the network.
        vocabulary: names of the genes it knows, in the order of its table.
        vocabulary_hash: sha256 of the names, hex.
        weights_hash: sha256 of the weights and gene vectors in our store's order, hex. Two embeddings can be compared when it
            is the same.
        licence: name or identifier, "unknown" when not known.
        source: where it came from.
        limits: sentences from the model card, shown where they matter.
        notes: what reading it decided, for people.
        simulated: not trained on real cells (simulated ones, or not at all).
        training: what is known of the training.
    """

    format: int
    id: str
    name: str
    config: EmbeddingConfig
    vocabulary: tuple[str, ...]
    vocabulary_hash: str
    weights_hash: str
    licence: str = "unknown"
    source: str = ""
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    simulated: bool = False
    training: TrainingSummary = TrainingSummary()

    @property
    def width(self) -> int:
        """Columns of an embedding."""
        return self.config.width

    @property
    def cell_width(self) -> int:
        """The first columns, which describe the cell; what follows describes its data set."""
        return self.config.output_dim


def vocabulary_hash(names: Sequence[str]) -> str:
    """sha256 (hex) of gene names in their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def embedding_id(card: EmbeddingCard) -> str:
    """Return an id of weights and of the names of the genes."""
    return id_with_names(card.weights_hash, card.vocabulary)


def is_embedding_store(folder: Path) -> bool:
    """The folder holds a State Embedding model in our format."""
    return (folder / CARD).is_file()


def read_embedding_card(folder: Path) -> EmbeddingCard:
    """The card of a State Embedding model in our format, without torch.

    Raises:
        CheckpointError: no card there, or one that is damaged, from another version, or contradicts itself.
    """
    path = folder / CARD
    if not path.is_file():
        fix = f"Convert it first: python -m state_engine convert --model {folder} --output DIR."
        raise CheckpointError(f"There is no {CARD} in {folder}.", "A State Embedding model in our format has one.", fix)
    card = read_card_file(path, EmbeddingCard, "a card of a State Embedding model")
    check_embedding_card(card)
    return card


def check_embedding_card(card: EmbeddingCard) -> None:
    """Vocabulary and network belong together.

    Raises:
        CheckpointError: they do not; all that is wrong, in one message.
    """
    wrong = []
    if len(card.vocabulary) != card.config.genes:
        wrong.append(f"{len(card.vocabulary):,} gene names for {card.config.genes:,} genes")
    if len(set(card.vocabulary)) != len(card.vocabulary):
        wrong.append("gene names repeat")
    if vocabulary_hash(card.vocabulary) != card.vocabulary_hash:
        wrong.append("the gene names are not those of its hash")
    if wrong:
        raise CheckpointError(f"The card of '{card.name}' contradicts itself.", f"{'; '.join(wrong)}.", AGAIN)
