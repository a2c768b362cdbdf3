"""Whether a model was trained on a condition: agreement with measured cells is a test only where it was not.

Read from the model's card (what was held out, what came back through another data set) and from the effects saved with it, which name every
condition of its training cells.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from state_engine.checkpoints.card import ModelCard
from state_engine.effects.store import stored_conditions
from state_engine.effects.table import Condition
from state_engine.errors import StateError

Exposure = Literal["test", "in training", "not known"]


@dataclass(frozen=True, order=True)
class TrainedOn:
    """What of a condition was in the training: its context, its perturbation, and the two together."""

    context: bool
    perturbation: bool
    pair: bool


def parts_trained(trained: Collection[Condition], conditions: Iterable[Condition]) -> dict[Condition, TrainedOn]:
    """Return for each condition what of it is in the conditions of the training cells."""
    contexts, perturbations = {c for _, c in trained}, {p for p, _ in trained}
    return {(p, c): TrainedOn(c in contexts, p in perturbations, (p, c) in trained) for p, c in conditions}


def trained_parts(card: ModelCard, folder: Path, conditions: Sequence[Condition]) -> dict[Condition, TrainedOn]:
    """Return for each condition what of it the model was trained on; nothing where neither its saved effects nor its card say so.

    Args:
        as `exposures`.
    """
    try:
        trained = stored_conditions(folder)
    except StateError:
        trained = None
    known = exposures(card, folder, conditions)
    if trained is not None:
        made = parts_trained(trained, conditions)
    elif card.training.held_out and card.contexts:
        kept = [p for p in card.perturbations if p != card.control and p not in card.unseen]
        held = card.training.held_out
        pairs = {(p, c) for p in kept for c in card.contexts if not any(one.covers(p, c) for one in held)}
        made = parts_trained(pairs, conditions)
    else:
        return {}
    # what came back through another data set was trained on as a whole
    return {pair: TrainedOn(True, True, True) if known[pair] == "in training" else one for pair, one in made.items()}


def exposures(card: ModelCard, folder: Path, conditions: Sequence[Condition]) -> dict[Condition, Exposure]:
    """Return for each (perturbation, context) whether agreement with its measured cells is a test.

    Args:
        card: of the model.
        folder: of the model; the labels of its saved effects are read where there are any.
        conditions: that are asked for.
    """
    try:
        trained = stored_conditions(folder)
    except StateError:  # damaged: whoever needs the numbers is told; here it is only less that is known
        trained = None
    back = {name for leak in card.training.leaks for name in leak.conditions}
    cells_back = any(not leak.conditions for leak in card.training.leaks)
    found: dict[Condition, Exposure] = {}
    for p, c in conditions:
        held = any(one.covers(p, c) for one in card.training.held_out)
        if held and (cells_back or f"{c} x {p}" in back):
            found[p, c] = "in training"
        elif held:
            found[p, c] = "test"
        elif trained is not None:
            found[p, c] = "in training" if (p, c) in trained else "test"
        elif card.training.held_out and c in card.contexts and p in card.perturbations and p not in card.unseen:
            found[p, c] = "in training"  # the card lists what was kept out, and this is not in the list
        else:
            found[p, c] = "not known"
    return found
