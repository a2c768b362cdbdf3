"""What a baseline says about each condition of a request, from the effects saved with a model. No torch.

The effects are those of the model's own training cells, and of a predicted context its own measured effect of the perturbation is
left out, so that a baseline never repeats what it should predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.effects.store import EFFECTS, check_features, load_effects
from state_engine.effects.table import Baseline, EffectTable, fit_ridge
from state_engine.errors import CheckpointError, ConfigError, RequestError, listed

WORDS: dict[Baseline, str] = {
    "no change": "the basal cells as they are",
    "mean of other contexts": "basal cells plus the perturbation's mean effect in the other contexts of the model's training cells",
    "mean of the context": "basal cells plus the mean effect of the other perturbations of the context in the model's training cells",
    "ridge": "basal cells plus an effect from a ridge regression on perturbation features, fitted on the model's training cells",
}
LACKING: dict[Baseline, str] = {
    "no change": "",
    "mean of other contexts": "The training cells have the perturbation in no other context.",
    "mean of the context": "The training cells have no other perturbation of the context.",
    "ridge": "The perturbation has no features.",
}

Condition = tuple[str, str]  # perturbation, context


def baseline_effects(
    method: Baseline, folder: Path, card: ModelCard, conditions: tuple[Condition, ...], genes: tuple[str, ...], width: int
) -> dict[Condition, np.ndarray]:
    """Effects (g,) float32 of all conditions.

    Args:
        method: which baseline.
        folder: of the model.
        card: of the model.
        conditions: (perturbation, context).
        genes: names of the features that are predicted, empty for an embedding.
        width: how many there are, g.

    Raises:
        CheckpointError: the model has no effects saved, or they are of other features.
        RequestError: conditions about which the baseline says nothing; all of them are named.
        ConfigError: ridge without perturbation features, or with too few perturbations.
    """
    if method == "no change":
        return dict.fromkeys(conditions, np.zeros(width, np.float32))
    table = load_effects(folder)
    if table is None:
        raise CheckpointError(
            f"'{card.name}' has no effects of its training cells, which '{method}' is made of.",
            f"There is no {EFFECTS} in its folder: it was not trained by STATE Explorer, or without baselines.",
            "Choose 'no change', or a model that was trained here.",
        )
    check_features(table, genes, width)
    found = _found(method, table, folder, card, conditions)
    missing = [pair for pair in conditions if pair not in found]
    if missing:
        raise RequestError(
            f"'{method}' says nothing about {listed([f'{p} in {c}' for p, c in missing])}.", LACKING[method], "Leave these out."
        )
    return found


def _found(
    method: Baseline, table: EffectTable, folder: Path, card: ModelCard, conditions: tuple[Condition, ...]
) -> dict[Condition, np.ndarray]:
    if method == "ridge":
        return _ridge(table, perturbation_features(folder, card), conditions)
    one = table.mean_of_perturbation if method == "mean of other contexts" else lambda p, c: table.mean_of_context(c, p)
    means = {(p, c): one(p, c) for p, c in conditions}
    return {pair: mean for pair, mean in means.items() if mean is not None}


def _ridge(
    table: EffectTable, features: Mapping[str, np.ndarray], conditions: tuple[Condition, ...]
) -> dict[Condition, np.ndarray]:
    """By perturbation, over all contexts; a perturbation that is among the training cells is left out of its own fit."""
    labels, effects = table.by_perturbation()
    known = [i for i, label in enumerate(labels) if label in features]
    fitted = fit_ridge(tuple(labels[i] for i in known), np.array([features[labels[i]] for i in known]), effects[known])
    return {(p, c): fitted.effect(p, features[p]).astype(np.float32) for p, c in conditions if p in features}


def perturbation_features(folder: Path, card: ModelCard) -> dict[str, np.ndarray]:
    """Label -> features (p,) of a model that reads feature vectors.

    Raises:
        ConfigError: it knows labels only, which say nothing about one another.
        CheckpointError: their file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if card.perturbation_encoding != "features":
        raise ConfigError(
            f"'{card.name}' has no perturbation features.",
            "It knows perturbations by their names only; a ridge regression needs a vector for each.",
            "Choose another baseline, or a model trained with features.",
        )
    path = next(
        (p for p in (folder / "perturbations.safetensors", folder / "model" / "perturbations.safetensors") if p.is_file()), None
    )
    try:
        rows = load_file(path)["features"] if path else None
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged.", f"{error}.", "Train or download the model again.") from error
    if rows is None or len(rows) != len(card.perturbations):
        raise CheckpointError(
            f"The perturbation features of '{card.name}' are not there.", "", "Train or download the model again."
        )
    return dict(zip(card.perturbations, rows, strict=True))
