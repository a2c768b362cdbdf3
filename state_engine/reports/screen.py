"""The report of a screen: its ranking, what is chance in it, what the model has seen, and whether predictions resemble each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from state_engine.errors import RunError
from state_engine.metrics.rules import BY_CHANGE
from state_engine.progress import OnProgress
from state_engine.reports.colours import GREY, UP
from state_engine.reports.document import Figure, Points, Section, Table
from state_engine.reports.drawings import bars
from state_engine.reports.provenance import Found
from state_engine.screening.report import RANKING, SCORES, ScreenReport, read_ranking, read_screen

MOST_BARS = 30


def found_in_screen(folder: Path, on_progress: OnProgress) -> Found:
    """Return what the folder of a screen tells.

    Raises:
        RunError: there is none, or it is damaged.
    """
    report = read_screen(folder)
    if report is None:
        raise RunError(
            f"{folder.name} holds no finished screen.", "It has no screen.json.", "Run the screen again, or go on with it."
        )
    table = read_ranking(folder / RANKING)
    top = table.head(MOST_BARS)
    names = [f"{p} in {c}" for p, c in top[["perturbation", "context"]].itertuples(index=False)]
    # a score above chance is coloured
    colours = [UP if q < 0.05 else GREY for q in top["q"].to_numpy(float)]
    svg = bars(names, top["score"].to_numpy(np.float64), "score", colours)
    caption = f"Ranked by {report.goal_words}. Coloured: q under 0.05, against control cells split at random; grey: no more than chance."
    alike = report.resemblance
    remarks = (*report.remarks, *([alike.words()] if alike is not None else []))
    heads = {
        "rank": "Rank", "perturbation": "Perturbation", "context": "Context", "score": "Score", "p": "p", "q": "q",
        "seen": "Seen in training", "in_training": "As a pair", "made": "Made by", "effect_size": "Effect size", "genes_up": "Up",
        "genes_down": "Down",
    }  # fmt: skip
    note = f"Score: {SCORES[report.goal]}. q says that it is no noise; it does not say that the model is right. Up and down: {BY_CHANGE}."
    blocks = (Figure("Best scores", svg, caption), Table("Ranking", table[[*heads]].rename(columns=heads), note))
    return Found(
        (report.words(), *([alike.words()] if alike is not None and alike.alike else [])),
        (Section("Which perturbation does it?", blocks), Section("What to know", (Points(remarks),))),
        _methods(report), versions=report.versions,
    )  # fmt: skip


def _methods(report: ScreenReport) -> tuple[str, ...]:
    target = " (energy distance in principal components)" if report.goal == "target cells" else ""
    return (
        f"{report.perturbations:,} perturbations were predicted by {report.model} ({report.model_id}) in {', '.join(report.contexts)} of "
        f"{report.data}, {report.cells:,} cells of each condition, of which {report.sample:,} were kept, and ranked by {report.goal_words}{target}.",
        f"The null distribution is made of {report.splits:,} random splits of the control cells of each context; q values by Benjamini-Hochberg.",
        f"{report.matched:,} genes of the goal are among the {report.genes:,} of the model." if report.matched else "",
    )
