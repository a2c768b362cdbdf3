"""The command `score`: a submission against held-out measured cells."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.challenge.counts import ROUNDINGS, CountsOptions
from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.scores import score_lines
from state_engine.challenge.spec import PRESETS
from state_engine.challenge.submit import SubmissionRequest
from state_engine.data.dataset import Choices
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, silent

Write = Callable[[str], None]


def add_score_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The arguments of `score`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "score",
        help="score predictions against held-out measured cells",
        description="The metrics of a challenge and its overall score, beside the mean baseline.",
    )
    add = parser.add_argument
    add("--challenge", required=True, metavar="NAME", help=f"{', '.join(PRESETS)}, or a TOML file")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, metavar="P", help="the predictions: .h5ad, or a .vcc archive")
    data.add_argument("--run", dest="run_folder", type=Path, metavar="FOLDER", help="a run of STATE Explorer, or its result.h5ad")
    add("--truth", type=Path, required=True, metavar="T.h5ad", help="the measured cells")
    add("--perturbation-key", default="", metavar="COLUMN", help="obs column of the perturbation in the predictions")
    add("--context-key", default="", metavar="COLUMN", help="obs column of the context in the predictions")
    add("--take-context", action="append", default=[], metavar="NAME", help="score only this context; repeatable")
    add("--controls", type=Path, action="append", default=[], metavar="C.h5ad", help="real control cells; repeatable")
    add("--repair", action="append", default=[], metavar="NAME", help="repairs as `submit` makes them; repeatable")
    add("--to-counts", choices=ROUNDINGS, help="turn log1p values into counts, rounded this way")
    add("--library", type=float, metavar="N", help="counts a cell; default: drawn from the cells of --controls")
    add("--seed", type=int, default=0, help="of the rounding (default 0)")
    add("--truth-perturbation-key", metavar="COLUMN", help="obs column of the perturbation in the measured cells")
    add("--truth-control", metavar="LABEL", help="its label for control cells")
    add("--truth-context-key", metavar="COLUMN", help="obs column of the context in the measured cells")
    add("--training", type=Path, metavar="D.h5ad", help="2025: cells whose mean is the baseline; default: the measured cells")
    add(
        "--pooled-fdr", action="store_true", help="2025: FDR over all perturbations, as the scorer of that year (cell-eval 0.6.6)"
    )
    add("--cell-eval", type=Path, metavar="PYTHON", help="2025: the Python of an environment with cell-eval, to make the metrics")
    add("--output", type=Path, metavar="FOLDER", help="keep scores.json and scores.csv (by perturbation) there")
    add("--json", action="store_true", help="the scores as JSON")
    return parser


def run_score(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Score as the arguments say. Returns 0 when there is an overall score, else 1.

    Raises:
        StateError: files that cannot be read or compared.
    """
    from state_engine.challenge.score import score

    request = ScoreRequest(
        submission=_submission(options),
        truth=str(options.truth),
        choices=Choices(
            perturbation_key=options.truth_perturbation_key,
            control=options.truth_control,
            context_key=options.truth_context_key,
        ),
        training=str(options.training or ""),
        fdr="pooled" if options.pooled_fdr else "per perturbation",
        cell_eval=str(options.cell_eval or ""),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = options.output or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        scores = score(request, folder, on_progress)
    write(json.dumps(to_plain(scores), indent=2) if options.json else "\n".join(score_lines(scores)))
    return int(scores.overall is None)


def _submission(options: argparse.Namespace) -> SubmissionRequest:
    source = options.data
    if options.run_folder:
        source = options.run_folder / "result.h5ad" if options.run_folder.is_dir() else options.run_folder
    return SubmissionRequest(
        challenge=options.challenge,
        source=str(source),
        is_run=bool(options.run_folder),
        perturbation_key=options.perturbation_key,
        repairs=tuple(options.repair),
        context_key=options.context_key,
        contexts=tuple(options.take_context),
        controls=tuple(str(p) for p in options.controls),
        counts=CountsOptions(options.to_counts, options.seed, options.library) if options.to_counts else None,
    )
