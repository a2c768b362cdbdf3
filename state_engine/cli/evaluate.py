"""The command `evaluate`: predicted against measured cells, beside simple guesses."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.data.dataset import Choices
from state_engine.evaluation.request import PREDICTION, PROFILES, EvaluationRequest, PredictedFile
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, silent

Write = Callable[[str], None]


def add_evaluate_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The arguments of `evaluate`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="how good predictions are, beside simple guesses",
        description="Metrics of predicted cells by perturbation, beside no change, mean effects and a ridge regression.",
    )
    add = parser.add_argument
    add("--predicted", type=Path, action="append", required=True, metavar="P.h5ad", help="predicted cells; repeat for more seeds")
    add("--real", type=Path, required=True, metavar="R.h5ad", help="measured cells, controls among them")
    add("--perturbation-key", required=True, metavar="C", help="obs column of the perturbation, in all files")
    add("--control", required=True, metavar="L", help="its label for control cells, in all files")
    add("--context-key", metavar="C", help="obs column of the context; default: all cells are one context")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the tables")
    add("--profile", choices=PROFILES, default="minimal", help="whose metrics (default minimal: mean expression only)")
    add("--layer", action="append", default=[], metavar="NAME", help="score this layer of the predicted files too; repeatable")
    add("--controls", choices=("real", "predicted"), help="whose control cells effects start from; default: the profile's")
    add(
        "--effects",
        type=Path,
        metavar="RUN",
        help="a run or model whose training cells make the baselines; default: the measured cells",
    )
    add("--features", type=Path, metavar="F", help="features of the perturbations (.pt or .csv), for a ridge regression")
    add("--common-genes", action="store_true", help="where genes differ, score those that all files have")
    add("--to-counts", choices=("poisson", "stochastic", "nearest"), help="vcc2026: how log1p predictions are rounded to counts")
    add("--seed", type=int, default=0, help="of control cells for baselines, and of rounding (default 0)")
    add(
        "--cell-eval",
        type=Path,
        metavar="PYTHON",
        help="vcc2025: Python of an environment with cell-eval, which makes the metrics",
    )
    add("--json", action="store_true", help="as JSON")
    return parser


def run_evaluate(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Evaluate as the arguments say. Returns 0.

    Raises:
        StateError: files that cannot be read or compared.
    """
    from state_engine.evaluation.evaluate import evaluate
    from state_engine.evaluation.report import evaluation_lines

    request = evaluation_request(options)
    made = evaluate(request, options.output, on_progress)
    write(json.dumps(to_plain(made), indent=2) if options.json else "\n".join(evaluation_lines(made)))
    return 0


def evaluation_request(options: argparse.Namespace) -> EvaluationRequest:
    """What the arguments ask."""
    files = [PredictedFile(str(p)) for p in options.predicted]
    files += [PredictedFile(str(p), f"{PREDICTION} ({n})", f"layers/{n}") for n in options.layer for p in options.predicted]
    return EvaluationRequest(
        predicted=tuple(files),
        real=str(options.real),
        choices=Choices(
            perturbation_key=options.perturbation_key, control=options.control, context_key=options.context_key or ""
        ),
        profile=options.profile,
        controls=options.controls,
        effects=str(options.effects or ""),
        features=str(options.features or ""),
        common_genes=options.common_genes,
        to_counts=options.to_counts,
        seed=options.seed,
        cell_eval=str(options.cell_eval or ""),
    )
