"""What the conditions that are scored are to the model, going by its card. Words only."""

from __future__ import annotations

from state_engine.checkpoints.card import ModelCard
from state_engine.errors import listed


def seen_words(card: ModelCard, conditions: tuple[tuple[str, str], ...]) -> str:
    """Which of some (perturbation, context) the model was trained without, and what that means for the scores."""
    said = set(card.training.held_out)
    unseen = [f"{c} x {p}" for p, c in conditions if said & {p, c, f"{c} x {p}"}]
    if unseen and len(unseen) == len(conditions):
        return f"{card.name} was trained without any of these conditions, its card says."
    if unseen:
        rest = len(conditions) - len(unseen)
        return (
            f"{card.name} was trained without {len(unseen):,} of these {len(conditions):,} conditions ({listed(unseen)}); it may have seen the "
            f"other {rest:,}, which flatters it."
        )
    return f"Nothing says that {card.name} was trained without these conditions. If it has seen them, these numbers flatter it."
