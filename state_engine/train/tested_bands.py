"""Bands (`effects.bands`) of a model without a calibration, from its tested conditions.

Only for models whose tested conditions hide nothing from anyone, such as the demo: a training has the bands of what its calibration leaves out,
and reads no test cells.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import write_card
from state_engine.data.splits.apply import TEST, VAL, Split
from state_engine.effects.apply import applied_mean
from state_engine.effects.bands import fit_bands
from state_engine.effects.means import effect_table
from state_engine.effects.store import load_effects
from state_engine.train.conditions import output_sources, predicts_expression, validation_conditions


def add_tested_bands(folder: Path, split: Split, seed: int = 42) -> ModelCard:
    """Write the bands that tested conditions tell into the card of a model, and return the card.

    Args:
        folder: of the model.
        split: that it was trained on.
        seed: of basal cells.
    """
    loaded = load_model(folder)
    names = loaded.card.output_genes or () if predicts_expression(loaded.card) else ()
    effects = load_effects(folder) or effect_table(split, output_sources(split, loaded.card), names)
    sources = tuple(replace(at, parts=np.where(at.parts == TEST, VAL, at.parts).astype(np.uint8)) for at in split.sources)
    conditions = list(validation_conditions(loaded, effects, replace(split, sources=sources), seed))
    expression = predicts_expression(loaded.card)
    predicted = [applied_mean(c.control, c.paired, nonnegative=expression) - c.control for c in conditions]
    bands = fit_bands(predicted, [c.observed for c in conditions], "tested conditions") if expression else None
    card = replace(loaded.card, bands=bands)
    write_card(folder, card)
    return card
