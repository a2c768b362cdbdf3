"""Whether a model was trained on a condition: agreement with measured cells is a test only where it was not.

Read from the model's card (what was held out, what came back through another data set) and from the effects saved with it, which name every
condition of its training cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from state_engine.checkpoints.card import ModelCard
from state_engine.effects.store import stored_conditions
from state_engine.effects.table import Condition
from state_engine.errors import StateError

Exposure = Literal["test", "in training", "not known"]


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
