"""The command `pretrain`: a State Embedding model from cells."""

from __future__ import annotations

import argparse

from state_engine.cli.options import Write, path, request, takes, yes
from state_engine.pretrain.request import PretrainRequest
from state_engine.progress import OnProgress


@takes(
    PretrainRequest,
    {
        "--output": path("DIR", "folder of the run", required=True),
        "--resume": yes("go on from the last checkpoint of DIR, with its data and settings"),
    },
)
def run_pretrain(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Pretrain a model, or go on with a pretraining."""
    from state_engine.pretrain.fit import pretrain_embedding, report_lines
    from state_engine.pretrain.run_folder import read_pretraining

    old = read_pretraining(options.output).request if options.resume else None
    made = pretrain_embedding(request(PretrainRequest, options, old), options.output, on_progress, options.resume)
    for line in report_lines(options.output, made):
        write(line)
