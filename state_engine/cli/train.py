"""The commands `train` (the split in a table first, then what came out) and `calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.cli.options import EXECUTOR, Write, data_set, number, path, request, takes, yes
from state_engine.config import load_settings
from state_engine.data.dataset import Choices
from state_engine.errors import RequestError
from state_engine.progress import OnProgress
from state_engine.train.adapt import adapting
from state_engine.train.request import TrainRequest, resolve
from state_engine.train.run_folder import SPLIT, read_record

DEFAULT = "default"


@takes(
    {
        "--split": path("S.toml", "data sets and what is held out of them; with --resume: as before"),
        "--output": path("RUN", "folder of the training", required=True),
        "--init-from": path("RUN", "start from the weights of this model"),
        "--adapt": path(
            "MODEL",
            "adapt this model to the data: its network, its labels and genes by name, adapters are trained (--tune), and what was "
            "held out is predicted beside a training from scratch and the baselines",
        ),
        "--resume": yes("go on from the last checkpoint of RUN, with its split and settings"),
    },
    EXECUTOR,
    TrainRequest,
    Choices,
)
def run_train(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Train a model, or go on with a training."""
    from state_engine.shards.run import LOCAL

    executor = options.executor or load_settings().executor
    if executor != LOCAL:
        _on_cluster(executor, options, write)
        return
    from state_engine.checkpoints.load import card_of
    from state_engine.data.splits.apply import open_split
    from state_engine.evaluation.adapt import adapt
    from state_engine.evaluation.adaptation import adaptation_lines
    from state_engine.train.adapt import fit_of
    from state_engine.train.fit import train_transition
    from state_engine.train.report import card_lines, split_lines

    if options.split is None and not options.resume:
        raise RequestError("There is no split.", "It names the data sets and what is held out.", "Give --split split.toml.")
    asked, choices = wanted(options)
    split = open_split(options.split or options.output / SPLIT, choices, as_h5ad=lambda place: Path(data_set(place)))
    for line in split_lines(split):
        write(line)
    start = options.adapt or options.init_from
    if start is None and options.resume and asked.optimiser.tune:
        start = Path(read_record(options.output).init_from)
    if asked.optimiser.tune and start is not None:
        for line in fit_of(split, card_of(start)).sentences():
            write(line)
        card = adapt(split, asked, options.output, start, on_progress, options.resume)
    else:
        card = train_transition(split, asked, options.output, on_progress, options.resume, start)
    for line in (*card_lines(card, options.output), *adaptation_lines(options.output)):
        write(line)


def _on_cluster(executor: str, options: argparse.Namespace, write: Write) -> None:
    """Train on nodes of a Ray cluster: the same command on each of them, which share the mini-batches as several devices do (DDP)."""
    from state_engine.shards.run import LOCAL, check_executor
    from state_engine.shards.together import Together, run_together

    check_executor(executor)
    run = wanted(options)[0].run
    words = (*options.typed, "--executor", LOCAL)  # the last word counts
    run_together(Together(executor, words, run.nodes, run.devices, run.device), write)


def wanted(options: argparse.Namespace) -> tuple[TrainRequest, Choices]:
    """Return the request and the choices of the data; of a training that goes on, its own with what is given changed.

    Raises:
        ConfigError: a setting that is not one.
        RunError: there is no training to go on with.
    """
    if options.resume:
        record = read_record(options.output)
        return request(TrainRequest, options, record.request), request(Choices, options, record.choices)
    preset = resolve(getattr(options, "run.preset", DEFAULT))
    if options.adapt is not None:
        from state_engine.checkpoints.load import card_of

        if options.init_from is not None:
            raise RequestError("Both --adapt and --init-from are given.", "A training starts from one model.", "Leave one out.")
        preset = adapting(preset, card_of(options.adapt))
    return request(TrainRequest, options, preset), request(Choices, options)


@takes(
    {
        "--run": path("RUN", "folder of a finished training", required=True),
        "--contexts": number("N", "contexts left out in turn, at most; default: 4 to 6, fewer with many perturbations"),
        "--max-steps": number("N", "optimiser steps of each; default: two thirds of the model's own, 1,500 at most"),
        "--seed": number("S", "seed of the trainings (default 42)", default=42),
    }
)
def run_calibrate(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Train further models, each without one context, and fit how much of the model's effect to take. Uses no held-out cells."""
    from state_engine.train.cross_fit import cross_fit
    from state_engine.train.report import own_lines

    card = cross_fit(options.run, options.max_steps, options.contexts, options.seed, on_progress)
    if card.calibration is None:
        write("Nothing could be fitted: neither the models nor the other contexts show any effect.")
        return
    words = {"contexts": "contexts left out in turn", "blocks": "blocks left out together"}
    for fitted in card.calibrations:
        left = words.get(fitted.kind, "contexts with perturbations left out everywhere")
        write(
            f"{options.run}: calibrated on {fitted.conditions:,} conditions of {len(fitted.contexts)} {left}: "
            f"{fitted.paired:.2f} of the model's effect, {fitted.mean:.2f} of the mean effect of the other contexts, "
            f"{fitted.common:.2f} of that of the context's other perturbations, {fitted.features:.2f} of what perturbation features tell. "
            f"{fitted.why}"
        )
        for line in own_lines(fitted):
            write(line)
        for name, value in fitted.scores.items():
            write(f"  {name}: {value:.4f}")
