"""The card of a model folder of either kind: ours, or an arc-state run directory."""

from __future__ import annotations

from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import is_store, read_card


def card_of(folder: Path) -> ModelCard:
    """The card; of an arc-state directory by reading its files (needs torch, seconds).

    Raises:
        CheckpointError, ConfigError, UnsafePickleError: the folder is not a model that can be read.
    """
    if is_store(folder):
        return read_card(folder)
    from state_engine.checkpoints.arc.read import read_arc

    return read_arc(folder)[0]
