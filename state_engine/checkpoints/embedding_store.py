"""State Embedding models: our own store, and loading of either kind.

    embedding.json       the card (`EmbeddingCard`), with the gene vocabulary
    model.safetensors    the weights
    genes.safetensors    tensor "vectors" (genes, token_dim), the vector of each gene of the vocabulary

A folder is written beside its place and renamed, so it is whole or not there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from state_engine.checkpoints.arc.embedding import read_arc_embedding
from state_engine.checkpoints.embedding_card import (
    CARD,
    FORMAT,
    EmbeddingCard,
    check_embedding_card,
    is_embedding_store,
    read_embedding_card,
)
from state_engine.checkpoints.folder import (
    AGAIN,
    MOST_LAYERS,
    WEIGHTS,
    check_hash,
    check_tensors,
    read_tensor,
    read_tensors,
    weights_hash,
    write_folder,
)
from state_engine.checkpoints.recognise import PERTURBATIONS, embedding_kind
from state_engine.checkpoints.store import is_store
from state_engine.errors import CheckpointError
from state_engine.models.embedding import EmbeddingModel
from state_engine.plain import to_plain

GENES = "genes.safetensors"


@dataclass(frozen=True)
class LoadedEmbedding:
    """A model that is ready to embed.

    Args:
        card: what is known about it.
        module: the network, in eval mode, prepared with the gene vectors.
        vectors: (genes, token_dim) float32 gene vectors on the CPU, for decoding.
    """

    card: EmbeddingCard
    module: EmbeddingModel
    vectors: Tensor


def is_embedding(path: Path) -> bool:
    """The path looks like a State Embedding model, ours or arc-state's; decided from file names alone."""
    return bool(embedding_kind(path))


def read_embedding(path: Path, checkpoint: str | Path | None = None) -> tuple[EmbeddingCard, dict[str, Tensor], Tensor]:
    """Card, weights and gene vectors (genes, token_dim) of a model: our store, or arc-state's files.

    Args:
        path: a folder, or (arc-state's only) the file with the weights.
        checkpoint: which file of an arc-state folder; None for the one that is meant.

    Raises:
        CheckpointError: files are missing or damaged; weights are missing, unexpected, of another shape, or not those of the card.
        UnsafePickleError: a file asks for more than numbers and containers.
    """
    if is_embedding_store(path):
        return _read_store(path)
    if is_store(path) or (path / PERTURBATIONS).is_file():
        raise CheckpointError(
            f"{path.name} is a State Transition model (ST).",
            "It predicts perturbed cells and makes no embedding; that takes a State Embedding model (SE).",
            "Use it to predict, or choose an SE model.",
        )
    card, state_dict, vectors = read_arc_embedding(path, checkpoint)
    check_embedding_weights(card, state_dict, vectors)
    return _hashed(card, state_dict, vectors), state_dict, vectors


def embedding_card_of(path: Path) -> EmbeddingCard:
    """The card of a model of either kind; arc-state's by reading its files.

    Raises:
        CheckpointError, UnsafePickleError: see `read_embedding`.
    """
    return read_embedding_card(path) if is_embedding_store(path) else read_embedding(path)[0]


def load_embedding(
    path: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, checkpoint: str | Path | None = None
) -> LoadedEmbedding:
    """Load a model and prepare it.

    Args:
        path: a folder in our format or of arc-state, or a checkpoint file.
        device: where the weights go.
        dtype: precision of the weights; None is float32.
        checkpoint: which file of an arc-state folder.

    Raises:
        CheckpointError, UnsafePickleError: see `read_embedding`.
    """
    card, state_dict, vectors = read_embedding(path, checkpoint)
    module = _empty(card)
    module.load_state_dict(state_dict, assign=True)
    module.table = torch.empty(0)
    module.to(device=device).eval().requires_grad_(False)
    module.prepare(vectors.to(device))  # in float32, whatever comes after
    module.to(dtype=dtype or torch.float32)
    return LoadedEmbedding(card, module, vectors)


