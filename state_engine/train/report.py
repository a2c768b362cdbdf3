"""A training as lines of text: its split before, its model and scores after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from state_engine.train.run_folder import RECORD, TABLE

if TYPE_CHECKING:
    from state_engine.checkpoints.card import Calibration, ModelCard
    from state_engine.data.splits.apply import Split

PARTS = ("train", "val", "test", "unused")
# metric of a held-out block -> its column
SHOWN = {
    "mae_corrected": "MAE corrected", "mae_mean": "mean of others", "mae_likeness": "likeness-weighted",
    "mae_none": "no change", "mae_raw": "raw", "r_paired": "r paired",
    "r_mean": "r mean",
}  # fmt: skip


def split_lines(split: Split) -> Iterator[str]:
    """Yield the cells of each context by part, what is held out, and warnings; every perturbation is in split.csv."""
    sums = split.table().groupby(["dataset", "context"], sort=False)[list(PARTS)].sum()
    rows = [["data set", "context", *PARTS]]
    rows += [
        [*map(str, place), *(f"{n:,}" for n in counts)]
        for place, counts in zip(sums.index, sums.to_numpy().tolist(), strict=True)
    ]
    yield from _columns(rows, 2)
    held = [str(one) for one in split.plan.held_out()]
    yield f"Held out: {'; '.join(held) or 'nothing'}."
    yield from split.warnings


def card_lines(card: ModelCard, output: Path) -> Iterator[str]:
    """Yield the model, its scores on what was held out, its calibration, and where it lies."""
    yield f"{output}: {card.name}, {len(card.offered):,} perturbations, {card.training.steps:,} steps"
    for note in card.notes:
        yield f"  {note}"
    training = card.training
    rows = [["held out", *SHOWN.values()]]
    rows += [[condition.name, *_numbers(condition.scores)] for condition in training.conditions]
    means = [("mean, testing", training.scores), ("mean, validation", training.validation_scores)]
    rows += [[name, *_numbers(scores)] for name, scores in means if "mae_none" in scores]
    if len(rows) > 1:
        yield from _columns(rows)
    for fitted in card.calibrations:
        more = f" + {fitted.common:.2f} x the mean of the context" if fitted.common else ""
        more += f" + {fitted.features:.2f} x what perturbation features tell" if fitted.features else ""
        weights = f"{fitted.paired:.2f} x the model + {fitted.mean:.2f} x the mean of other contexts{more}"
        yield f"Calibrated on {fitted.origin}: {weights}. {fitted.why}".rstrip()
        yield from own_lines(fitted)
    yield f"Curves, split and record: {output}/log.csv, {TABLE}, {RECORD}"


def own_lines(fitted: Calibration) -> Iterator[str]:
    """Yield the weights of each context that has its own."""
    for context in fitted.own:
        own = fitted.of_context(context)
        yield f"  {own.why} ({own.paired:.2f} model, {own.mean:.2f} other contexts, {own.common:.2f} context, {own.features:.2f} features)"


def _numbers(scores: dict[str, float]) -> list[str]:
    return [f"{scores[m]:.{3 if m.startswith('r_') else 4}f}" if m in scores else "-" for m in SHOWN]


def _columns(rows: list[list[str]], names: int = 1) -> Iterator[str]:
    """Yield aligned text: the first columns are names, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [v.ljust(w) if i < names else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()
