"""A run directory that arc-state 0.11.1 reads, written from our model: `state tx infer --model-dir FOLDER` gives our numbers.

    config.yaml  var_dims.pkl  pert_onehot_map.pt  batch_onehot_map.torch (.pkl)  cell_type_onehot_map.torch
    checkpoints/final.ckpt

Their formats are pickles. Writing one is harmless: what goes in is tensors, text, numbers and containers of our own making, and
`read_arc` reads it back through the guarded reader. Notes, limits and scores of our card have no place there; a model that reads
counts is written as it is, but nothing in the files says so. `state tx infer` cuts predicted embeddings to 0..14, as it does with its
own models that have a gene decoder; of a model that has none, what it writes as decoded expression is NaN. The data module of a training
(`data_module.torch`, for `state tx predict`) is a pickle of arc-state's own classes and is not written.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml
from torch import Tensor

from state_engine.checkpoints.arc.architecture import FILLER_DECODER, GENE_KEYS, OWN_SPACE, SPACES, Hyper
from state_engine.checkpoints.arc.names_out import VOCABULARY, positions, to_arc
from state_engine.checkpoints.arc.read import PERTURBATIONS
from state_engine.checkpoints.card import ModelCard
from state_engine.errors import CheckpointError
from state_engine.files import replacing, write_bytes
from state_engine.models.config import BackboneConfig, LossName

LIGHTNING_VERSION = "2.6.0"  # of the checkpoint's layout
SPACE_NAMES = {ours: theirs for theirs, ours in SPACES.items()}
LOSS_NAMES = {"energy": "energy", "sinkhorn": "sinkhorn", "combined": "se", "mse": "mse"}


@dataclass(frozen=True)
class TrainingFacts:
    """What arc-state's files say of the training, beside the network; fields as in a training request.

    `step` is the optimiser step the weights are of; `split` the path of the TOML file.
    """

    loss: LossName = "energy"
    blur: float = 0.05
    loss_chunks: int = 1
    shuffle_chunks: bool = False
    learning_rate: float = 1e-4
    gradient_clip: float = 10.0
    sets_a_step: int = 16
    steps: int = 0
    step: int = 0
    seed: int = 42
    validate_every: int = 2000
    checkpoint_every: int = 2000
    control_mapping: Literal["random", "batch"] = "random"
    l1: float = 0.0
    decoder_detach: bool = False
    features: str = ""
    split: str = ""


def write_arc(
    folder: Path,
    card: ModelCard,
    state_dict: dict[str, Tensor],
    features: Tensor | None = None,
    training: TrainingFacts | None = None,
) -> None:
    """Write the files of a run directory; each replaces its older self, others in the folder are left alone.

    Args:
        folder: the run directory, made when it is not there.
        card: of the model.
        state_dict: weights of the `TransitionModel` of `card.config`, adapters merged.
        features: (labels, p) of `card.perturbations`; None when one-hot.
        training: what is known of it.

    Raises:
        CheckpointError: arc-state has no such network; the message names what it lacks.
    """
    _check(card)
    facts = training or TrainingFacts()
    folder.joinpath("checkpoints").mkdir(parents=True, exist_ok=True)
    hyper = hyper_parameters(card, facts)
    weights = to_arc(card.config, state_dict, hyper["batch_dim"])
    if hyper.get(FILLER_DECODER):
        weights |= _filler_decoder(card.config.output_dim)
    vectors = torch.eye(len(card.perturbations)) if features is None else features.detach().cpu().float()
    _save(folder / PERTURBATIONS, _labelled(card.perturbations, vectors))
    for stem, labels in (("batch_onehot_map", card.batches), ("cell_type_onehot_map", card.contexts)):
        if labels:
            one_hot = _labelled(labels, torch.eye(len(labels)))
            _save(folder / f"{stem}.torch", one_hot)
            write_bytes(folder / f"{stem}.pkl", pickle.dumps(one_hot))  # versions before 0.10 look for this one
    write_bytes(folder / "var_dims.pkl", pickle.dumps(_dims(card, hyper)))
    text = yaml.safe_dump(_configuration(card, hyper, facts), sort_keys=False, allow_unicode=True)
    write_bytes(folder / "config.yaml", text.encode())
    # last: a folder with a checkpoint has all that goes with it
    _save(folder / "checkpoints" / "final.ckpt", _checkpoint(hyper, weights, facts))


def hyper_parameters(card: ModelCard, facts: TrainingFacts) -> Hyper:
    """arc-state's `hyper_parameters` of a model, plain values."""
    config = card.config
    genes = card.output_genes or card.input_genes
    width = config.decoder.genes if config.decoder else config.output_dim
    filler = _wants_filler(card)
    decoder = None
    if config.decoder is not None:
        decoder = _decoder_cfg(config.decoder.latent, width, list(config.decoder.hidden), config.decoder.dropout)
        decoder["residual_decoder"] = config.decoder.residual
    elif filler:
        decoder = _decoder_cfg(config.output_dim, config.output_dim, [], 0.0)
    found = {
        "input_dim": config.input_dim, "hidden_dim": config.backbone.hidden, "output_dim": config.output_dim,
        "pert_dim": config.perturbation_dim, "batch_dim": max(1, config.batch_dim, len(card.batches)), "dropout": config.dropout,
        "lr": facts.learning_rate, "loss_fn": "mse", "control_pert": card.control,
        "embed_key": None if card.input_key == "X" else card.input_key, "output_space": SPACE_NAMES[config.output_space],
        "gene_names": list(genes) if genes else None, "batch_size": facts.sets_a_step, "gene_dim": width, "hvg_dim": width,
        "decoder_cfg": decoder, "cell_set_len": config.set_size, "blur": facts.blur, "loss": LOSS_NAMES[facts.loss],
        "confidence_token": config.confidence_token, "n_encoder_layers": config.encoder_layers,
        "n_decoder_layers": config.decoder_layers, "predict_residual": config.predict_residual, "softplus": True,
        "activation": config.activation, "batch_encoder": config.batch_encoder, "use_batch_token": config.batch_token,
        "mask_attn": config.mask_attention, "use_basal_projection": config.basal_mlp, "distributional_loss": "energy",
        "gene_decoder_bool": decoder is not None, "residual_decoder": bool(config.decoder and config.decoder.residual),
        "detach_decoder": facts.decoder_detach, "regularization": facts.l1, "mmd_num_chunks": facts.loss_chunks,
        "randomize_mmd_chunks": facts.shuffle_chunks, "init_from": None, "weight_decay": 0.0, "max_steps": facts.steps,
        "train_seed": facts.seed, "gradient_clip_val": facts.gradient_clip,
        # arc-state builds no batch token unless sets are of one batch
        "basal_mapping_strategy": "batch" if config.batch_token else facts.control_mapping,
        "transformer_backbone_key": "llama" if config.backbone.kind == "llama" else "GPT2",
        "transformer_backbone_kwargs": _backbone(card),
    }  # fmt: skip
    if config.output_space == "embedding" and decoder is not None:
        found |= {"output_space": "gene", OWN_SPACE: "embedding"}  # in its space `embedding` arc-state has no decoder
    return found | ({FILLER_DECODER: True} if filler else {})


