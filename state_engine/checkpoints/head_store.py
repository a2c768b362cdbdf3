"""Heads in our own store: `head.json` (the card) and `model.safetensors`, written beside their place and renamed; nothing that runs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from state_engine.checkpoints.folder import WEIGHTS, check_hash, check_tensors, read_tensors, weights_hash, write_folder
from state_engine.checkpoints.head_card import CARD, FORMAT, HeadCard, check_head_card, read_head_card
from state_engine.errors import CheckpointError
from state_engine.models.heads import Head
from state_engine.plain import to_plain


@dataclass(frozen=True)
class LoadedHead:
    """A head that is ready: its card, and the network in eval mode."""

    card: HeadCard
    module: Head

    @torch.inference_mode()
    def outputs(self, vectors: Tensor) -> Tensor:
        """Return what the head says of vectors (n, w): probabilities (n, labels), or numbers (n, 1)."""
        raw = self.module(vectors.to(self.module.centre))
        if self.card.task == "regression":
            return self.card.centre + self.card.spread * raw
        scaled = raw / self.card.temperature
        return scaled.sigmoid() if self.card.task == "multi-label" else scaled.softmax(dim=1)


def save_head(folder: Path, card: HeadCard, state_dict: dict[str, Tensor]) -> HeadCard:
    """Write a head; `id` and `weights_hash` of the card are filled in here. Returns the card as written.

    Raises:
        CheckpointError: the folder is there already, or card and weights do not belong together.
    """
    _check_weights(card, state_dict)
    whole = weights_hash(state_dict)
    card = dataclasses.replace(card, weights_hash=whole, id=whole[:12], format=FORMAT)
    check_head_card(card)
    text = json.dumps(to_plain(card), indent=1, ensure_ascii=False)
    write_folder(folder, (CARD, text), {WEIGHTS: state_dict}, replace=False)
    return card


def load_head(folder: Path, device: str | torch.device = "cpu") -> LoadedHead:
    """Load a head.

    Raises:
        CheckpointError: files are missing or damaged, or weights are not those of the card.
    """
    card = read_head_card(folder)
    state_dict = read_tensors(folder / WEIGHTS)
    _check_weights(card, state_dict)
    check_hash(folder, card.weights_hash, state_dict, None)
    wrong = [name for name, tensor in state_dict.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise CheckpointError(f"Weights of '{card.name}' are not finite.", f"Such as {wrong[0]}.", "Fit it again.")
    module = Head(card.config)
    module.load_state_dict(state_dict)
    return LoadedHead(card, module.to(device).eval().requires_grad_(False))


def _check_weights(card: HeadCard, state_dict: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in Head(card.config).state_dict().items()}
    check_tensors(card.name, wanted, state_dict)
