"""A State Embedding checkpoint that arc-state reads, written from ours: `state emb transform --model-folder FOLDER` gives our numbers.

    se.ckpt        Lightning checkpoint: weights, hyper-parameters, `cfg_yaml` and the gene vectors inside
    config.yaml    the same configuration as a file

What goes in is tensors, text, numbers and containers of our own making. arc-state lets CLS carry the amount of the gene with a certain
number, and reads the data set part of every embedding: a network without either cannot be written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from state_engine.checkpoints.arc.embedding import CONFIG, PARTS, RENAMES
from state_engine.checkpoints.arc.write import LIGHTNING_VERSION
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.errors import CheckpointError
from state_engine.files import replacing, write_bytes
from state_engine.models.embedding_config import TaskLossName

NAME = "se.ckpt"
OWN = "own"  # what the configuration calls the genes and the data
CLASSIFIER = {"up": "0", "norm": "2", "out": "4"}  # of data sets: ours -> place in theirs


@dataclass(frozen=True)
class PretrainingFacts:
    """What arc-state's files say of the pretraining, beside the network."""

    datasets: tuple[str, ...] = ()
    expressed: int = 512
    unexpressed: int = 512
    shared: int = 512
    loss: TaskLossName = "tabular"
    cells_per_step: int = 128
    learning_rate: float = 1e-5
    start: float = 0.33
    weight_decay: float = 0.01
    gradient_clip: float = 0.8
    seed: int = 42
    step: int = 0


def write_arc_embedding(
    folder: Path,
    card: EmbeddingCard,
    state_dict: dict[str, Tensor],
    vectors: Tensor,
    facts: PretrainingFacts,
    classifier: dict[str, Tensor] | None = None,
) -> Path:
    """Write the files, each in place of its older self, and return the checkpoint.

    Args:
        folder: made when it is not there.
        card: of the model.
        state_dict: weights of the `EmbeddingModel` of `card.config`.
        vectors: (genes, token_dim) gene vectors in the order of the vocabulary.
        facts: of the pretraining.
        classifier: weights of the `DatasetClassifier`; None for one without anything learnt.

    Raises:
        CheckpointError: arc-state has no such network; the message names what it lacks.
    """
    config = card.config
    lacks = [
        words
        for words, there in (
            ("embeddings without the part of the data set", config.dataset_token),
            ("a network that does not read amounts", config.counts),
            ("CLS without the amount of a gene", config.cls_gene is not None),
        )
        if not there
    ]
    if lacks:
        raise CheckpointError(f"arc-state cannot have the network of '{card.name}'.", f"It knows no {' and no '.join(lacks)}.")
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(configuration(card, facts), sort_keys=False, allow_unicode=True)
    write_bytes(folder / CONFIG, text.encode())
    weights = to_arc(state_dict) | _classifier(card, classifier, max(1, len(facts.datasets)))
    content = {
        "epoch": 0, "global_step": facts.step, "pytorch-lightning_version": LIGHTNING_VERSION, "state_dict": weights, "loops": {},
        "callbacks": {}, "optimizer_states": [], "lr_schedulers": [], "hparams_name": "kwargs",
        "hyper_parameters": _hyper_parameters(card, facts), "cfg_yaml": text,
        "protein_embeds_dict": {name: row.clone() for name, row in zip(card.vocabulary, vectors, strict=True)},
    }  # fmt: skip
    with replacing(folder / NAME) as beside:
        torch.save(content, beside)
    return folder / NAME


