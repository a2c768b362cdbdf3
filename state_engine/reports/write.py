"""The report of a folder: which kind of run has which sections, put together and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from state_engine.errors import RequestError, listed
from state_engine.files import write_bytes
from state_engine.progress import OnProgress, Progress, silent
from state_engine.reports.comparison import found_in_comparison
from state_engine.reports.document import Report, render
from state_engine.reports.evaluation import found_in_evaluation
from state_engine.reports.prediction import found_in_file, found_in_prediction
from state_engine.reports.provenance import Found, Provenance, closing
from state_engine.reports.screen import found_in_screen
from state_engine.reports.training import found_in_training

Finder = Callable[[Path, OnProgress], Found]
# kind of run -> what its folder tells
FINDERS: Final[Mapping[str, Finder]] = {
    "predict": found_in_prediction, "evaluate": found_in_evaluation, "test": found_in_evaluation, "train": found_in_training,
    "screen": found_in_screen, "compare": found_in_comparison,
}  # fmt: skip
# a file that only such a folder has -> kind, for folders that the command line made
SIGNS: Final = {
    "result.h5ad": "predict",
    "evaluation.json": "evaluate",
    "training.json": "train",
    "screen.json": "screen",
    "comparison.json": "compare",
}


def kind_in(folder: Path) -> str:
    """Return the kind of run that a folder, or a result file, holds.

    Raises:
        RequestError: it holds none that has a report.
    """
    if folder.is_file() and folder.suffix == ".h5ad":
        return "predict"
    found = next((kind for name, kind in SIGNS.items() if (folder / name).is_file()), "")
    if not found:
        raise RequestError(
            f"{folder.name} has nothing to report.",
            f"It holds none of {listed(list(SIGNS), 9)}.",
            "Give a run, or what predict, evaluate, train, screen or compare wrote.",
        )
    return found


def write_report(made: Provenance, folder: Path, output: Path, on_progress: OnProgress = silent) -> Path:
    """Write the report of a run as one HTML file; it appears only when complete.

    Args:
        made: how the run was made.
        folder: with its files; of a prediction a result file too.

    Raises:
        RequestError: no report for such a kind. RunError: a file is missing or damaged.
    """
    if made.kind not in FINDERS:
        raise RequestError(f"There is no report of a {made.words}.", f"There is one of: {listed(list(FINDERS), 9)}.")
    on_progress(Progress("Reading the run"))
    find: Finder = found_in_file if folder.is_file() else FINDERS[made.kind]
    found = find(folder, on_progress)
    on_progress(Progress("Writing the report"))
    text = render(Report(made.title or made.words, made.line, found.verdict, (*found.sections, *closing(made, found))))
    write_bytes(output, text.encode())
    return output
