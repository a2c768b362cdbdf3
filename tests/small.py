"""A tiny data set and tiny models with random weights, made in a moment: for tests of the verbs."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from state_engine.checkpoints.card import FORMAT, ModelCard
from state_engine.checkpoints.store import save_model
from state_engine.models.config import BackboneConfig, DecoderConfig, TransitionConfig
from state_engine.models.transition import TransitionModel

GENES = tuple(f"GENE{i}" for i in range(24))
PERTURBATIONS = ("control", "IFNB1", "TNF", "JUN,FOS")
CONTEXTS = ("B", "NK")
BATCHES = ("lane 1", "lane 2")


def write_cells(path: Path, n: int = 160, counts: bool = True, embedding: int = 0, seed: int = 0) -> Path:
    """Cells of every perturbation, context and batch; NK has no measured TNF. X is counts or log1p, CSR."""
    rng = np.random.default_rng(seed)
    perturbation = np.array(PERTURBATIONS)[np.arange(n) % len(PERTURBATIONS)]
    context = rng.choice(CONTEXTS, n)
    perturbation = np.where((perturbation == "TNF") & (context == "NK"), "control", perturbation)
    rate = 2.0 + 3.0 * rng.random(len(GENES)) + 2.0 * (perturbation != "control")[:, None]
    values = rng.poisson(rate).astype(np.float32)
    if not counts:
        values = np.log1p(values / values.sum(1, keepdims=True) * 1e4).astype(np.float32)
    obs = pd.DataFrame(
        {"perturbation": perturbation, "cell_type": context, "batch": rng.choice(BATCHES, n)},
        index=[f"cell-{i}" for i in range(n)],
    ).astype("category")
    data = anndata.AnnData(sp.csr_matrix(values), obs=obs, var=pd.DataFrame(index=list(GENES)))
    if embedding:
        data.obsm["X_state"] = rng.normal(size=(n, embedding)).astype(np.float32)
    data.write_h5ad(path)
    return path


def config(**changes: object) -> TransitionConfig:
    """A network of a few hundred weights."""
    backbone = BackboneConfig("llama", hidden=8, layers=2, heads=2, kv_heads=2, head_dim=4, intermediate=16)
    fields: dict = {
        "input_dim": len(GENES),
        "output_dim": len(GENES),
        "perturbation_dim": len(PERTURBATIONS),
        "backbone": backbone,
        "output_space": "hvg",
        "set_size": 8,
    }
    return TransitionConfig(**(fields | changes))


def card_of(made: TransitionConfig) -> ModelCard:
    """A card for a network: labels and columns of `write_cells`."""
    embedding = made.output_space == "embedding" or made.decoder is not None
    genes = None if embedding else GENES
    return ModelCard(
        format=FORMAT, id="", name="Tiny", config=made, input_key="X_state" if embedding else "X_hvg", input_genes=genes,
        output_genes=GENES if made.decoder or genes else None, scale=None if embedding else "log1p", control="control",
        perturbations=PERTURBATIONS, perturbation_encoding="one-hot", batches=BATCHES, contexts=CONTEXTS,
        perturbation_key="perturbation", context_key="cell_type", batch_key="batch", attention="full",
        attention_source="Set by the test.", weights_hash="",
    )  # fmt: skip


def write_model(folder: Path, seed: int = 0, **changes: object) -> ModelCard:
    """A model of our own format with random weights; `changes` go to its configuration."""
    made = config(**changes)
    torch.manual_seed(seed)
    model = TransitionModel(made)
    for weight in model.parameters():  # loud enough that a perturbation and a wrong wiring show
        torch.nn.init.normal_(weight, std=0.5)
    card = card_of(made)
    return save_model(folder, card, model.state_dict())


def embedding_changes(width: int = 6) -> dict:
    """Changes that make it read and predict an embedding, with a gene decoder."""
    decoder = DecoderConfig(latent=width, genes=len(GENES), hidden=(8,), dropout=0.0)
    return {"input_dim": width, "output_dim": width, "output_space": "embedding", "decoder": decoder, "final_relu": False}
