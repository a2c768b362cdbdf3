"""The commands `evaluate` (predicted against measured cells), `test` (a trained model on its held-out cells) and `compare` (any two answers)."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from state_engine.cli.options import EXECUTOR, JSON, Write, path, request, takes, word
from state_engine.comparison.request import CompareRequest
from state_engine.data.files.text import read_text_file
from state_engine.errors import SplitError
from state_engine.evaluation.request import FOLDER, PREDICTION, EvaluationRequest, HeldOutRequest
from state_engine.plain import to_plain
from state_engine.progress import OnProgress


@takes(
    EvaluationRequest,
    JSON,
    {
        "--output": path("DIR", "folder for the tables", required=True),
        "--layer": word("NAME", "score this layer of the predicted files too; repeatable", action="append", default=[]),
    },
)
def run_evaluate(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Compare predicted with measured cells."""
    from state_engine.evaluation.evaluate import evaluate
    from state_engine.evaluation.report import evaluation_lines

    given = getattr(options, "predicted", [])
    layers = [[file[0], f"{PREDICTION} ({layer})", f"layers/{layer}"] for layer in options.layer for file in given]
    options.predicted = given + layers
    result = evaluate(request(EvaluationRequest, options), options.output, on_progress)
    write(json.dumps(to_plain(result), indent=2) if options.json else "\n".join(evaluation_lines(result)))


@takes(HeldOutRequest, JSON, EXECUTOR, {"--output": path("DIR", f"default: RUN/{FOLDER}")})
def run_test(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Predict the held-out cells of a training and evaluate them."""
    from state_engine.evaluation.held_out import evaluate_held_out
    from state_engine.evaluation.report import evaluation_lines
    from state_engine.shards.run import in_run

    if getattr(options, "split", "").startswith("@"):
        options.split = read_text_file(Path(options.split[1:]), SplitError)
    asked = request(HeldOutRequest, options)
    output = options.output or Path(asked.run or ".") / FOLDER
    shards = replace(in_run(output, options.executor), temporary=True)
    result = evaluate_held_out(asked, output, on_progress, shards=shards)
    write(json.dumps(to_plain(result), indent=2) if options.json else "\n".join([f"{output}:", *evaluation_lines(result)]))


@takes(CompareRequest, JSON, {"--output": path("DIR", "folder for the comparison", required=True)})
def run_compare(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Compare two sides condition by condition."""
    from state_engine.comparison.compare import compare
    from state_engine.comparison.report import comparison_lines

    result = compare(request(CompareRequest, options), options.output, on_progress)
    write(
        json.dumps(to_plain(result), indent=2) if options.json else "\n".join([f"{options.output}:", *comparison_lines(result)])
    )
