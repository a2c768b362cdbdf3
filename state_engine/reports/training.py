"""The report of a training: scores on held-out cells beside baselines, the curves, what was held out, and the calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import read_card
from state_engine.errors import RunError
from state_engine.evaluation.adaptation import adaptation_lines, read_adaptation
from state_engine.evaluation.card_verdict import WHICH_TELL, against_baselines
from state_engine.progress import OnProgress
from state_engine.reports.colours import BLUE, GREEN, GREY, VERMILION
from state_engine.reports.document import Block, Figure, Lines, Points, Section, Table
from state_engine.reports.drawings import Axis, Series, curves
from state_engine.reports.provenance import Found
from state_engine.train.curves import LOG, VALIDATION, read_curve
from state_engine.train.report import SHOWN, own_lines
from state_engine.train.run_folder import MODEL, is_training, read_record

AVERAGED = 25  # steps of the loss that are averaged for the curve


def found_in_training(folder: Path, on_progress: OnProgress) -> Found:
    """Return what the folder of a finished training tells.

    Raises:
        RunError: there is no model in it, or it is damaged.
    """
    if not (folder / MODEL).is_dir():
        raise RunError(f"{folder.name} holds no trained model.", "The training has not ended.", "Wait, or go on with it.")
    card = read_card(folder / MODEL)
    record = read_record(folder) if is_training(folder) else None
    against = [one.text for one in against_baselines(card.training)]
    verdict = [*against, WHICH_TELL] if against else ["No cells were kept for testing: nothing shows how good this model is."]
    if card.calibration is not None and card.calibration.why:
        verdict.append(card.calibration.why)
    held = [str(one) for one in card.training.held_out]
    sections = [
        Section("How good is it on cells it has never seen?", tuple(_scores(card))),
        *_curves(folder),
        Section("What was held out", (Points((f"Held out: {'; '.join(held) or 'nothing'}.", *card.notes)),)),
        *_calibration(card),
    ]
    adapted = read_adaptation(folder)
    if adapted is not None:
        verdict.insert(0, adapted.verdict)
        lines = "\n".join(adaptation_lines(folder)).strip()
        sections.append(Section("Adapted to these cells", (Lines("Beside a training from scratch and the baselines", lines),)))
    size = f"{record.parameters:,} parameters, " if record is not None and record.parameters else ""
    methods = (
        f"A State Transition model ({size}{card.attention} attention, cell sets of {card.set_size}) was trained for "
        f"{card.training.steps:,} steps on {card.training.data}, loss {card.training.loss or 'as recorded'}.",
        f"Held out of the training: {'; '.join(held) or 'nothing'}.",
        "MAE is of the mean cell (log1p), r the Pearson correlation of effects over all genes; means over held-out conditions.",
    )
    return Found(tuple(verdict), tuple(sections), methods, versions=record.versions if record is not None else {})


def _scores(card: ModelCard) -> list[Block]:
    training = card.training
    rows = [{"": c.name, **_row(c.scores)} for c in training.conditions]
    for name, scores in (("mean, testing", training.scores), ("mean, validation", training.validation_scores)):
        rows += [{"": name, **_row(scores)}] if "mae_none" in scores else []
    if not rows:
        return [Points(("No cells were kept for testing.",))]
    table = pd.DataFrame(rows).dropna(axis=1, how="all")
    return [
        Table(
            "", table, "Mean absolute error of the mean cell (log1p), lower is better; r of effects, higher is better.", digits=4
        )
    ]


def _row(scores: dict[str, float]) -> dict[str, float]:
    return {head: scores.get(name, float("nan")) for name, head in SHOWN.items()}


def _curves(folder: Path) -> list[Section]:
    log, validation = read_curve(folder / LOG), read_curve(folder / VALIDATION)
    if not log.get("step"):
        return []
    steps, loss = np.array(log["step"]), np.array(log["loss"])
    wide = min(AVERAGED, len(loss))
    smooth = np.convolve(loss, np.ones(wide) / wide, mode="valid")
    series = [
        Series("each step", GREY, steps, loss, 1, 0.5),
        Series(f"mean of {wide} steps", BLUE, steps[wide - 1 :], smooth, 2, 1),
    ]
    figures = [Figure("Loss of the training", curves(series, Axis("step"), Axis("loss")), f"{len(steps):,} steps.")]
    errors = [name for name in validation if name.startswith("mae_")]
    if errors and validation.get("step"):
        at = np.array(validation["step"])
        lines = [
            Series(name, (BLUE, GREY, VERMILION, GREEN)[i % 4], at, np.array(validation[name]), 2, 1)
            for i, name in enumerate(errors)
        ]
        figures.append(
            Figure("Validation", curves(lines, Axis("step"), Axis("MAE (log1p)")), "On cells that are not trained on.")
        )
    return [Section("Curves", tuple(figures))]


def _calibration(card: ModelCard) -> list[Section]:
    blocks: list[Block] = []
    for fitted in card.calibrations:
        weights = f"{fitted.paired:.2f} x the model + {fitted.mean:.2f} x the mean of other contexts"
        weights += f" + {fitted.common:.2f} x the mean of the context" if fitted.common else ""
        weights += f" + {fitted.features:.2f} x what perturbation features tell" if fitted.features else ""
        blocks.append(
            Points((f"Fitted on {fitted.origin}, {fitted.conditions:,} conditions: {weights}. {fitted.why}", *own_lines(fitted)))
        )
    return [Section("How far to believe it", tuple(blocks))] if blocks else []
