"""Adapting a model to the data of a split, and comparing it on what was held out: the verb. What came of it is `evaluation.adaptation`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import card_of
from state_engine.checkpoints.store import read_card
from state_engine.data.splits.apply import Split
from state_engine.errors import IncompatibleError, SplitError
from state_engine.evaluation.adaptation import (
    ADAPTED,
    BEFORE,
    FORMAT,
    REPORT,
    SCRATCH,
    SCRATCH_FOLDER,
    Adaptation,
    compare,
    judge_adaptation,
)
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.report import METRICS, read_metrics
from state_engine.evaluation.request import FOLDER, HeldOutRequest, ModelBeside
from state_engine.files import write_json
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.adapt import Fit, fit_of, from_scratch, without_batches
from state_engine.train.fit import train_transition
from state_engine.train.place import Work, alone
from state_engine.train.request import TrainRequest
from state_engine.train.run_folder import MODEL, RECORD, is_training, read_record

COMPARISON = Work(RECORD, (), "comparison.lock", "compares what it trains in")


def adapt(
    split: Split, request: TrainRequest, output: Path, start: Path, on_progress: OnProgress = silent, resume: bool = False
) -> ModelCard:
    """Adapt a model to the data of a split; where cells are held out for testing, compare it with a training from scratch and the baselines.

    Args:
        split: which cells are trained on, validated on and tested.
        request: as `train.adapt.adapting` makes it from the model's card, with what else is asked for.
        output: folder of the training.
        start: the model.
        on_progress: told every step; may raise `JobCancelled`, and `resume` goes on from there.
        resume: go on with what is in `output`.

    Returns:
        The card of the adapted model; `read_adaptation` gives the comparison.

    Raises:
        GeneError, RepresentationError, CheckpointError: model and data do not fit together, each in a sentence.
        ConfigError, LabelError, ScaleError, DeviceError: see `train_transition`.
    """
    fit = fit_of(split, card_of(start))  # what does not fit is told before any work
    request = without_batches(request, split)
    card = _trained(split, request, output, on_progress, start, resume)
    if not request.run.compare or not split.cells()["test"]:
        return card
    with alone(COMPARISON, output):
        return _compared(split, request, output, start, card, fit, on_progress)


def _compared(
    split: Split, request: TrainRequest, output: Path, start: Path, card: ModelCard, fit: Fit, on_progress: OnProgress
) -> ModelCard:
    """Train one more from scratch, test both on the cells that neither saw, and write down what came of it."""
    record = read_record(output)

    def under_words(progress: Progress) -> None:
        on_progress(replace(progress, stage=f"From scratch, to compare: {progress.stage.lower()}", message=""))

    scratch = output / SCRATCH_FOLDER
    _trained(split, from_scratch(record.request, record.genes), scratch, under_words, None, _has_checkpoint(scratch))
    asked = HeldOutRequest(
        run=str(output), seeds=(request.run.seed,), device=request.run.device, precision=request.run.precision, method=ADAPTED,
        beside=(ModelBeside(str(scratch), SCRATCH), ModelBeside(str(start), BEFORE)),
    )  # fmt: skip
    shutil.rmtree(output / FOLDER, ignore_errors=True)  # of a comparison that was stopped
    try:
        evaluation = evaluate_held_out(asked, output / FOLDER, on_progress)
    except (SplitError, IncompatibleError) as error:  # the model is trained all the same
        on_progress(Progress("Comparing", message=f"Nothing could be compared. {error}"))
        return card
    against = compare(evaluation, read_metrics(output / FOLDER / METRICS))
    helps, verdict = judge_adaptation(against)
    found = Adaptation(FORMAT, request.optimiser.tune, record.request.optimiser.steps, fit, against, helps, verdict)
    write_json(output / REPORT, to_plain(found))
    return card


def _trained(
    split: Split, request: TrainRequest, folder: Path, on_progress: OnProgress, start: Path | None, resume: bool
) -> ModelCard:
    """Train, or go on with it; a training that goes on and is done already is left as it is."""
    if is_training(folder) and (resume or start is None) and read_record(folder).state == "done":
        return read_card(folder / MODEL)
    if start is None and not resume:
        shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
    return train_transition(split, request, folder, on_progress, resume, start)


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "checkpoints" / "last.ckpt").is_file()
