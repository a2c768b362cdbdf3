"""Validation conditions: what a model predicts for each, beside what the training cells alone say and what was measured.

A condition is a perturbation in a context. The model predicts control cells of the context, paired; its effect on the mean cell, and what the
training cells say of it (`effects.transfer`), are set beside the measured effect. Test cells are never read; a test holds that. A condition of
which the training cells say nothing takes no part.

Notation: s cells in a set, g features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel
from state_engine.data.expression import FeatureSource, iter_features, read_features
from state_engine.data.splits.apply import TRAIN, VAL
from state_engine.effects.apply import paired_cells
from state_engine.effects.from_features import FromFeatures
from state_engine.effects.means import mean_of
from state_engine.effects.mixture import Condition
from state_engine.effects.table import EffectTable
from state_engine.effects.transfer import Likeness, shared_effects
from state_engine.errors import IncompatibleError
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.draw import basal
from state_engine.prediction.forward import SetRunner, SetTask
from state_engine.prediction.outputs import batch_indices, expression_source
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.folds import MIN_CELLS

if TYPE_CHECKING:
    from state_engine.data.splits.apply import Split, SplitSource

STAGE = "Calibrating"
MOST_CELLS = 512  # control cells that are predicted in each context
MOST_CONDITIONS = 400
CELLS_HELD = 4096


def predicts_expression(card: ModelCard) -> bool:
    """Return whether expression of genes comes out, not an embedding alone."""
    return not card.reads_embedding or card.config.decoder is not None


def output_sources(split: Split, card: ModelCard) -> tuple[FeatureSource, ...]:
    """Return how the features that a model predicts are measured in each file of a split: expression, or its embedding.

    Raises:
        IncompatibleError: a file that the model cannot read, or that lacks the expression it predicts.
    """
    return tuple(_sources(at, card)[1] for at in split.sources)


def _sources(at: SplitSource, card: ModelCard) -> tuple[FeatureSource, FeatureSource]:
    """What the model reads of a file, and where what it predicts is measured."""
    source = require_compatible(check_compatibility(at.dataset, card, allow_unknown=True, allow_other_embedding=True))
    if not predicts_expression(card):
        return source, source
    measured = expression_source(at.dataset, card, source)
    if measured is None:
        raise IncompatibleError(
            f"{at.dataset.path.name} has no expression of the genes that the model predicts.",
            "Without it there is no measured effect to compare with.",
            "Choose the column of gene names that the model was trained with.",
        )
    return source, measured


@dataclass(frozen=True)
class _Place:
    """Validation conditions of one context in one file: perturbation -> its measured cells."""

    at: SplitSource
    context: str
    rows: dict[str, np.ndarray]


def validation_conditions(
    loaded: LoadedModel, effects: EffectTable, split: Split, seed: int, on_progress: OnProgress = silent
) -> Iterator[Condition]:
    """Yield what the model predicts for each validation condition, beside what the training cells alone say and what was measured."""
    places = _chosen(list(_places(loaded.card, effects, split)), seed)
    likeness, regression = Likeness(effects), _regression(loaded, effects)
    total, done = sum(len(place.rows) for place in places), 0
    for place in places:
        (control, noise), paired = paired_effects(loaded, place.at, place.context, tuple(place.rows), seed)
        likeness.know(place.context, control, noise)
        _, measured = _sources(place.at, loaded.card)
        for label, rows in place.rows.items():
            shared = shared_effects(likeness, label, place.context, regression)
            baselines = {"mean": shared.plain, "likeness": shared.likeness}
            # a gene that this file does not have was not measured, and tells nothing
            there = np.asarray(measured.columns) >= 0 if measured.columns is not None else np.ones(len(control), dtype=bool)
            observed = mean_cell(place.at, measured, rows) - control
            done += 1
            on_progress(Progress(STAGE, done, total))
            yield Condition(
                place.context,
                label,
                paired=paired[label] * there,
                mean=_where(shared.transfer, there),
                observed=observed * there,
                control=control * there,
                cells=len(rows),
                common=_where(shared.common, there),
                baselines={name: effect * there for name, effect in baselines.items() if effect is not None},
                correction=_where(shared.correction, there),
                features=_where(shared.features, there),
            )


def _where(effect: np.ndarray | None, there: np.ndarray) -> np.ndarray | None:
    """Return the effect of the genes that were measured, 0 for others."""
    return None if effect is None else effect * there


def _regression(loaded: LoadedModel, effects: EffectTable) -> FromFeatures | None:
    """Return the regression on the perturbation features that a model reads; None where it knows labels alone."""
    if loaded.card.perturbation_encoding != "features":
        return None
    rows = loaded.perturbation_features.detach().float().cpu().numpy()
    return FromFeatures(effects, dict(zip(loaded.card.perturbations, rows, strict=True)))


def _places(card: ModelCard, effects: EffectTable, split: Split) -> Iterator[_Place]:
    """Contexts with validation conditions that can be used, and controls that are not test cells."""
    known = set(card.perturbations) - {card.control, split.control}
    features = known if card.perturbation_encoding == "features" else set[str]()
    for at in split.sources:
        held = at.parts == VAL
        p, c = at.dataset.perturbation_labels(), at.dataset.context_labels()
        for context in sorted(set(c[held].tolist()) - {""}):
            here = held & (c == context)
            rows = {}
            for label in sorted(set(p[here].tolist()) & known):
                cells = np.flatnonzero(here & (p == label))
                told = label in features or effects.mean_of_perturbation(label, context) is not None
                if len(cells) >= MIN_CELLS and told:
                    rows[label] = cells
            if rows and len(control_rows(at, context)):
                yield _Place(at, context, rows)


def _chosen(places: list[_Place], seed: int) -> list[_Place]:
    """At most `MOST_CONDITIONS` conditions, drawn by the seed."""
    every = [(i, label) for i, place in enumerate(places) for label in place.rows]
    if len(every) <= MOST_CONDITIONS:
        return places
    picked = np.random.default_rng(seed).choice(len(every), MOST_CONDITIONS, replace=False)
    kept = {every[i] for i in picked.tolist()}
    found = [
        _Place(place.at, place.context, {label: rows for label, rows in place.rows.items() if (i, label) in kept})
        for i, place in enumerate(places)
    ]
    return [place for place in found if place.rows]


def control_rows(at: SplitSource, context: str) -> np.ndarray:
    """Return the control cells of a context that are for training or validation, (m,): never test cells."""
    rows = at.dataset.control_rows(context)
    return rows[np.isin(at.parts[rows], (TRAIN, VAL))]


def mean_cell(at: SplitSource, source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Return the mean of cells (g,) float64, block by block."""
    return mean_of(values for _, values in iter_features(at.dataset, source, rows))[0]


