"""Training a State Transition model on a split, and calibrating it by leaving parts of its cells out where that is asked for.

The run's folder is described in `state_engine.train.run_folder`; the training itself is `state_engine.train.once`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.data.splits.apply import Split
from state_engine.errors import JobCancelled
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.cross_fit import fit_left_out
from state_engine.train.folds import calibrating_blocks, calibrating_perturbations, calibrating_places
from state_engine.train.once import close, train_once
from state_engine.train.place import AGAIN, alone, begins_again, begun
from state_engine.train.request import TrainRequest, with_steps
from state_engine.train.run_folder import TRAINING, check_same, check_same_cells, read_record, write_record


def train_transition(
    split: Split,
    request: TrainRequest,
    output: Path,
    on_progress: OnProgress = silent,
    resume: bool = False,
    init_from: Path | None = None,
) -> ModelCard:
    """Train a model, score it on what was held out, and save it.

    Args:
        split: which cells are trained on, validated on and tested.
        request: what to train.
        output: folder of the run. The model is saved in its `model`; this folder itself can be loaded too.
        on_progress: told every step; may raise `JobCancelled`: a checkpoint is saved first, and `resume` goes on from there.
        resume: go on from the last checkpoint of `output` instead of starting again; from the beginning where it was killed before one.
        init_from: a model whose weights are the start; perturbations are matched by name.

    Returns:
        The card, with scores on the held-out blocks beside two baselines (`summarise` says which).

    Raises:
        CheckpointError: there is something in the folder (without `resume`), or it has no checkpoint to go on from.
        RequestError: the folder is an input or lies in one, cannot be written, or another process trains in it.
        ConfigError: the training of the folder was begun with other settings, or parts of the request contradict the data.
        LabelError: no group of cells has controls to start from.
        GeneError, RepresentationError, ScaleError: the features cannot be made.
        DeviceError: no such device or precision.
    """
    if resume:
        read_record(output)  # a folder without one is refused before anything is written into it
        place = alone(TRAINING, output)
    else:
        inputs: list[Path | str] = [source.dataset.path for source in split.sources]
        if init_from is not None:
            inputs.append(init_from)
        if request.network.features:
            inputs.append(request.network.features)
        place = begun(TRAINING, output, tuple(inputs))
    with place:
        if resume and begins_again(output, (record := read_record(output)).state):
            check_same(record.request, with_steps(request, split))
            check_same_cells(output, record, split)
            on_progress(Progress("Comparing depths", message=AGAIN))
            resume, init_from = False, init_from or (Path(record.init_from) if record.init_from else None)
        return _trained(split, request, output, on_progress, resume, init_from)


def _trained(
    split: Split, request: TrainRequest, output: Path, on_progress: OnProgress, resume: bool, init_from: Path | None
) -> ModelCard:
    card = train_once(split, request, output, on_progress, resume, init_from)
    wanted = request.run.calibrate and request.run.cross_fit and card.calibration is None
    seed = request.run.seed
    new = card.perturbation_encoding == "features" and calibrating_perturbations(split, seed)
    if not wanted or not (calibrating_places(split) or calibrating_blocks(split, seed) or new):
        return card
    done = read_record(output)
    write_record(output, replace(done, state="running"))  # a process that is killed now leaves that, so resuming calibrates
    try:
        card = fit_left_out(output, seed=seed, on_progress=on_progress)
    except JobCancelled:
        close(output, "cancelled")
        raise
    except BaseException:
        close(output, "failed")
        raise
    write_record(output, done)
    return card
