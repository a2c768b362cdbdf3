"""A model's folder in our format, whatever its card: read the card, read and write tensors, hash them.

Cards are read without torch. A folder is written beside its place and renamed, so it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from state_engine.errors import CheckpointError, ConfigError, listed
from state_engine.files import read_json
from state_engine.plain import from_plain, to_plain

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # version of the layout of a folder
WEIGHTS = "model.safetensors"
MOST_LAYERS = 512
AGAIN = "Download or convert the model again."
C = TypeVar("C")


def read_card_file(path: Path, cls: type[C], what: str) -> C:
    """Return the card in a file that is there; the caller checks what it says.

    Args:
        path: the JSON file.
        cls: the card's dataclass.
        what: what the file should be, for the message ("a model card").

    Raises:
        CheckpointError: the file is damaged, from another version, or another kind of card.
    """
    try:
        plain = read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged.", f"It is not JSON: {error}.", AGAIN) from error
    version = plain.get("format") if isinstance(plain, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has format {version!r}.", f"This version reads format {FORMAT}.", "Update STATE Explorer, or convert again."
        )
    try:
        return from_plain(cls, plain)
    except ConfigError as error:
        raise CheckpointError(f"{path} is not {what}.", str(error), AGAIN) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        CheckpointError: it is missing, damaged or cut.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing in {path.parent}.", "A model in our format has one.", AGAIN)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or truncated.", f"{error}.", AGAIN) from error


def read_tensor(path: Path, name: str) -> Tensor:
    """Return the only tensor of a file.

    Raises:
        CheckpointError: see `read_tensors`, or the file holds others.
    """
    tensors = read_tensors(path)
    if set(tensors) != {name}:
        raise CheckpointError(f"{path} holds {listed(sorted(tensors))}.", f"It must hold '{name}'.", AGAIN)
    return tensors[name]


def write_folder(folder: Path, card: tuple[str, str], tensors: Mapping[str, Mapping[str, Tensor]], *, replace: bool) -> None:
    """Write a model's folder.

    Args:
        folder: where; it must not be there yet unless `replace`.
        card: name and text of the card's file.
        tensors: name of a safetensors file -> name -> tensor.
        replace: put it in the place of a model that is there.

    Raises:
        CheckpointError: the folder is there already.
    """
    from safetensors.torch import save_file

    if folder.exists() and not replace:
        raise CheckpointError(f"{folder} is there already.", fix="Choose another folder, or remove it first.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    beside.mkdir()
    old = beside.with_suffix(".old")
    try:
        for file, named in tensors.items():
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, beside / file)
        (beside / card[0]).write_text(card[1], encoding="utf-8")
        # a model that is there steps aside first and is removed last
        if folder.exists():
            folder.rename(old)
        try:
            beside.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def weights_hash(state_dict: Mapping[str, Tensor], features: Tensor | None = None) -> str:
    """Return the sha256 (hex) of names, types, shapes and bytes in the order of the names; feature vectors count as weights."""
    import torch

    digest = hashlib.sha256()
    extra = {} if features is None else {"perturbations.features": features}
    for name, tensor in sorted({**state_dict, **extra}.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def id_with_names(weights: str, names: object) -> str:
    """Return the first 12 hex digits of a sha256 of a hash of weights and of what their inputs and outputs are called.

    Weights alone tell too little: data whose labels have other names train the very same weights.
    """
    text = json.dumps(to_plain(names), sort_keys=True)
    return hashlib.sha256(f"{weights}\n{text}".encode()).hexdigest()[:12]


def check_tensors(
    model: str, wanted: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, Tensor], other: tuple[str, ...] = ()
) -> None:
    """Check that weights are those of a network, no more and no less.

    Args:
        model: its name, for the message.
        wanted: name -> shape, of the network.
        state_dict: the weights.
        other: what else has another shape than it should, in words.

    Raises:
        CheckpointError: names that are missing, unexpected, or have another shape.
    """
    given = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    both = sorted(wanted.keys() & given.keys())
    shapes = [f"{name} is {given[name]} instead of {wanted[name]}" for name in both if given[name] != wanted[name]]
    parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", [*shapes, *other])]
    if any(names for _, names in parts):
        raise CheckpointError(
            f"The weights of '{model}' do not fit its network.",
            " ".join(f"{len(names)} {word}: {listed(names, 8)}." for word, names in parts if names),
            "Either the file is damaged, or it was made by a version with parts that are not known here.",
        )


def check_hash(folder: Path, declared: str, state_dict: Mapping[str, Tensor], features: Tensor | None) -> None:
    """Check that weights are those that the card was written for.

    Raises:
        CheckpointError: their hash is another.
    """
    if weights_hash(state_dict, features) != declared:
        raise CheckpointError(f"The weights in {folder} are not those of its card.", "Their hashes differ.", AGAIN)
