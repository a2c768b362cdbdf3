"""What the worker does to train: the split opened, the model trained in the run's folder and taken into the library."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from state_engine.config import Settings, load_settings
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import parse_plan, plan_files
from state_engine.device import choose_device
from state_engine.evaluation.adapt import adapt
from state_engine.files import write_bytes
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import TrainJob, check_devices, check_places, command_of, training_folder
from state_engine.library.allowed import check_data, check_readable
from state_engine.library.models import STORE_FILES, Entry, adopt, incoming
from state_engine.progress import OnProgress, Progress
from state_engine.train.fit import train_transition

SPLIT, MODEL = "split.toml", "model"


@dataclass(frozen=True)
class Trained:
    """Id and name of the model, the steps it was trained for, and its scores on held-out cells."""

    model: str
    name: str
    steps: int
    scores: dict[str, float]


def train(request: TrainJob, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Trained:
    """Train a model. Asked for again, a stopped training goes on from its last checkpoint, in its own folder."""
    settings = load_settings()
    check_readable(settings, request.init_from, request.request.network.features)
    check_devices(request)
    warm.clear()  # the memory is wanted for the training
    on_progress(Progress("Reading labels"))
    split = _open(request, settings)
    for warning in split.warnings:
        run.log(warning)
    write_bytes(run.file(SPLIT), request.split.encode())
    asked = request.request
    run.record(
        seed=asked.run.seed,
        data_hash=_data_hash(split),
        device=choose_device(asked.run.device).name,
        precision=asked.run.precision,
        command=command_of(request),
        settings={"preset": asked.run.preset, "cells": dict(split.cells())},
    )
    folder = training_folder(run)
    started = _is_started(folder, run)
    start = Path(request.init_from) if request.init_from else None
    if asked.optimiser.tune and start is not None:
        card = adapt(split, asked, folder, start, on_progress, started)
    else:
        card = train_transition(split, asked, folder, on_progress, resume=started, init_from=start)
    for note in card.notes:
        run.log(note)
    entry = into_library(folder / MODEL, settings)
    run.record(model_hash=card.weights_hash)
    scores = {name: float(value) for name, value in card.training.flat().items() if value == value}
    return Trained(entry.card.id if entry.card else "", card.name, card.training.steps, scores)


def _open(job: TrainJob, settings: Settings) -> Split:
    plan = parse_plan(job.split)
    check_places(plan, settings)
    files = plan_files(plan, settings.home)
    check_data(settings, *(file for _, file in files))
    return apply_plan(plan, [(name, open_dataset(file, job.choices, settings)) for name, file in files])


def _is_started(folder: Path, run: RunFolder) -> bool:
    """Return whether there is a checkpoint to go on from; clear the folder of a training that was stopped before its first one."""
    if any((folder / "checkpoints").glob("*.ckpt")):
        return True
    if folder.exists():
        run.log("There is no checkpoint yet: the training begins anew.")
        shutil.rmtree(folder)
    return False


def _data_hash(split: Split) -> str:
    """The file's sha256; of several files that of their hashes in order."""
    hashes = [source.dataset.hash() for source in split.sources]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def into_library(folder: Path, settings: Settings) -> Entry:
    """Copy a trained model into the library: the run keeps its own, so that each can be deleted alone.

    Raises:
        CheckpointError: the folder is damaged.
    """
    with incoming(settings) as beside:
        for name in STORE_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, beside / name)
        return adopt(beside, settings)