def save_embedding(
    folder: Path, card: EmbeddingCard, state_dict: dict[str, Tensor], vectors: Tensor, *, replace: bool = False
) -> EmbeddingCard:
    """Write a model in our format; hashes and `id` of the card are filled in here.

    Args:
        folder: where; it must not be there yet unless `replace`.
        card: the card.
        state_dict: weights of the `EmbeddingModel` of `card.config`.
        vectors: (genes, token_dim) gene vectors, a row for each of `card.vocabulary`.
        replace: put it in the place of a model that is there.

    Returns:
        The card as written.

    Raises:
        CheckpointError: the folder is there already, or card, weights and vectors do not belong together.
    """
    if folder.exists() and not replace:  # before the work of hashing
        raise CheckpointError(f"{folder} is there already.", fix="Choose another folder, or remove it first.")
    check_embedding_weights(card, state_dict, vectors)
    card = _hashed(card, state_dict, vectors)
    check_embedding_card(card)
    text = json.dumps(to_plain(card), indent=1, ensure_ascii=False)
    write_folder(folder, (CARD, text), {WEIGHTS: state_dict, GENES: {"vectors": vectors}}, replace=replace)
    return card


def convert_embedding(path: Path, output: Path, name: str | None = None, checkpoint: str | Path | None = None) -> EmbeddingCard:
    """Write a model of arc-state in our format.

    Args:
        path: its folder or checkpoint.
        output: folder to make; it must not be there yet.
        name: the model's name for people; None takes the folder's.
        checkpoint: which file of the folder.

    Raises:
        CheckpointError: see `read_embedding`, or `output` is there already.
        UnsafePickleError: see `read_embedding`.
    """
    card, state_dict, vectors = read_embedding(path, checkpoint)
    return save_embedding(output, dataclasses.replace(card, name=name or card.name), state_dict, vectors)


def check_embedding_weights(card: EmbeddingCard, state_dict: dict[str, Tensor], vectors: Tensor) -> None:
    """Weights and gene vectors are those of the card's network, no more and no less.

    Raises:
        CheckpointError: names that are missing, unexpected, or have another shape.
    """
    config = card.config
    if config.layers > MOST_LAYERS:
        raise CheckpointError(f"'{card.name}' has {config.layers} layers.", f"More than {MOST_LAYERS} are not read.", AGAIN)
    other: tuple[str, ...] = ()
    if tuple(vectors.shape) != (config.genes, config.token_dim):
        other = (f"gene vectors are {tuple(vectors.shape)} instead of {(config.genes, config.token_dim)}",)
    check_tensors(card.name, {name: tuple(t.shape) for name, t in _empty(card).state_dict().items()}, state_dict, other)


def _hashed(card: EmbeddingCard, state_dict: dict[str, Tensor], vectors: Tensor) -> EmbeddingCard:
    whole = weights_hash(state_dict, vectors)
    return dataclasses.replace(card, weights_hash=whole, id=whole[:12], format=FORMAT)


def _empty(card: EmbeddingCard) -> EmbeddingModel:
    """The network without memory for its weights: costs nothing, whatever its size."""
    with torch.device("meta"), _Undrawn():
        return EmbeddingModel(card.config)


class _Undrawn(TorchFunctionMode):
    """Leaves weights undrawn: drawing some that have no memory makes torch import its compiler, which takes a second."""

    SKIPPED = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in self.SKIPPED:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _read_store(folder: Path) -> tuple[EmbeddingCard, dict[str, Tensor], Tensor]:
    card = read_embedding_card(folder)
    state_dict, vectors = read_tensors(folder / WEIGHTS), read_tensor(folder / GENES, "vectors")
    check_embedding_weights(card, state_dict, vectors)
    check_hash(folder, card.weights_hash, state_dict, vectors)
    return card, state_dict, vectors
