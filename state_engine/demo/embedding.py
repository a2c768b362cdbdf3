"""The demo's State Embedding model: a random projection of expression, wired by hand. Nothing in it is trained.

It knows genes that vary between the demo's simulated cells. Every gene has a random vector, drawn from its name. CLS looks at genes
the more the higher they are expressed, and what it gathers, the weighted mean of their vectors, is the embedding. Cells that express
alike lie close together, as under any random projection; what a gene does is not in it. Its few numbers (sharpness, tokens) were
chosen by looking at whether neighbours share a cell type, in the demo and in two real data sets of blood cells.

Notation: d hidden width, c width of a head.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from state_engine import __version__
from state_engine.checkpoints.card import TrainingSummary
from state_engine.checkpoints.embedding_card import FORMAT, EmbeddingCard, vocabulary_hash
from state_engine.checkpoints.embedding_store import save_embedding
from state_engine.data.dataset import Dataset
from state_engine.data.expression import hvg_choice
from state_engine.models.embedding import EmbeddingModel, EncoderLayer, SkipBlock
from state_engine.models.embedding_config import EmbeddingConfig

GENES = 300
# high in every cell: they would drown the others
EVERYWHERE = ("RPL", "RPS", "MT-", "EEF", "ACTB", "GAPDH", "TUB")
NAME = "Demo SE (random projection, not trained)"
WIDTH, LAYERS, HEADS, TOKENS = 64, 2, 4, 64
LIMITS = (
    "A random projection with weights set by hand, not trained on any cell: cells of like expression lie close, and nothing more is meant.",
    "Its expression decoder is random: what it decodes means nothing.",
)
# how steeply attention rises with the amount of a gene, a head each; the first layer passes genes on almost unmixed
SHARPNESS = (8.0, 8.0, 12.0, 12.0)
MIXED = 0.1
STEEPNESS, LOUDNESS = 3.0, 20.0


def make_demo_embedding(folder: Path, genes: tuple[str, ...], *, replace: bool = False) -> EmbeddingCard:
    """Write the model for these genes in our format; the same genes give the same bytes.

    Raises:
        CheckpointError: the folder is there already (not with `replace`).
    """
    config = EmbeddingConfig(
        genes=len(genes), token_dim=WIDTH, hidden=WIDTH, layers=LAYERS, heads=HEADS, feed_forward=2 * WIDTH, output_dim=WIDTH,
        tokens=TOKENS, read_depth=False, cls_gene=None, dropout=0.0,
    )  # fmt: skip
    vectors = torch.from_numpy(np.stack([_vector(name) for name in genes]))
    module = _wired(config)
    card = EmbeddingCard(
        format=FORMAT, id="", name=NAME, config=config, vocabulary=genes, vocabulary_hash=vocabulary_hash(genes), weights_hash="",
        licence="MIT", source=f"made by STATE Explorer {__version__}", limits=LIMITS, simulated=True,
        training=TrainingSummary(data="none: weights are random or set by hand"),
    )  # fmt: skip
    return save_embedding(folder, card, module.state_dict(), vectors, replace=replace)


def _vector(name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


def demo_genes(dataset: Dataset) -> tuple[str, ...]:
    """Return the genes of the demo's model: the most variable ones of its data set, without those that are high in every cell."""
    chosen = hvg_choice(dataset, min(GENES, dataset.n_genes)).names
    return tuple(gene for gene in chosen if not gene.startswith(EVERYWHERE))


@torch.no_grad()
def _wired(config: EmbeddingConfig) -> EmbeddingModel:
    generator = torch.Generator().manual_seed(0)
    module = EmbeddingModel(config).eval()
    for weight in module.parameters():
        # divided by the root of the inputs, so that values stay of one size from layer to layer
        if weight.ndim > 1:
            weight.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[1]))
        else:
            weight.zero_()
    for norm in (m for m in module.modules() if isinstance(m, nn.LayerNorm)):
        norm.weight.fill_(1.0)
    module.cls_token.copy_(torch.randn(WIDTH, generator=generator))
    if module.dataset_token is not None:
        module.dataset_token.copy_(torch.randn(WIDTH, generator=generator))
    _amounts(module)
    layers = [cast(EncoderLayer, layer) for layer in module.layers]
    for layer in layers:
        _attend_to_amounts(layer, generator)
        layer.down.weight.mul_(MIXED)
    layers[0].out.weight.mul_(MIXED)
    cast(SkipBlock, module.decoder[0]).down.weight.mul_(MIXED)
    return module


def _amounts(module: EmbeddingModel) -> None:
    """Dimension 0 of a token carries the amount of its gene, and nothing else."""
    cast(nn.LayerNorm, module.encoder[1]).weight[0] = 0.0
    if module.count_embedding is None:
        return
    first, last = (m for m in module.count_embedding.modules() if isinstance(m, nn.Linear))
    bins = next(m for m in module.count_embedding.modules() if isinstance(m, nn.Embedding))
    for weight in (first.weight, first.bias, last.weight, last.bias, bins.weight):
        weight.zero_()
    first.weight[0, 0] = 1.0
    last.weight[0, 0] = STEEPNESS
    bins.weight[0, 0] = LOUDNESS


def _attend_to_amounts(layer: EncoderLayer, generator: torch.Generator) -> None:
    """Every query asks for dimension 0, each head with a sharpness of its own; values are rotated, so that nothing is lost."""
    d, c = WIDTH, WIDTH // HEADS
    layer.qkv.weight.zero_()
    layer.qkv.bias.zero_()
    for head, sharpness in enumerate(SHARPNESS):
        # a query is its bias, the same in every cell; the root cancels that by which attention divides
        layer.qkv.bias[head * c] = math.sqrt(c)
        layer.qkv.weight[d + head * c, 0] = sharpness / LOUDNESS
    for part in (layer.qkv.weight[2 * d :], layer.out.weight):
        part.copy_(torch.linalg.qr(torch.randn(d, d, generator=generator))[0])
