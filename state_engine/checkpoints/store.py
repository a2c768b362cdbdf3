"""Our own format of a model: a folder with numbers and text only, nothing that runs.

    model.json                 the card (`ModelCard`)
    model.safetensors          the weights
    perturbations.safetensors  tensor "features" (labels, p), only for models whose perturbations are feature vectors

A folder is written beside its place and renamed, so it is whole or not there. Cards are read without torch.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from state_engine.checkpoints.card import FORMAT, AttentionOrigin, Calibration, ModelCard
from state_engine.checkpoints.folder import (
    AGAIN,
    MOST_LAYERS,
    WEIGHTS,
    check_hash,
    check_tensors,
    read_card_file,
    read_tensor,
    read_tensors,
    weights_hash,
    write_folder,
)
from state_engine.errors import CheckpointError
from state_engine.files import write_bytes
from state_engine.plain import to_plain

if TYPE_CHECKING:
    from torch import Tensor

    from state_engine.models.transition import TransitionModel

CARD = "model.json"
TRAINED = "model"  # the folder of a training has its model here, beside the files for arc-state
FEATURES = "perturbations.safetensors"
# how the sentence on a card begins -> the field that says the same
EARLIER_ORIGINS: dict[str, AttentionOrigin] = {
    "Declared by": "declared", "Assumed:": "assumed", "Trained with": "trained", "Chosen when": "chosen"
}  # fmt: skip


def is_store(folder: Path) -> bool:
    """The folder holds a model in our format, or is the folder of a training that made one."""
    return (model_folder(folder) / CARD).is_file()


def model_folder(folder: Path) -> Path:
    """Where the model lies: the folder itself, or its `model` when it is the folder of a training."""
    inner = folder / TRAINED
    return inner if not (folder / CARD).is_file() and (inner / CARD).is_file() else folder


def read_card(folder: Path) -> ModelCard:
    """The card of a model in our format, without torch.

    Raises:
        CheckpointError: no card there, or one that is damaged, from another version, or contradicts itself.
    """
    path = model_folder(folder) / CARD
    if not path.is_file():
        fix = f"Convert it first: python -m state_engine convert --model {folder} --output DIR."
        is_theirs = (folder / "checkpoints").is_dir() or (folder / "var_dims.pkl").is_file()
        raise CheckpointError(f"There is no {CARD} in {folder}.", "A model in our format has one.", fix if is_theirs else AGAIN)
    card = read_card_file(path, ModelCard, "a model card")
    if not card.attention_origin:
        # cards written before 2026-11-28 have it in a sentence only
        origin = next(
            (found for start, found in EARLIER_ORIGINS.items() if card.attention_source.startswith(start)), card.attention_origin
        )
        card = dataclasses.replace(card, attention_origin=origin)
    check_card(card)
    return card


def check_card(card: ModelCard) -> None:
    """Lists of a card have the lengths its network needs.

    Raises:
        CheckpointError: they have not; all that is wrong, in one message.
    """
    config = card.config
    n, genes_in, genes_out = len(card.perturbations), card.input_genes or (), card.output_genes or ()
    width_out = config.decoder.genes if config.decoder else config.output_dim
    one_hot = card.perturbation_encoding == "one-hot"
    # what is wrong where the test behind it fails
    checks = {
        f"the control '{card.control}' is not among its perturbations": card.control in card.perturbations,
        "perturbations repeat": len(set(card.perturbations)) == n,
        f"{n} perturbations, but one-hot vectors of {config.perturbation_dim}": not one_hot or n == config.perturbation_dim,
        f"{len(genes_in)} input genes for {config.input_dim} input features": (
            card.input_genes is None or len(genes_in) == config.input_dim
        ),
        f"{len(genes_out)} output genes for {width_out} output features": (
            card.output_genes is None or len(genes_out) == width_out
        ),
        f"{len(card.unseen)} perturbations were never trained and have no feature vector": not (card.unseen and one_hot),
        "perturbations that it says were never trained are not among its perturbations": {*card.unseen} <= {*card.perturbations},
        f"{len(card.batches)} batches, but an encoder for {config.batch_dim}": (
            not config.batch_encoder or len(card.batches) == config.batch_dim
        ),
        f"more than {MOST_LAYERS} layers": (
            max(config.backbone.layers, config.encoder_layers, config.decoder_layers) <= MOST_LAYERS
        ),
    }
    wrong = [text for text, right in checks.items() if not right]
    if wrong:
        raise CheckpointError(f"The card of '{card.name}' contradicts itself.", f"{'; '.join(wrong)}.", AGAIN)


def save_model(
    folder: Path,
    card: ModelCard,
    state_dict: dict[str, Tensor],
    features: Tensor | None = None,
    *,
    replace: bool = False,
) -> ModelCard:
    """Write a model; `id` and `weights_hash` of the card are filled in here.

    Args:
        folder: where; it must not be there yet unless `replace`.
        card: the card.
        state_dict: weights of the `TransitionModel` of `card.config`.
        features: (labels, p) float, for encoding "features" only.
        replace: put it in the place of a model that is there.

    Returns:
        The card as written.

    Raises:
        CheckpointError: the folder is there already, or card, weights and features do not belong together.
    """
    if folder.exists() and not replace:  # before the work of hashing
        raise CheckpointError(f"{folder} is there already.", fix="Choose another folder, or remove it first.")
    check_weights(card, state_dict)
    check_features(card, features)
    whole = weights_hash(state_dict, features)
    card = dataclasses.replace(card, weights_hash=whole, id=whole[:12], format=FORMAT)
    check_card(card)
    tensors = {WEIGHTS: state_dict, **({} if features is None else {FEATURES: {"features": features}})}
    write_folder(folder, (CARD, _card_text(card)), tensors, replace=replace)
    return card


def set_calibration(
    folder: Path, calibration: Calibration | None, blocks: Calibration | None = None, new: Calibration | None = None
) -> ModelCard:
    """Replace the calibrations of a saved model; its weights and its id stay. Returns the card.

    Raises:
        CheckpointError: no model in our format is there.
    """
    card = dataclasses.replace(read_card(folder), calibration=calibration, block_calibration=blocks, new_calibration=new)
    write_card(folder, card)
    return card


def write_card(folder: Path, card: ModelCard) -> None:
    """Replace the card of a saved model; its weights stay."""
    write_bytes(model_folder(folder) / CARD, _card_text(card).encode("utf-8"))


def check_weights(card: ModelCard, state_dict: dict[str, Tensor]) -> None:
    """The weights are those of the card's network, no more and no less.

    Raises:
        CheckpointError: names that are missing, unexpected, or have another shape.
    """
    check_tensors(card.name, {name: tuple(t.shape) for name, t in empty_network(card).state_dict().items()}, state_dict)


def check_features(card: ModelCard, features: Tensor | None) -> None:
    """Feature vectors are there when the card says so, a row a perturbation.

    Raises:
        CheckpointError: they are missing, not wanted, or have another shape.
    """
    wanted = (len(card.perturbations), card.config.perturbation_dim) if card.perturbation_encoding == "features" else None
    given = None if features is None else tuple(features.shape)
    if wanted != given:
        raise CheckpointError(
            f"The perturbation features of '{card.name}' have shape {given}.", f"Its card says {wanted}.", AGAIN
        )


def _card_text(card: ModelCard) -> str:
    """Return the text of a card; fields that came later are left out where they say nothing, so that earlier versions read it."""
    later = ("calibration", "unseen", "attention_origin", "block_calibration", "new_calibration", "bands")
    plain = {name: value for name, value in to_plain(card).items() if value or name not in later}
    return json.dumps(plain, indent=1, ensure_ascii=False)


def empty_network(card: ModelCard) -> TransitionModel:
    """Return the network without memory for its weights: costs nothing, whatever its size."""
    import torch

    from state_engine.models.transition import TransitionModel

    with torch.device("meta"):
        return TransitionModel(card.config)


def read_store(folder: Path) -> tuple[ModelCard, dict[str, Tensor], Tensor | None]:
    """Return card, weights and perturbation features (labels, p) of a model in our format; None when they are one-hot.

    Raises:
        CheckpointError: files are missing, damaged, or not those of the card.
    """
    inner = model_folder(folder)
    card = read_card(inner)
    state_dict = read_tensors(inner / WEIGHTS)
    features = None if card.perturbation_encoding == "one-hot" else read_tensor(inner / FEATURES, "features")
    check_weights(card, state_dict)
    check_features(card, features)
    check_hash(folder, card.weights_hash, state_dict, features)
    return card, state_dict, features
