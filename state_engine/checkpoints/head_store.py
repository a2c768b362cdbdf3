"""Heads in our own store: `head.json` (the card), `model.safetensors` and `fitted.safetensors` (which cells it was fitted on, as codes of their
names), written beside their place and renamed; nothing that runs.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from state_engine.checkpoints.folder import (
    AGAIN,
    WEIGHTS,
    check_hash,
    check_tensors,
    read_tensor,
    read_tensors,
    weights_hash,
    write_folder,
)
from state_engine.checkpoints.head_card import CARD, FITTED, FORMAT, HeadCard, check_head_card, head_id, read_head_card
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


def save_head(folder: Path, card: HeadCard, state_dict: dict[str, Tensor], fitted: Tensor | None = None) -> HeadCard:
    """Write a head; `id` and `weights_hash` of the card are filled in here. Returns the card as written.

    Args:
        folder: where; it must not be there yet.
        card: of the head.
        state_dict: its weights.
        fitted: (m,) int64 codes of the names of the cells it was fitted on; None where they are not known.

    Raises:
        CheckpointError: the folder is there already, or card and weights do not belong together.
    """
    _check_weights(card, state_dict)
    whole = weights_hash(state_dict)
    card = dataclasses.replace(card, weights_hash=whole, format=FORMAT)
    card = dataclasses.replace(card, id=head_id(card))
    check_head_card(card)
    text = json.dumps(to_plain(card), indent=1, ensure_ascii=False)
    tensors = {WEIGHTS: state_dict, **({} if fitted is None else {FITTED: {"cells": fitted}})}
    write_folder(folder, (CARD, text), tensors, replace=False)
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


def fitted_cells(folder: Path) -> Tensor | None:
    """Return the (m,) int64 codes of the names of the cells that a head was fitted on; None where they were not written.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not (folder / FITTED).exists():
        return None
    cells = read_tensor(folder / FITTED, "cells")
    if cells.dtype != torch.int64 or cells.ndim != 1:
        raise CheckpointError(f"{FITTED} holds no codes of cells.", f"It has {cells.dtype} of shape {tuple(cells.shape)}.", AGAIN)
    return cells


def _check_weights(card: HeadCard, state_dict: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in Head(card.config).state_dict().items()}
    check_tensors(card.name, wanted, state_dict)
