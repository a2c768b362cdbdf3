"""The command `train`: arguments, the split in a table first, and what came out in a few lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state_engine.data.dataset import Choices
from state_engine.device import DEVICE_NAMES, PRECISIONS
from state_engine.errors import RequestError
from state_engine.progress import OnProgress, silent
from state_engine.train.presets import PRESETS
from state_engine.train.request import TrainRequest, parse_settings, resolve
from state_engine.train.run_folder import RECORD, SPLIT, TABLE, read_record

if TYPE_CHECKING:
    from state_engine.checkpoints.card import ModelCard
    from state_engine.data.splits.apply import Split

PARTS = ("train", "val", "test", "unused")
Write = Callable[[str], None]
DEFAULT = "default"
# metric of a held-out block -> its column
SHOWN = {
    "mae_corrected": "MAE corrected", "mae_mean": "mean of others", "mae_none": "no change", "mae_raw": "raw", "r_paired": "r paired",
    "r_mean": "r mean",
}  # fmt: skip


def add_train_parser(subparsers: Any) -> argparse.ArgumentParser:
    """The arguments of `train`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a State Transition model",
        description="Train a State Transition model on a split; what is held out is scored beside simple guesses.",
    )
    add = parser.add_argument
    add("--split", type=Path, metavar="S.toml", help="data sets and what is held out of them; with --resume: as before")
    add("--output", type=Path, required=True, metavar="RUN", help="folder of the training")
    add("--preset", choices=tuple(PRESETS), help=f"default: {DEFAULT}")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; may be given several times")
    add("--embedding-key", metavar="K", help="obsm matrix to read; default: expression of the genes that vary most")
    add("--perturbation-key", metavar="C", help="obs column of the perturbation")
    add("--control", metavar="L", help="its label for control cells")
    add("--context-key", metavar="C", help="obs column of the context (cell type, line); '' for none")
    add("--batch-key", metavar="C", help="obs column of the batch; '' for none")
    add("--scale", choices=("counts", "log1p"), help="expression scale; default: from the values")
    add("--gene-column", metavar="C", help="var column with the gene names; default: the best match")
    add("--features", metavar="F", help="vectors of the perturbations (.pt, .csv); default: one-hot")
    add("--max-steps", type=int, metavar="N", help="optimiser steps")
    add("--init-from", type=Path, metavar="RUN", help="start from the weights of this model")
    add("--resume", action="store_true", help="go on from the last checkpoint of RUN, with its split and settings")
    add("--device", choices=DEVICE_NAMES, help="default: auto")
    add("--precision", choices=PRECISIONS, help="default: fp32")
    return parser


def run_train(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Train as the arguments say. Returns 0.

    Raises:
        StateError: see `open_split` and `train_transition`.
    """
    from state_engine.data.splits.apply import open_split
    from state_engine.train.fit import train_transition

    if options.split is None and not options.resume:
        raise RequestError("There is no split.", "It names the data sets and what is held out.", "Give --split split.toml.")
    request, choices = asked(options)
    split = open_split(options.split or options.output / SPLIT, choices)
    for line in split_lines(split):
        write(line)
    card = train_transition(split, request, options.output, on_progress, options.resume, options.init_from)
    for line in card_lines(card, options.output):
        write(line)
    return 0


def asked(options: argparse.Namespace) -> tuple[TrainRequest, Choices]:
    """The request and the choices of the data; of a training that goes on, its own with what is given changed.

    Raises:
        ConfigError: a setting that is not one.
        RunError: there is no training to go on with.
    """
    named = {
        "embedding": options.embedding_key, "features": options.features, "steps": options.max_steps, "device": options.device,
        "precision": options.precision,
    }  # fmt: skip
    settings = {name: value for name, value in named.items() if value is not None} | parse_settings(options.set)
    keys = ("perturbation_key", "control", "context_key", "batch_key", "scale", "gene_column")
    words = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    if options.resume:
        record = read_record(options.output)
        return replace(record.request, **settings), replace(record.choices, **words)
    return resolve(options.preset or DEFAULT, settings), Choices(**words)


def split_lines(split: Split) -> Iterator[str]:
    """Cells of each context by part, what is held out, and warnings; every perturbation is in split.csv."""
    sums = split.table().groupby(["dataset", "context"], sort=False)[list(PARTS)].sum()
    rows = [["data set", "context", *PARTS]]
    rows += [
        [*map(str, place), *(f"{n:,}" for n in counts)]
        for place, counts in zip(sums.index, sums.to_numpy().tolist(), strict=True)
    ]
    yield from _columns(rows, 2)
    held = split.plan.held_out()
    yield f"Held out: {'; '.join(held) or 'nothing'}."
    yield from split.warnings


def card_lines(card: ModelCard, output: Path) -> Iterator[str]:
    """The model, its scores on what was held out, how far to trust it, and where it lies."""
    yield f"{output}: {card.name}, {len(card.perturbations):,} perturbations, {card.training.steps:,} steps"
    for note in card.notes:
        yield f"  {note}"
    scores = card.training.scores
    blocks = list(dict.fromkeys(name.rpartition(": ")[0] for name in scores if ": " in name))
    rows = [["held out", *SHOWN.values()]]
    rows += [[block, *_numbers(scores, f"{block}: ")] for block in blocks]
    means = [("mean, testing", ""), ("mean, validation", "validation ")]
    rows += [[name, *_numbers(scores, start)] for name, start in means if f"{start}mae_none" in scores]
    if len(rows) > 1:
        yield from _columns(rows)
    if card.calibration is not None:
        believed = card.calibration
        yield f"Calibrated on validation cells: {believed.paired:.2f} x the model + {believed.mean:.2f} x the mean of other contexts."
    yield f"Curves, split and record: {output}/log.csv, {TABLE}, {RECORD}"


def _numbers(scores: dict[str, float], start: str) -> list[str]:
    return [f"{scores[start + m]:.{3 if m.startswith('r_') else 4}f}" if start + m in scores else "-" for m in SHOWN]


def _columns(rows: list[list[str]], names: int = 1) -> Iterator[str]:
    """Aligned text: the first columns are names, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [v.ljust(w) if i < names else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()
