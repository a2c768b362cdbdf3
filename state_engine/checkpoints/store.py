"""Our own format of a model: a folder with numbers and text only, nothing that runs.

    model.json                 the card (`ModelCard`)
    model.safetensors          the weights
    perturbations.safetensors  tensor "features" (labels, p), only for models whose perturbations are feature vectors

A folder is written beside its place and renamed, so it is whole or not there. Cards are read without torch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state_engine.checkpoints.card import FORMAT, Calibration, ModelCard
from state_engine.errors import CheckpointError, ConfigError, listed
from state_engine.files import write_bytes
from state_engine.models.config import AttentionMode
from state_engine.plain import from_plain, to_plain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from state_engine.models.transition import TransitionModel

CARD = "model.json"
TRAINED = "model"  # the folder of a training has its model here, beside the files for arc-state
WEIGHTS = "model.safetensors"
FEATURES = "perturbations.safetensors"
MOST_LAYERS = 512
ANEW = "Download or convert the model again."


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to predict.

    Args:
        card: what is known about it; `attention` is the mode chosen for this load.
        module: the network, in eval mode.
        perturbation_features: (labels, p), a row for each of `card.perturbations`.
    """

    card: ModelCard
    module: TransitionModel
    perturbation_features: Tensor


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
        raise CheckpointError(f"There is no {CARD} in {folder}.", "A model of ours has one.", fix if is_theirs else ANEW)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged.", f"It is not JSON: {error}.", ANEW) from error
    version = plain.get("format") if isinstance(plain, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}.", f"This version reads format {FORMAT}.", "Update STATE Explorer, or convert again."
        )
    try:
        card = from_plain(ModelCard, plain)
    except ConfigError as error:
        raise CheckpointError(f"{path} is not a model card.", str(error), ANEW) from error
    check_card(card)
    return card


def check_card(card: ModelCard) -> None:
    """Lists of a card have the lengths its network needs.

    Raises:
        CheckpointError: they have not; all that is wrong, in one message.
    """
    config = card.config
    wrong = []
    if card.control not in card.perturbations:
        wrong.append(f"the control '{card.control}' is not among its perturbations")
    if len(set(card.perturbations)) != len(card.perturbations):
        wrong.append("perturbations repeat")
    if card.perturbation_encoding == "one-hot" and len(card.perturbations) != config.perturbation_dim:
        wrong.append(f"{len(card.perturbations)} perturbations, but one-hot vectors of {config.perturbation_dim}")
    if card.input_genes is not None and len(card.input_genes) != config.input_dim:
        wrong.append(f"{len(card.input_genes)} input genes for {config.input_dim} input features")
    genes_out = config.decoder.genes if config.decoder else config.output_dim
    if card.output_genes is not None and len(card.output_genes) != genes_out:
        wrong.append(f"{len(card.output_genes)} output genes for {genes_out} output features")
    if card.unseen and card.perturbation_encoding == "one-hot":
        wrong.append(f"{len(card.unseen)} perturbations were never trained and have no feature vector")
    if not set(card.unseen) <= set(card.perturbations):
        wrong.append("perturbations that it says were never trained are not among its perturbations")
    if config.batch_encoder and len(card.batches) != config.batch_dim:
        wrong.append(f"{len(card.batches)} batches, but an encoder for {config.batch_dim}")
    if max(config.backbone.layers, config.encoder_layers, config.decoder_layers) > MOST_LAYERS:
        wrong.append(f"more than {MOST_LAYERS} layers")
    if wrong:
        raise CheckpointError(f"The card of '{card.name}' contradicts itself.", f"{'; '.join(wrong)}.", ANEW)