def paired_effects(
    loaded: LoadedModel, at: SplitSource, context: str, labels: tuple[str, ...], seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Return the mean control cell of a context (g,) with its squared standard errors, and what the model makes of it: label -> effect (g,).

    As in a prediction: a cell plus its own effect (under the label minus under the control), expression not below 0.
    """
    card, size = loaded.card, loaded.card.set_size
    source, measured = _sources(at, card)
    pool = control_rows(at, context)
    n = min(len(pool), MOST_CELLS)
    rows = basal(seed, context, pool, n, size)  # whole sets; the surplus is predicted and not counted
    runner = SetRunner(loaded.module, loaded.perturbation_features, card.attention)
    batches = batch_indices(at.dataset, card, allow_unknown=True)
    expression = predicts_expression(card)
    sums = {label: np.zeros(1) for label in labels}
    step = max(1, CELLS_HELD // size) * size
    for start in range(0, len(rows), step):
        unique, positions = np.unique(rows[start : start + step], return_inverse=True)
        cells = positions.reshape(-1, size)
        read = read_features(at.dataset, source, unique)
        expressed = read if measured is source else read_features(at.dataset, measured, unique)
        flat = expressed[cells.ravel()]
        runner.load_cells([read])
        of = batches[unique[cells]] if batches is not None else None
        reference = _predicted(runner, card, card.control, cells, of)
        for label in labels:
            moved = paired_cells(flat, _predicted(runner, card, label, cells, of), reference)
            if expression:
                np.maximum(moved, 0.0, out=moved)
            sums[label] = sums[label] + (moved - flat)[: n - start].sum(axis=0, dtype=np.float64)
    control = mean_of(values for _, values in iter_features(at.dataset, measured, pool))
    return control, {label: total / n for label, total in sums.items()}


def _predicted(runner: SetRunner, card: ModelCard, label: str, cells: np.ndarray, batches: np.ndarray | None) -> np.ndarray:
    """Sets (k, s) of loaded cells under a label, cell by cell: (k * s, g) expression where the model predicts it."""
    row = card.perturbations.index(label)
    tasks = [SetTask(one, row, batches[i] if batches is not None else None, i) for i, one in enumerate(cells)]
    found = sorted(runner.run(tasks), key=lambda result: result.tag)
    return np.concatenate([r.decoded if r.decoded is not None else r.predicted for r in found])