def _backbone(card: ModelCard) -> dict[str, object]:
    backbone, length = card.config.backbone, positions(card.config)
    common: dict[str, object] = {
        "bidirectional_attention": card.attention == "full",
        "use_cache": False,
        "vocab_size": VOCABULARY,
    }
    if backbone.kind == "gpt2":
        sizes = {
            "n_embd": backbone.hidden,
            "n_layer": backbone.layers,
            "n_head": backbone.heads,
            "n_inner": backbone.intermediate,
        }
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_positions": length}
        return {**common, **sizes, **still, "layer_norm_epsilon": backbone.norm_eps, "bos_token_id": 1, "eos_token_id": 2}
    theta = {} if backbone.rope_theta == BackboneConfig.rope_theta else {"rope_theta": backbone.rope_theta}
    return {
        **common, "hidden_size": backbone.hidden, "intermediate_size": backbone.intermediate,
        "num_hidden_layers": backbone.layers, "num_attention_heads": backbone.heads, "num_key_value_heads": backbone.kv_heads,
        "head_dim": backbone.head_dim, "rms_norm_eps": backbone.norm_eps, "max_position_embeddings": length,
        "attention_dropout": 0.0, "hidden_dropout": 0.0, "layer_norm_eps": backbone.norm_eps, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": False, "rotary_dim": 0, "use_rotary_embeddings": False, **theta,
    }  # fmt: skip