def weights_hash(state_dict: dict[str, Tensor], features: Tensor | None = None) -> str:
    """sha256 (hex) of names, types, shapes and bytes in the order of the names; perturbation features count as weights."""
    import hashlib

    import torch

    digest = hashlib.sha256()
    extra = {} if features is None else {"perturbations.features": features}
    for name, tensor in sorted({**state_dict, **extra}.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    from safetensors.torch import save_file

    if folder.exists() and not replace:
        raise CheckpointError(f"{folder} is there already.", fix="Choose another folder, or remove it first.")
    check_weights(card, state_dict)
    check_features(card, features)
    whole = weights_hash(state_dict, features)
    card = dataclasses.replace(card, weights_hash=whole, id=whole[:12], format=FORMAT)
    check_card(card)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    beside.mkdir()
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}, beside / WEIGHTS)
        if features is not None:
            save_file({"features": features.detach().cpu().contiguous()}, beside / FEATURES)
        (beside / CARD).write_text(_card_text(card), encoding="utf-8")
        _put(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return card


def set_calibration(folder: Path, calibration: Calibration | None) -> ModelCard:
    """Replace the calibration of a saved model; its weights and its id stay. Returns the card.

    Raises:
        CheckpointError: no model of ours is there.
    """
    card = dataclasses.replace(read_card(folder), calibration=calibration)
    write_bytes(model_folder(folder) / CARD, _card_text(card).encode("utf-8"))
    return card


def load_model(
    folder: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attention: AttentionMode | None = None,
) -> LoadedModel:
    """Load a model of our format, or an arc-state run directory.

    Args:
        folder: the model's folder, or that of a training.
        device: where the weights go.
        dtype: precision of the weights; None is float32.
        attention: which cells of a set see which; None obeys the card.

    Raises:
        CheckpointError: files are missing or damaged; weights are missing, unexpected, of another shape, or not those of
            the card.
        UnsafePickleError: an arc-state file asks for more than numbers and containers.
    """
    import torch

    from state_engine.checkpoints.arc.read import read_arc

    ours = is_store(folder)
    card, state_dict, features = _read(folder) if ours else read_arc(folder)
    check_weights(card, state_dict)
    check_features(card, features)
    if ours and weights_hash(state_dict, features) != card.weights_hash:
        raise CheckpointError(f"The weights in {folder} are not those of its card.", "Their hashes differ.", ANEW)
    module = _empty(card)
    module.load_state_dict(state_dict, assign=True)
    module.to(device=device, dtype=dtype or torch.float32).eval().requires_grad_(False)
    if attention is not None and attention != card.attention:
        card = dataclasses.replace(card, attention=attention, attention_source="Chosen when the model was loaded.")
    if features is None:
        features = torch.eye(len(card.perturbations))
    return LoadedModel(card, module, features.to(device=device, dtype=dtype or torch.float32))


def check_weights(card: ModelCard, state_dict: dict[str, Tensor]) -> None:
    """The weights are those of the card's network, no more and no less.

    Raises:
        CheckpointError: names that are missing, unexpected, or have another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in _empty(card).state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    shapes = [f"{n} is {given[n]} instead of {wanted[n]}" for n in sorted(wanted.keys() & given.keys()) if given[n] != wanted[n]]
    if missing or unexpected or shapes:
        parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
        raise CheckpointError(
            f"The weights of '{card.name}' do not fit its network.",
            " ".join(f"{len(names)} {word}: {listed(names, 8)}." for word, names in parts if names),
            "Either the file is damaged, or it was made by a version with parts that are not known here.",
        )


def check_features(card: ModelCard, features: Tensor | None) -> None:
    """Feature vectors are there when the card says so, a row a perturbation.

    Raises:
        CheckpointError: they are missing, not wanted, or have another shape.
    """
    wanted = (len(card.perturbations), card.config.perturbation_dim) if card.perturbation_encoding == "features" else None
    given = None if features is None else tuple(features.shape)
    if wanted != given:
        raise CheckpointError(f"The perturbation features of '{card.name}' have shape {given}.", f"Its card says {wanted}.", ANEW)


def _card_text(card: ModelCard) -> str:
    """A card without a calibration and unseen labels is written as before there were any, so that earlier versions read it."""
    plain = {name: value for name, value in to_plain(card).items() if value or name not in ("calibration", "unseen")}
    return json.dumps(plain, indent=1, ensure_ascii=False)


def _empty(card: ModelCard) -> TransitionModel:
    """The network without memory for its weights: costs nothing, whatever its size."""
    import torch

    from state_engine.models.transition import TransitionModel

    with torch.device("meta"):
        return TransitionModel(card.config)


def _read(folder: Path) -> tuple[ModelCard, dict[str, Any], Tensor | None]:
    folder = model_folder(folder)
    card = read_card(folder)
    state_dict = _read_tensors(folder / WEIGHTS)
    if card.perturbation_encoding == "one-hot":
        return card, state_dict, None
    features = _read_tensors(folder / FEATURES)
    if set(features) != {"features"}:
        raise CheckpointError(f"{folder / FEATURES} holds {listed(sorted(features))}.", "It must hold 'features'.", ANEW)
    return card, state_dict, features["features"]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}.", "A model of ours has one.", ANEW)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or truncated.", f"{error}.", ANEW) from error


def _put(beside: Path, folder: Path) -> None:
    """Rename `beside` to `folder`; a model that is there steps aside first and is removed last."""
    old = beside.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        beside.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
