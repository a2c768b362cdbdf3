"""The baselines that every prediction is put beside: one function for each, whatever the effects come from. No torch.

The measured effect of the predicted condition itself is always left out, so that a baseline never repeats what it should predict. How a baseline's
effect becomes cells is decided in `effects.apply`.

Notation: k perturbations, g features of expression, p features of a perturbation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.effects.store import EFFECTS, check_features, load_effects
from state_engine.effects.table import Baseline, Condition, EffectTable, fit_ridge
from state_engine.effects.transfer import Likeness
from state_engine.errors import CheckpointError, ConfigError, RequestError, listed

WORDS: dict[Baseline, str] = {
    "no change": "the basal cells as they are",
    "mean of other contexts": "basal cells plus the perturbation's mean effect in the other contexts of the model's training cells",
    "likeness-weighted mean": "basal cells plus the perturbation's effects in the other contexts of the model's training cells, weighted by "
    "how alike the control cells are",
    "mean of the context": "basal cells plus the mean effect of the other perturbations of the context in the model's training cells",
    "ridge": "basal cells plus an effect from a ridge regression on perturbation features, fitted on the model's training cells",
}
LACKING: dict[Baseline, str] = {
    "no change": "",
    "mean of other contexts": "The training cells have the perturbation in no other context.",
    "likeness-weighted mean": "The training cells have the perturbation in no other context.",
    "mean of the context": "The training cells have no other perturbation of the context.",
    "ridge": "The perturbation has no features.",
}


@dataclass(frozen=True, eq=False)
class BaselineEffect:
    """What a baseline predicts for one condition.

    Args:
        effect: (g,) float32.
        behind: measured conditions that it is the mean of; None where it is no mean.
    """

    effect: np.ndarray
    behind: int | None = None


Effects = dict[Condition, BaselineEffect]  # conditions about which a baseline says nothing are left out


def no_change(conditions: Sequence[Condition], width: int) -> Effects:
    """Return an effect of zero for each condition."""
    return dict.fromkeys(conditions, BaselineEffect(np.zeros(width, np.float32)))


def mean_of_other_contexts(table: EffectTable, conditions: Sequence[Condition]) -> Effects:
    """Return the perturbation's mean effect over the other contexts of the table, each context counting once."""
    found = {}
    for p, c in conditions:
        mean = table.mean_of_perturbation(p, c)
        if mean is not None:
            found[p, c] = BaselineEffect(mean, len(table.other_contexts(p, c)))
    return found


def likeness_weighted_mean(likeness: Likeness, conditions: Sequence[Condition]) -> Effects:
    """Return the perturbation's effects in the other contexts of the table, each counting by how alike its control cells are."""
    found = {pair: likeness.likeness_weighted(*pair) for pair in conditions}
    return {pair: BaselineEffect(mean.effect.astype(np.float32), mean.behind) for pair, mean in found.items() if mean is not None}


def mean_of_the_context(table: EffectTable, conditions: Sequence[Condition]) -> Effects:
    """Return the mean effect of the context's other perturbations, each counting once."""
    found = {}
    for p, c in conditions:
        mean = table.mean_of_context(c, leave_out=p)
        if mean is not None:
            own = table.effect(p, c) is not None
            found[p, c] = BaselineEffect(mean, table.n_perturbations(c) - own)
    return found


def ridge_on_features(table: EffectTable, features: Mapping[str, np.ndarray], conditions: Sequence[Condition]) -> Effects:
    """Return effects of a ridge regression over perturbations, their effects averaged over contexts.

    A perturbation of the table is left out of its own fit.

    Args:
        table: effects to fit.
        features: label -> (p,).
        conditions: that are asked for.

    Raises:
        ConfigError: fewer than three perturbations of the table have features.
    """
    labels, effects = table.by_perturbation()
    known = [i for i, label in enumerate(labels) if label in features]
    vectors = np.array([features[labels[i]] for i in known])
    fitted = fit_ridge(tuple(labels[i] for i in known), vectors, effects[np.array(known, dtype=np.int64)])
    return {(p, c): BaselineEffect(fitted.effect(p, features[p]).astype(np.float32)) for p, c in conditions if p in features}


def baseline_effects(
    method: Baseline,
    folder: Path,
    card: ModelCard,
    conditions: tuple[Condition, ...],
    genes: tuple[str, ...],
    width: int,
    controls: Mapping[str, np.ndarray] | None = None,
) -> dict[Condition, np.ndarray]:
    """Return the effects (g,) float32 of all conditions, from the effects saved with a model.

    Args:
        method: which baseline.
        folder: of the model.
        card: of the model.
        conditions: (perturbation, context).
        genes: names of the features that are predicted, empty for an embedding.
        width: how many there are, g.
        controls: context -> (g,) mean control cell of the data set, for contexts that the model was not trained on.

    Raises:
        CheckpointError: the model has no effects saved, or they are of other features.
        RequestError: conditions about which the baseline says nothing; all of them are named.
        ConfigError: ridge without perturbation features, or with too few perturbations.
    """
    if method == "no change":
        found = no_change(conditions, width)
    else:
        table = load_effects(folder)
        if table is None:
            raise CheckpointError(
                f"'{card.name}' has no effects of its training cells, which '{method}' is computed from.",
                f"There is no {EFFECTS} in its folder: it was not trained by STATE Explorer, or without baselines.",
                "Choose 'no change', or a model that was trained here.",
            )
        check_features(table, genes, width)
        if method == "ridge":
            found = ridge_on_features(table, perturbation_features(folder, card), conditions)
        elif method == "mean of other contexts":
            found = mean_of_other_contexts(table, conditions)
        elif method == "likeness-weighted mean":
            found = likeness_weighted_mean(Likeness(table, controls), conditions)
        else:
            found = mean_of_the_context(table, conditions)
    missing = [pair for pair in conditions if pair not in found]
    if missing:
        raise RequestError(
            f"'{method}' says nothing about {listed([f'{p} in {c}' for p, c in missing])}.", LACKING[method], "Leave these out."
        )
    return {pair: found[pair].effect for pair in conditions}


def perturbation_features(folder: Path, card: ModelCard) -> dict[str, np.ndarray]:
    """Return label -> features (p,) of a model that reads feature vectors.

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
    places = (folder / "perturbations.safetensors", folder / "model" / "perturbations.safetensors")
    path = next((p for p in places if p.is_file()), None)
    try:
        rows = load_file(path)["features"] if path else None
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged.", f"{error}.", "Train or download the model again.") from error
    if rows is None or len(rows) != len(card.perturbations):
        raise CheckpointError(
            f"The perturbation features of '{card.name}' are not there.", "", "Train or download the model again."
        )
    return dict(zip(card.perturbations, rows, strict=True))
