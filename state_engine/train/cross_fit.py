"""Calibration without cells set aside for it: parts of the training are left out, and predicted by models that never saw them.

A validation context costs the model a context to learn from, and one alone says little about the next. So the model keeps all its
contexts, and further models of the same settings are trained without one each; what they say of the one they lack is weighed as in
`train.calibration`, all together. Where perturbations of trained contexts are tested (or nothing is), one more model is trained without some
blocks of a perturbation in a context; where some are tested that are trained nowhere, and have features, without some perturbations at
all. Neither test nor validation cells enter. It costs as many trainings as that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import read_card, set_calibration
from state_engine.data.splits.apply import Split
from state_engine.effects.mixture import Condition
from state_engine.effects.store import load_effects
from state_engine.errors import RunError
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.calibration import fit_calibrations
from state_engine.train.conditions import predicts_expression, validation_conditions
from state_engine.train.folds import (
    blocks_split,
    calibrating_blocks,
    calibrating_perturbations,
    calibrating_places,
    fold_split,
    fold_steps,
    left_out_places,
)
from state_engine.train.once import train_once
from state_engine.train.place import alone
from state_engine.train.request import TrainRequest
from state_engine.train.run_folder import MODEL, TRAINING, open_training_split, read_record

FOLD = ".fold"


def cross_fit(
    run: Path, steps: int | None = None, most: int | None = None, seed: int = 42, on_progress: OnProgress = silent
) -> ModelCard:
    """Calibrate a finished training by leaving its contexts out in turn, and some of its blocks together.

    Args:
        run: the training's folder.
        steps: of each further training; None: two thirds of the model's own, 1,500 at most.
        most: contexts that are left out, chosen by the seed when there are more; None: four to six, fewer where each has many perturbations.
        seed: of that choice, and of basal cells.
        on_progress: told every step; may raise `JobCancelled`, then the model stays as it was.

    Returns:
        The card with its calibration.

    Raises:
        RunError: no training is there, it is not done, or it has fewer than two contexts that tell of one another.
        RequestError: another process works in the folder.
    """
    record = read_record(run)  # a folder without one is refused before anything is written into it
    with alone(TRAINING, run):
        if record.state != "done":
            raise RunError(
                f"The training in {run} is not done.", f"It is {record.state}.", "Go on with it first: train --resume."
            )
        return fit_left_out(run, steps, most, seed, on_progress)


def fit_left_out(
    run: Path, steps: int | None = None, most: int | None = None, seed: int = 42, on_progress: OnProgress = silent
) -> ModelCard:
    """Calibrate as `cross_fit` does, in a folder that the caller holds, the steps of whose training are done."""
    record = read_record(run)
    split = open_training_split(run)
    places = left_out_places(split, most, seed) if most is not None else calibrating_places(split, seed=seed)
    further = {"blocks": calibrating_blocks(split, seed), "perturbations": calibrating_perturbations(split, seed)}
    if further["perturbations"] and read_card(run / MODEL).perturbation_encoding != "features":
        further["perturbations"] = []  # a model that knows labels alone says nothing of others
    if len(places) < 2 and not any(further.values()):
        raise RunError(
            "There is nothing to leave out.",
            f"{len(places)} contexts have trained perturbations that another context has too.",
            "Calibrate on validation cells instead: hold some out when training.",
        )
    request = record.request.with_settings(
        steps=steps or fold_steps(record.request.optimiser.steps),
        calibrate=False,
        cross_fit=False,
        equalise_depth="off",  # the split comes with depths as the training had them
        validate_every=0,
        checkpoint_every=0,
        devices=1,
        nodes=1,
    )
    init_from = Path(record.init_from) if record.init_from else None
    conditions: list[Condition] = []
    # one context alone says little about another
    for number, place in enumerate(places if len(places) > 1 else [], 1):
        words = f"Calibrating without {place[1]}, {number} of {len(places)}"
        conditions += _fold(fold_split(split, place), request, run / FOLD, seed, init_from, words, on_progress)
    for kind, blocks in further.items():
        if blocks:
            words = f"Calibrating without {len({b if kind == 'blocks' else b[2] for b in blocks}):,} {kind}"
            conditions += _fold(blocks_split(split, blocks), request, run / FOLD, seed, init_from, words, on_progress)
    fitted = fit_calibrations(conditions, predicts_expression(read_card(run / MODEL)), seed, "left-out contexts")
    return set_calibration(run / MODEL, *fitted)


def _fold(
    split: Split, request: TrainRequest, folder: Path, seed: int, init_from: Path | None, words: str, on_progress: OnProgress
) -> Iterator[Condition]:
    """Train without the context, yield what the model predicts for it, and leave nothing behind."""

    def under_words(progress: Progress) -> None:
        # a further training is named as such, and its own remarks are left out
        on_progress(replace(progress, stage=f"{words}: {progress.stage.lower()}", message=""))

    shutil.rmtree(folder, ignore_errors=True)
    try:
        train_once(split, request, folder, under_words, init_from=init_from)
        effects = load_effects(folder)
        assert effects is not None
        yield from validation_conditions(load_model(folder / MODEL), effects, split, seed, under_words)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
