"""A tiny State Embedding model with random weights, made in a moment: for tests of the verbs."""

from __future__ import annotations

from pathlib import Path

import torch

from state_engine.checkpoints.embedding_card import FORMAT, EmbeddingCard, vocabulary_hash
from state_engine.checkpoints.embedding_store import save_embedding
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from tests.small import GENES


def embedding_config(**changes: object) -> EmbeddingConfig:
    """A network of a few thousand weights."""
    fields: dict = {
        "genes": len(GENES), "token_dim": 6, "hidden": 8, "layers": 2, "heads": 2, "feed_forward": 16, "output_dim": 8, "tokens": 12,
    }  # fmt: skip
    return EmbeddingConfig(**(fields | changes))


def random_model(config: EmbeddingConfig, seed: int = 0) -> EmbeddingModel:
    """Loud enough that a wrong wiring shows, and that the amounts of genes count."""
    torch.manual_seed(seed)
    model = EmbeddingModel(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if name.startswith("count_embedding.down"):
            weight.mul_(4)
        elif weight.ndim == 2 and not name.startswith("count_embedding.up"):
            torch.nn.init.normal_(weight, std=1.2 / weight.shape[1] ** 0.5)
        elif weight.ndim == 1:
            weight.add_(0.1 * torch.randn(weight.shape))
    return model


def random_vectors(config: EmbeddingConfig, seed: int = 1) -> torch.Tensor:
    """(genes, token_dim)."""
    return torch.randn(config.genes, config.token_dim, generator=torch.Generator().manual_seed(seed))


def embedding_card(config: EmbeddingConfig, genes: tuple[str, ...] = GENES) -> EmbeddingCard:
    """A card whose hash of the weights is still to be filled in."""
    return EmbeddingCard(FORMAT, "", "Tiny SE", config, genes, vocabulary_hash(genes), "")


def write_embedding_model(folder: Path, seed: int = 0, genes: tuple[str, ...] = GENES, **changes: object) -> EmbeddingCard:
    """A model of our own format; `changes` go to its configuration."""
    config = embedding_config(**({"genes": len(genes)} | changes))
    return save_embedding(folder, embedding_card(config, genes), random_model(config, seed).state_dict(), random_vectors(config))
