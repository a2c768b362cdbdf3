"""The commands `finetune` (fit a head on labelled cells) and `annotate` (apply one to cells or to a prediction)."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

from state_engine.cli.options import JSON, Write, h5ad_of, path, request, takes
from state_engine.errors import RequestError
from state_engine.heads.lines import annotation_lines, report_lines
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.plain import to_plain
from state_engine.progress import OnProgress


@takes(FinetuneRequest, JSON, {"--output": path("DIR", "folder of the head", required=True)})
def run_finetune(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Fit a head and show how it does on cells left out, beside simple baselines."""
    from state_engine.heads.finetune import finetune

    report = finetune(request(FinetuneRequest, options), options.output, on_progress)
    write(json.dumps(to_plain(report), indent=2) if options.json else "\n".join(report_lines(report, options.output)))


@takes(
    AnnotateRequest,
    JSON,
    {
        "--output": path(
            "Z", "a copy of the cells with what they are called in obs (.h5ad or .zarr); with --result it may be left out"
        ),
        "--labels": path("L.csv", "also a table of what each cell is called"),
    },
)
def run_annotate(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Apply a head, and show what was called; of a prediction, what each condition's predicted and measured cells were called."""
    from state_engine.checkpoints.head_card import read_head_card
    from state_engine.config import load_settings
    from state_engine.heads.annotate import annotate
    from state_engine.library.models import places_of

    asked = request(AnnotateRequest, options)
    if options.output is None and not asked.result:
        raise RequestError("There is no place for the annotated cells.", "", "Give --output Z.h5ad, or Z.zarr.")
    card = read_head_card(Path(asked.model))
    hinted = [Path(card.place)] if card.place else []
    places = [*hinted, *places_of(load_settings(), card.source.model)]
    with nullcontext() if options.output is None else h5ad_of(options.output, on_progress) as place:
        found = annotate(asked, place, on_progress, labels=options.labels, places=places)
    write(json.dumps(to_plain(found), indent=2) if options.json else "\n".join(annotation_lines(found, options.output)))
