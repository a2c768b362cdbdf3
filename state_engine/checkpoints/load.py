"""Loading State Transition models of either kind: ours, or an arc-state run directory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.recognise import PERTURBATIONS, embedding_kind, run_of
from state_engine.checkpoints.store import empty_network, is_store, read_card, read_store
from state_engine.errors import CheckpointError
from state_engine.models.config import AttentionMode

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from state_engine.models.transition import TransitionModel


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


def card_of(path: Path) -> ModelCard:
    """Return the card; that of an arc-state directory by reading its files (needs torch, seconds).

    Raises:
        CheckpointError, ConfigError, UnsafePickleError: the path is not a model that can be read.
    """
    if is_store(path):
        return read_card(path)
    _check_transition(path)
    from state_engine.checkpoints.arc.read import read_arc

    return read_arc(path)[0]


def _check_transition(path: Path) -> None:
    """Refuse a State Embedding model by name where a State Transition model belongs."""
    if embedding_kind(path) and not (run_of(path)[0] / PERTURBATIONS).is_file():
        raise CheckpointError(
            f"{path.name} is a State Embedding model (SE).",
            "It gives each cell an embedding and predicts no perturbation; that takes a State Transition model (ST).",
            "Use it to embed cells, or choose an ST model.",
        )


def load_model(
    folder: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attention: AttentionMode | None = None,
) -> LoadedModel:
    """Load a model of our format, or an arc-state run directory.

    Args:
        folder: the model's folder, that of a training, or a .ckpt file of a run directory.
        device: where the weights go.
        dtype: precision of the weights; None is float32.
        attention: which cells of a set see which; None takes the mode of the card.

    Raises:
        CheckpointError: files are missing or damaged; weights are missing, unexpected, of another shape, or not those of
            the card.
        UnsafePickleError: an arc-state file asks for more than numbers and containers.
    """
    import torch

    from state_engine.checkpoints.arc.read import read_arc

    if not is_store(folder):
        _check_transition(folder)
    card, state_dict, features = read_store(folder) if is_store(folder) else read_arc(folder)
    module = empty_network(card)
    module.load_state_dict(state_dict, assign=True)
    module.to(device=device, dtype=dtype or torch.float32).eval().requires_grad_(False)
    if attention is not None and attention != card.attention:
        card = dataclasses.replace(
            card, attention=attention, attention_source="Chosen when the model was loaded.", attention_origin="chosen"
        )
    if features is None:
        features = torch.eye(len(card.perturbations))
    return LoadedModel(card, module, features.to(device=device, dtype=dtype or torch.float32))
