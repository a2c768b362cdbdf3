"""Calibration without cells set aside for it: contexts of the training are left out in turn, and predicted by models that never saw them.

A validation context costs the model a context to learn from, and one alone says little about the next. So the model keeps all its
contexts, and further models of the same settings are trained without one each; what they say of the one they lack is weighed as in
`train.calibration`, all together. Neither test nor validation cells enter. It costs as many trainings as contexts are left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from state_engine.checkpoints.baselines import load_effects
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import load_model, read_card, set_calibration
from state_engine.data.splits import TRAIN, UNUSED, VAL, Split
from state_engine.errors import RunError
from state_engine.models.mixture import Condition
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.calibration import MIN_CELLS, fit_calibration, predicts_expression, validation_conditions
from state_engine.train.request import TrainRequest
from state_engine.train.run_folder import MODEL, open_training_split, read_record
from state_engine.train.transition import train_transition

MOST_CONTEXTS = 6
FOLD = ".fold"


def cross_fit(
    run: Path, steps: int | None = None, most: int = MOST_CONTEXTS, seed: int = 42, on_progress: OnProgress = silent
) -> ModelCard:
    """Calibrate a finished training by leaving its contexts out in turn.

    Args:
        run: the training's folder.
        steps: of each further training; None: two thirds of the model's own.
        most: contexts that are left out, chosen by the seed when there are more.
        seed: of that choice, and of basal cells.
        on_progress: told every step; may raise `JobCancelled`, then the model stays as it was.

    Returns:
        The card with its calibration.

    Raises:
        RunError: no training is there, it is not done, or it has fewer than two contexts that tell of one another.
    """
    record = read_record(run)
    if record.state != "done":
        raise RunError(f"The training in {run} is not done.", f"It is {record.state}.", "Go on with it first: train --resume.")
    split = open_training_split(run)
    places = left_out_places(split)
    if len(places) < 2:
        raise RunError(
            "There is nothing to leave out.",
            f"{len(places)} contexts have trained perturbations that another context has too.",
            "Calibrate on validation cells instead: hold some out when training.",
        )
    if len(places) > most:
        chosen = np.random.default_rng(seed).choice(len(places), most, replace=False)
        places = [places[i] for i in sorted(chosen.tolist())]
    request = replace(
        record.request,
        steps=steps or max(1, record.request.steps * 2 // 3),
        calibrate=False,
        validate_every=0,
        checkpoint_every=0,
    )
    init_from = Path(record.init_from) if record.init_from else None
    conditions: list[Condition] = []
    for number, place in enumerate(places, 1):
        on_progress(Progress("Training without a context", message=f"{number} of {len(places)}: without {place[1]}"))
        conditions += _fold(fold_split(split, place), request, run / FOLD, seed, init_from, on_progress)
    fitted = fit_calibration(conditions, predicts_expression(read_card(run / MODEL)), seed, "left-out contexts")
    return set_calibration(run / MODEL, fitted)


def left_out_places(split: Split) -> list[tuple[str, str]]:
    """(data set, context) pairs that can be left out: with controls, and perturbations that are trained in another context too."""
    table = split.table()
    trained = table[(table["train"] >= MIN_CELLS)]
    perturbed = trained[trained["perturbation"] != split.control]
    contexts = perturbed.groupby("perturbation")["context"].nunique()
    shared = perturbed[perturbed["perturbation"].map(contexts) > 1]
    places = {*zip(shared["dataset"], shared["context"], strict=True)}
    controls = trained[trained["perturbation"] == split.control]
    return sorted(places & {*zip(controls["dataset"], controls["context"], strict=True)})


def fold_split(split: Split, place: tuple[str, str]) -> Split:
    """The split with one trained context for validation; what was held out before is not used at all."""
    name, context = place
    sources = []
    for source in split.sources:
        parts = np.where(source.parts == TRAIN, TRAIN, UNUSED).astype(np.uint8)
        if source.name == name:
            parts[(parts == TRAIN) & (source.dataset.context_labels() == context)] = VAL
        sources.append(replace(source, parts=parts))
    return replace(split, sources=tuple(sources))


def _fold(
    split: Split, request: TrainRequest, folder: Path, seed: int, init_from: Path | None, on_progress: OnProgress
) -> Iterator[Condition]:
    """Trains without the context, says what the model makes of it, and leaves nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        train_transition(split, request, folder, on_progress, init_from=init_from)
        effects = load_effects(folder)
        assert effects is not None
        yield from validation_conditions(load_model(folder / MODEL), effects, split, seed, on_progress)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