def _check(card: ModelCard) -> None:
    config, in_genes = card.config, card.input_key in (*GENE_KEYS, "X")
    lacks = []
    if config.backbone.kind == "llama" and card.attention == "causal":
        lacks.append("causal attention without rotary positions")
    if in_genes and not config.final_relu:
        lacks.append("expression below zero (final_relu off)")
    if in_genes and config.decoder is not None:
        lacks.append("a gene decoder behind expression")
    if not in_genes and config.decoder is not None and config.final_relu:
        lacks.append("embeddings that are never negative before a gene decoder")
    if lacks:
        raise CheckpointError(
            f"arc-state cannot have the network of '{card.name}'.",
            f"It knows no {' and no '.join(lacks)}.",
            "Keep it in our format.",
        )


def _wants_filler(card: ModelCard) -> bool:
    """arc-state puts a ReLU behind embeddings unless there is a gene decoder: one that decodes nothing keeps it away."""
    return card.input_key not in (*GENE_KEYS, "X") and card.config.decoder is None and not card.config.final_relu


def _decoder_cfg(latent: int, genes: int, hidden: list[int], dropout: float) -> dict[str, object]:
    return {"latent_dim": latent, "gene_dim": genes, "hidden_dims": hidden, "dropout": dropout, "residual_decoder": False}


def _filler_decoder(width: int) -> dict[str, Tensor]:
    """Whatever is decoded with it is not a number, so that nobody takes it for expression."""
    nothing = torch.full((width,), float("nan"))
    return {"gene_decoder.decoder.0.weight": torch.zeros(width, width), "gene_decoder.decoder.0.bias": nothing}


def _dims(card: ModelCard, hyper: Hyper) -> dict[str, object]:
    sizes = {name: hyper[name] for name in ("input_dim", "output_dim", "hvg_dim", "gene_dim", "pert_dim", "batch_dim")}
    names = hyper["gene_names"] or []
    return {**sizes, "gene_names": names, "hvg_names": names, "pert_names": list(card.perturbations)}


def _configuration(card: ModelCard, hyper: Hyper, facts: TrainingFacts) -> dict[str, object]:
    columns = {"pert_col": card.perturbation_key, "batch_col": card.batch_key, "cell_type_key": card.context_key}
    data = {
        "toml_config_path": facts.split or None, "embed_key": hyper["embed_key"], "output_space": hyper["output_space"],
        "pert_rep": "onehot", "basal_rep": "sample", "basal_mapping_strategy": hyper["basal_mapping_strategy"],
        **{name: key for name, key in columns.items() if key}, "control_pert": card.control,
        "perturbation_features_file": facts.features or None,
    }  # fmt: skip
    not_of_the_model = {"input_dim", "output_dim", "pert_dim", "batch_dim", "gene_names", "gene_dim", "hvg_dim", "decoder_cfg"}
    model = {name: value for name, value in hyper.items() if name not in not_of_the_model}
    training = {
        "batch_size": facts.sets_a_step, "lr": facts.learning_rate, "max_steps": facts.steps, "train_seed": facts.seed,
        "val_freq": facts.validate_every, "ckpt_every_n_steps": facts.checkpoint_every, "gradient_clip_val": facts.gradient_clip,
        "loss_fn": "mse", "weight_decay": 0.0,
    }  # fmt: skip
    return {
        "data": {"name": "PerturbationDataModule", "kwargs": data},
        "model": {"name": "state", "checkpoint": None, "kwargs": model},
        "training": training,
        "name": card.name,
    }


def _checkpoint(hyper: Hyper, weights: dict[str, Tensor], facts: TrainingFacts) -> dict[str, object]:
    return {
        "epoch": 0,
        "global_step": facts.step or facts.steps,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": weights,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper,
    }


def _labelled(labels: tuple[str, ...], vectors: Tensor) -> dict[str, Tensor]:
    return {label: vector.clone() for label, vector in zip(labels, vectors, strict=True)}


def _save(path: Path, value: object) -> None:
    with replacing(path) as beside:
        torch.save(value, beside)
