"""The command `predict`: perturbed cells, or with --replay the simulation of a whole data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.cli.options import CHECKPOINT, Write, add_names, named_checkpoint, path, request, takes, yes
from state_engine.prediction.request import PredictionRequest, ReplayRequest
from state_engine.progress import OnProgress


@takes(
    PredictionRequest,
    ReplayRequest,
    CHECKPOINT,
    {
        "--output": path("Y.h5ad", "the predicted cells", required=True),
        "--replay": yes("replace every cell by a simulated one, as `state tx infer` does"),
        "--perturbations-file": path("F", "file with labels to predict, one per line"),
        "--all": yes("predict every perturbation that the model knows"),
    },
)
def run_predict(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Predict perturbations, or replay a data set."""
    options.model = str(named_checkpoint(Path(options.model), options.checkpoint))
    if options.replay:
        from state_engine.prediction.replay import replay

        summary = replay(request(ReplayRequest, options), options.output, on_progress)
        write(f"{options.output}: {summary['simulated']:,} of {summary['cells']:,} cells simulated, on {summary['device']}")
        return
    from state_engine.checkpoints.load import card_of
    from state_engine.prediction.predict import predict

    add_names(options, "perturbations", options.perturbations_file)
    if options.all:
        options.perturbations = list(dict.fromkeys([*options.perturbations, *card_of(Path(options.model)).perturbations]))
    result = predict(request(PredictionRequest, options), options.output, on_progress)
    conditions = len(result.contexts) * len(result.perturbations)
    write(
        f"{options.output}: {result.cells:,} predicted cells, {conditions:,} condition{'s' * (conditions != 1)}, on {result.device}"
    )
    for remark in result.remarks:
        write(remark)
