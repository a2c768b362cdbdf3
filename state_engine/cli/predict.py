"""The command `predict`: perturbed cells, or with --replay the simulation of a whole data set."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state_engine.cli.options import (
    CHECKPOINT,
    EXECUTOR,
    ZARR,
    Write,
    add_names,
    h5ad_of,
    keep_inputs,
    named_checkpoint,
    path,
    request,
    takes,
    yes,
)
from state_engine.errors import RequestError
from state_engine.files import free_output
from state_engine.prediction.cell_counts import read_cell_counts
from state_engine.prediction.request import PredictionRequest, ReplayRequest
from state_engine.progress import OnProgress

# of a prediction alone: a replay has as many cells as its data set
CELLS_ONLY = ("cells_of", "least_cells", "most_cells")
MATRIX = ".npy"


@takes(
    PredictionRequest,
    ReplayRequest,
    CHECKPOINT,
    EXECUTOR,
    {
        "--output": path("Y", ".h5ad, .zarr, or .npy (the predicted cells alone, with their labels as .csv)", required=True),
        "--replay": yes("replace every cell by a simulated one, as `state tx infer` does"),
        "--perturbations-file": path("F", "file with labels to predict, one per line, or in the first column of a table"),
        "--cells-file": path("F", "table of labels to predict and how many cells of each: columns perturbation, num_cells"),
        "--all": yes("predict every perturbation that the model knows"),
    },
)
def run_predict(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Predict perturbations, or replay a data set."""
    options.model = str(named_checkpoint(Path(options.model), options.checkpoint))
    if options.replay:
        _replay(options, write, on_progress)
        return
    from state_engine.analysis.resemblance import resemblance
    from state_engine.checkpoints.load import card_of
    from state_engine.prediction.predict import predict
    from state_engine.prediction.result import open_result
    from state_engine.shards.run import beside

    known = card_of(Path(options.model)).perturbations if options.perturbations_file else ()
    add_names(options, "perturbations", options.perturbations_file, known, write)
    if options.cells_file:
        counts = read_cell_counts(options.cells_file)
        options.cells_of = [*getattr(options, "cells_of", []), *([c.perturbation, str(c.cells)] for c in counts)]
        options.perturbations = list(dict.fromkeys([*options.perturbations, *(c.perturbation for c in counts)]))
    if options.all:
        options.perturbations = list(dict.fromkeys([*options.perturbations, *card_of(Path(options.model)).perturbations]))
    asked = request(PredictionRequest, options)
    with _h5ad(options, on_progress) as output:
        result = predict(asked, output, on_progress, shards=beside(options.output, options.executor))
        if options.output.suffix.lower() == MATRIX:
            from state_engine.prediction.matrix import write_predicted

            write_predicted(open_result(output), options.output, on_progress)
        alike = resemblance(open_result(output))
    conditions = len(result.contexts) * len(result.perturbations)
    write(
        f"{options.output}: {result.cells:,} predicted cells, {conditions:,} condition{'s' * (conditions != 1)}, on {result.device}"
    )
    for remark in (*result.remarks, *([alike.words()] if alike is not None and alike.alike else [])):
        write(remark)


def _replay(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    if options.executor:
        raise RequestError("A replay is computed here, in one piece.", "", "Leave out --executor.")
    if options.cells_file or any(hasattr(options, name) for name in CELLS_ONLY):
        raise RequestError(
            "A replay has as many cells as its data set.", "Numbers of cells belong to a prediction.", "Leave out --replay."
        )
    from state_engine.prediction.replay import replay

    with _h5ad(options, on_progress) as output:
        summary = replay(request(ReplayRequest, options), output, on_progress)
        if options.output.suffix.lower() == MATRIX:
            from state_engine.data.dataset import open_dataset
            from state_engine.prediction.matrix import write_replayed

            write_replayed(open_dataset(output), str(summary["representation"]), options.output, on_progress)
    write(f"{options.output}: {summary['simulated']:,} of {summary['cells']:,} cells simulated, on {summary['device']}")


@contextmanager
def _h5ad(options: argparse.Namespace, on_progress: OnProgress) -> Iterator[Path]:
    """Give the path of the .h5ad to write: the output, or one for a while beside an output that is a .npy or .zarr."""
    _check_ending(options.output)
    if options.output.suffix.lower() != MATRIX:
        with h5ad_of(options.output, on_progress) as place:
            yield place
        return
    from state_engine.prediction.matrix import labels_beside

    labels = labels_beside(options.output)
    keep_inputs(options, labels)
    if labels.exists() and not options.output.exists():  # a pair of an earlier prediction is replaced like any other result
        raise RequestError(
            f"{labels} exists.", f"The labels of the cells in {options.output.name} go there.", "Move it, or give another name."
        )
    for output in (options.output, labels):
        free_output(output, options.data, options.model)
    with tempfile.TemporaryDirectory(dir=options.output.parent, prefix=".predicting-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "predicted.h5ad"


def _check_ending(output: Path) -> None:
    """Refuse a name that promises another kind of file than those that are written; one without an ending is an .h5ad, as ever.

    Raises:
        RequestError: it has another ending.
    """
    if output.suffix.lower() not in ("", ".h5ad", ZARR, MATRIX) and not output.is_dir():  # a folder has a sentence of its own
        raise RequestError(
            f"{output.name} is no name for a prediction.",
            f"Its ending is '{output.suffix}'.",
            f"Let it end in .h5ad, {ZARR} or {MATRIX}.",
        )
