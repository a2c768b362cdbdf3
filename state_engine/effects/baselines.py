"""The baselines that every prediction is put beside: one function for each, whatever the effects come from. No torch.

The measured effect of the predicted condition itself is always left out, so that a baseline never repeats what it should predict. How a baseline's
effect becomes cells is decided in `effects.apply`.

Notation: k perturbations, g features of expression, p features of a perturbation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.effects.store import EFFECTS, check_features, load_effects
from state_engine.effects.table import Baseline, Condition, EffectTable, fit_ridge
from state_engine.effects.transfer import Likeness
from state_engine.errors import CheckpointError, ConfigError, RequestError, listed

COMBINED = "+"  # between the single perturbations of a combination
NEIGHBOURS = 3

WORDS: dict[Baseline, str] = {
    "no change": "the basal cells as they are",
    "mean of other contexts": "basal cells plus the perturbation's mean effect in the other contexts of the model's training cells",
    "likeness-weighted mean": "basal cells plus the perturbation's effects in the other contexts of the model's training cells, weighted by "
    "how alike the control cells are",
    "mean of the context": "basal cells plus the mean effect of the other perturbations of the context in the model's training cells",
    "additive": "basal cells plus the sum of the effects of the single perturbations of a combination in the model's training cells",
    "nearest neighbours": "basal cells plus the mean effect, in the context, of the perturbations whose effects in other contexts are most "
    "like the perturbation's, in the model's training cells",
    "ridge": "basal cells plus an effect from a ridge regression on perturbation features, fitted on the model's training cells",
}
LACKING: dict[Baseline, str] = {
    "no change": "",
    "mean of other contexts": "The training cells have the perturbation in no other context.",
    "likeness-weighted mean": "The training cells have the perturbation in no other context.",
    "mean of the context": "The training cells have no other perturbation of the context.",
    "additive": "It is no combination, or the training cells lack one of its single perturbations.",
    "nearest neighbours": "The training cells have the perturbation in no other context, or no other perturbation in both.",
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


def additive(table: EffectTable, conditions: Sequence[Condition]) -> Effects:
    """Return, for combinations such as "A+B", the sum of the effects of A and of B in the context.

    A part that the context lacks has its mean effect over other contexts. What is no combination, or lacks a part, is left out.
    """
    found = {}
    for p, c in conditions:
        parts = [part.strip() for part in p.split(COMBINED)]
        effects = [
            table.mean_of_perturbation(part, c) if table.effect(part, c) is None else table.effect(part, c) for part in parts
        ]
        known = [effect for effect in effects if effect is not None]
        if len(parts) > 1 and len(known) == len(parts):
            found[p, c] = BaselineEffect(np.stack(known).sum(axis=0, dtype=np.float64).astype(np.float32))
    return found


def nearest_neighbours(table: EffectTable, conditions: Sequence[Condition], k: int = NEIGHBOURS) -> Effects:
    """Return the mean effect, in the context, of the k perturbations that resemble the condition's in other contexts.

    Resemblance is the correlation of the mean effects over all other contexts; neighbours have to be measured in the context and outside it.
    """
    found = {}
    labels = tuple(dict.fromkeys(table.perturbations))
    for context in dict.fromkeys(c for _, c in conditions):
        # what every neighbour must have: an effect here, and a mean effect elsewhere to be compared by
        outside = {q: mean for q in labels if (mean := table.mean_of_perturbation(q, context)) is not None}
        inside = {q: effect for q in outside if (effect := table.effect(q, context)) is not None}
        names = list(inside)
        if not names:
            continue
        elsewhere = _standardised(np.stack([outside[q] for q in names]))  # (q, g)
        here = np.stack(list(inside.values()))
        for p in (p for p, c in conditions if c == context and p in outside):
            alike = elsewhere @ _standardised(outside[p][None])[0]  # (q,) correlations
            # the most alike first; the order of names decides between equals
            order = [i for i in np.argsort(-alike, kind="stable") if names[i] != p][:k]
            if order:
                found[p, context] = BaselineEffect(here[order].mean(axis=0).astype(np.float32), len(order))
    return found


def _standardised(effects: np.ndarray) -> np.ndarray:
    """Return effects (n, g) centred and of length 1, so that products are correlations; 0 for one that is the same everywhere."""
    centred = effects - effects.mean(axis=1, keepdims=True)
    size = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(np.divide(centred, size, out=np.zeros_like(centred), where=size > 0))


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


_OF_TABLE: dict[Baseline, Callable[[EffectTable, Sequence[Condition]], Effects]] = {
    "mean of other contexts": mean_of_other_contexts,
    "mean of the context": mean_of_the_context,
    "additive": additive,
    "nearest neighbours": nearest_neighbours,
}


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
        elif method == "likeness-weighted mean":
            found = likeness_weighted_mean(Likeness(table, controls), conditions)
        else:
            found = _OF_TABLE[method](table, conditions)
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