def to_arc(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under arc-state's names, the gene encoder under both of its."""
    found = {}
    for name, tensor in state_dict.items():
        theirs = _their_name(name)
        found[theirs] = tensor[None] if name in ("cls_token", "dataset_token") else tensor
        if theirs.startswith("encoder."):
            found[f"gene_embedding_layer.{theirs.removeprefix('encoder.')}"] = tensor
    return {name: tensor.detach().cpu().float().contiguous() for name, tensor in found.items()}


def _their_name(name: str) -> str:
    """The way back of `arc.embedding`'s names: its patterns, read from right to left."""
    for pattern, ours in RENAMES:
        plain = re.escape(ours).replace(r"\\1", r"(\d+)")
        if found := re.match(plain, name):
            theirs = pattern.replace("\\.", ".").replace(r"(\d+)", found.group(1) if found.groups() else "")
            name = theirs + name[found.end() :]
            break
    if name.startswith(("decoder.", "binary_decoder.")):
        for theirs, ours in PARTS:
            if f".{ours}" in name:
                return name.replace(f".{ours}", f".{theirs}")
    return name


def _classifier(card: EmbeddingCard, weights: dict[str, Tensor] | None, datasets: int) -> dict[str, Tensor]:
    d, e = card.config.hidden, card.config.output_dim
    own = weights or {
        "up.weight": torch.zeros(d, e), "up.bias": torch.zeros(d), "norm.weight": torch.ones(d), "norm.bias": torch.zeros(d),
        "out.weight": torch.zeros(datasets, d), "out.bias": torch.zeros(datasets),
    }  # fmt: skip
    parts = {name: name.partition(".") for name in own}
    return {
        f"dataset_encoder.{CLASSIFIER[part]}.{kind}": own[name].detach().cpu().float() for name, (part, _, kind) in parts.items()
    }


def _hyper_parameters(card: EmbeddingCard, facts: PretrainingFacts) -> dict[str, object]:
    config = card.config
    return {
        "token_dim": config.token_dim, "d_model": config.hidden, "nhead": config.heads, "d_hid": config.feed_forward,
        "nlayers": config.layers, "output_dim": config.output_dim, "dropout": config.dropout, "warmup_steps": 0, "compiled": False,
        "max_lr": facts.learning_rate, "emb_cnt": config.genes, "emb_size": config.token_dim, "cfg": configuration(card, facts),
        "collater": None,
    }  # fmt: skip


def configuration(card: EmbeddingCard, facts: PretrainingFacts) -> dict[str, object]:
    """Return arc-state's configuration of a model, plain values; every name that its `state emb` commands ask for."""
    config = card.config
    return {
        "experiment": {"name": card.name},
        "embeddings": {
            "current": OWN,
            OWN: {"all_embeddings": "none", "ds_emb_mapping": "none", "valid_genes_masks": None, "size": config.token_dim,
                  "num": config.genes},
        },
        "dataset": {
            "name": OWN, "seed": facts.seed, "num_train_workers": 1, "num_val_workers": 1, "current": OWN,
            OWN: {"ds_type": "h5ad", "num_datasets": max(1, len(facts.datasets))},
            "pad_length": config.tokens, "pad_token_idx": 0, "cls_token_idx": config.cls_gene, "chrom_token_right_idx": 2,
            "P": facts.expressed, "N": facts.unexpressed, "S": facts.shared, "num_cells": 0, "overrides": {},
        },
        "tokenizer": {"token_dim": config.token_dim},
        "model": {
            "name": card.name, "batch_size": facts.cells_per_step, "emsize": config.hidden, "d_hid": config.feed_forward,
            "nhead": config.heads, "nlayers": config.layers, "dropout": config.dropout, "output_dim": config.output_dim,
            "use_flash_attention": True, "rda": config.read_depth, "counts": config.counts, "dataset_correction": True, "ema": False,
            "sample_rda": False, "batch_tabular_loss": False, "num_downsample": 1, "variable_masking": True,
        },
        "task": {"mask": 0.2},
        "optimizer": {
            "max_lr": facts.learning_rate, "weight_decay": facts.weight_decay, "start": facts.start, "end": 1.0,
            "max_grad_norm": facts.gradient_clip, "gradient_accumulation_steps": 1, "reset_lr_on_restart": False, "zclip": False,
        },
        "loss": {"name": facts.loss, "apply_normalization": False, "kernel": "energy", "uniformity": False},
    }  # fmt: skip
