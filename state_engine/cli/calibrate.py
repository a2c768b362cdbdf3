"""The command `calibrate`: a finished training, calibrated by leaving its contexts out in turn."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.progress import OnProgress, silent


def add_calibrate_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The arguments of `calibrate`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "calibrate",
        help="fit how far to believe a trained model beside its mean baseline",
        description="Train further models, each without one context of the training, and fit on what they say of it how much of the "
        "model's effect and of the mean effect of other contexts to believe. Cells held out for validation or test are not used.",
    )
    parser.add_argument("--run", dest="run_folder", type=Path, required=True, metavar="RUN", help="folder of a finished training")
    parser.add_argument(
        "--contexts",
        type=int,
        metavar="N",
        help="contexts left out in turn, at most; default: 4 to 6, fewer with many perturbations",
    )
    parser.add_argument(
        "--max-steps",
        type=int,
        metavar="N",
        help="optimiser steps of each; default: two thirds of the model's own, 1,500 at most",
    )
    parser.add_argument("--seed", type=int, default=42, metavar="S")
    return parser


def run_calibrate(options: argparse.Namespace, write: Callable[[str], None], on_progress: OnProgress = silent) -> int:
    """Calibrate as the arguments say. Returns 0.

    Raises:
        StateError: see `cross_fit`.
    """
    from state_engine.train.cross_fit import cross_fit

    fitted = cross_fit(options.run_folder, options.max_steps, options.contexts, options.seed, on_progress).calibration
    if fitted is None:
        write("Nothing could be fitted: neither the models nor the other contexts show any effect.")
        return 0
    write(
        f"{options.run_folder}: calibrated on {fitted.conditions:,} conditions of {len(fitted.contexts)} contexts left out in turn: "
        f"{fitted.paired:.2f} of the model's effect, {fitted.mean:.2f} of the mean effect of the other contexts"
    )
    for name, value in fitted.scores.items():
        write(f"  {name}: {value:.4f}")
    return 0
