"""The command `test`: a trained model on its held-out cells."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.device import DEVICE_NAMES, PRECISIONS
from state_engine.evaluation.held_out_request import FOLDER, HeldOutRequest
from state_engine.evaluation.request import PROFILES
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, silent

Write = Callable[[str], None]


def add_test_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The arguments of `test`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "test",
        help="a trained model on its held-out cells, beside simple guesses",
        description="Predicts the held-out cells of a training, writes predicted and measured cells, and evaluates them.",
    )
    add = parser.add_argument
    add("--run", dest="run_folder", type=Path, required=True, metavar="RUN", help="folder that `train` made")
    add("--output", type=Path, metavar="DIR", help=f"default: RUN/{FOLDER}")
    add("--part", choices=("test", "val"), default="test", help="which held-out cells (default test)")
    add("--cells", type=int, metavar="N", help="predicted cells per condition; default: as many as there are control cells")
    add("--seed", type=int, action="append", default=[], metavar="S", help="of the draw of control cells; repeat for a spread")
    add("--profile", choices=PROFILES, default="minimal", help="whose metrics (default minimal: mean expression only)")
    add(
        "--features",
        default="",
        metavar="F",
        help="features of the perturbations for a ridge regression; default: the training's",
    )
    add("--device", choices=DEVICE_NAMES, default="auto")
    add("--precision", choices=PRECISIONS, default="fp32")
    add("--json", action="store_true", help="as JSON")
    return parser


def run_test(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Test as the arguments say. Returns 0.

    Raises:
        StateError: see `evaluate_held_out`.
    """
    from state_engine.evaluation.held_out import evaluate_held_out
    from state_engine.evaluation.report import evaluation_lines

    request = HeldOutRequest(
        run=str(options.run_folder),
        part=options.part,
        cells=options.cells,
        seeds=tuple(options.seed) or (42,),
        profile=options.profile,
        features=options.features,
        device=options.device,
        precision=options.precision,
    )
    output = options.output or options.run_folder / FOLDER
    made = evaluate_held_out(request, output, on_progress)
    write(json.dumps(to_plain(made), indent=2) if options.json else "\n".join([f"{output}:", *evaluation_lines(made)]))
    return 0
