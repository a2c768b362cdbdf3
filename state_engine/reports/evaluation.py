"""The report of an evaluation: the verdict of every prediction, means by metric, the skill between a baseline and a replicate, each condition."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from state_engine.effects.exposure import Exposure
from state_engine.errors import RunError
from state_engine.evaluation.judgement import ABOVE_1, tally
from state_engine.evaluation.raw_or_corrected import evaluation_words
from state_engine.evaluation.report import (
    METRICS,
    Evaluation,
    amplitude_words,
    arrow,
    number_words,
    provenance,
    read_evaluation,
    read_metrics,
    seen_lines,
    telling_lines,
)
from state_engine.progress import OnProgress
from state_engine.reports.colours import BLUE, MISSING
from state_engine.reports.document import Block, Figure, Points, Section, Table, Words
from state_engine.reports.drawings import bars
from state_engine.reports.provenance import Found

WORDS: Final[dict[Exposure, str]] = {"test": "test: held out", "in training": "in training: recall", "not known": "not known"}


def found_in_evaluation(folder: Path, on_progress: OnProgress) -> Found:
    """Return what the folder of an evaluation tells.

    Raises:
        RunError: there is none, or it is damaged.
    """
    found = read_evaluation(folder)
    if found is None:
        raise RunError(f"{folder.name} holds no evaluation.", "It has no evaluation.json.", "Evaluate again.")
    verdict = []
    for one in found.judgements:
        verdict += [
            f"{one.method}: {one.short or one.text}",
            *(line if line.endswith(":") else f"{line}." for line in telling_lines(found, one.method)),
        ]
    verdict = verdict or list(found.verdict[:4])
    exposures = {e: found.exposed(e) for e in WORDS}
    parts = ", ".join(f"{n:,} {WORDS[e]}" for e, n in exposures.items() if n)
    sections = [
        Section("How close is it?", (_means(found), *_beside(found))),
        *_skill(found),
        Section("What was compared", tuple(_compared(found, parts))),
        Section("Each condition", (_conditions(found, folder),)),
    ]
    return Found(tuple(verdict), tuple(sections), _methods(found, parts), _statistics(found), found.versions)


def _means(found: Evaluation) -> Table:
    rows = []
    for metric in found.ranked:
        by = {r.method: r for r in found.summary if (r.metric, r.context) == (metric.name, "")}
        if not by:
            continue
        grey = " (cannot tell here)" if found.tells(metric.name) is False else ""
        cells = {m.name: number_words(by[m.name], metric) if m.name in by else "–" for m in found.methods}
        rows.append({"": f"{metric.title} {arrow(metric)}{grey}".strip(), **cells})
    return Table("", pd.DataFrame(rows), "Means over conditions, then over seeds; ±: standard deviation of the seeds' means.")


def _beside(found: Evaluation) -> list[Block]:
    floor = found.noise_floor
    lines = (
        [f"MAE expected of a perfect prediction, from the number of measured cells: {floor:.4f}."] if floor is not None else []
    )
    either = evaluation_words(found)
    return [Points((*lines, *([either] if either else []), *amplitude_words(found), *found.verdict))]


def _skill(found: Evaluation) -> list[Section]:
    if not found.skills:
        return []
    titles = {m.name: m.title for m in found.scored}
    names = [f"{titles.get(s.metric, s.metric)}, {s.method}" for s in found.ranked_skills]
    value, low, high = (np.array([getattr(s, side) for s in found.ranked_skills], float) for side in ("value", "low", "high"))
    colours = [BLUE if found.tells(s.metric) else MISSING for s in found.ranked_skills]
    svg = bars(names, value, "skill: 0 the best simple baseline, 1 a replicate", colours, low=low, high=high)
    caption = (
        "95 % intervals over conditions (bootstrap). Grey: this metric cannot tell a replicate from an average on these cells. "
    )
    rows = pd.DataFrame(
        [
            (titles.get(s.metric, s.metric), s.method, s.baseline, s.value, s.low, s.high, s.n, bool(found.tells(s.metric)))
            for s in found.ranked_skills
        ],
        columns=["Metric", "Prediction", "Best baseline", "Skill", "Low", "High", "Conditions", "Can tell"],
    )
    rows["Can tell"] = rows["Can tell"].map({True: "yes", False: "no"})
    above = ABOVE_1 if any(s.value > 1 and found.tells(s.metric) for s in found.skills) else ""
    blocks = (
        Figure("Skill", svg, caption + above),
        Table("", rows),
        Words(tally(found.discriminations), quiet=True),
        Points(tuple(seen_lines(found))),
    )
    return [Section("From a baseline to a replicate", blocks)]


def _compared(found: Evaluation, parts: str) -> list[Block]:
    methods = pd.DataFrame(
        [(m.name, m.kind, m.n_conditions, m.reason) for m in found.methods],
        columns=["Method", "What it is", "Conditions", "What is missing"],
    )
    lines = [f"{len(found.conditions):,} conditions: {parts}." if parts else f"{len(found.conditions):,} conditions."]
    return [Points((*lines, *([found.held_out] if found.held_out else []), *found.remarks)), Table("", methods)]


def _conditions(found: Evaluation, folder: Path) -> Table:
    path = folder / METRICS
    rows = pd.DataFrame(
        [(c.perturbation, c.context, WORDS[c.exposure], c.n_predicted, c.n_measured, c.n_control) for c in found.conditions],
        columns=["Perturbation", "Context", "", "Predicted cells", "Measured cells", "Control cells"],
    )
    shown = [m for m in found.ranked if not m.describes and found.tells(m.name) is not False][:2]
    predictions = [m.name for m in found.methods if m.kind == "prediction"]
    if not path.exists() or not shown or not predictions:
        return Table("", rows)
    values = read_metrics(path)
    for metric in shown:
        for method in predictions:
            own = values[(values["metric"] == metric.name) & (values["method"] == method)]
            means = own.groupby(["perturbation", "context"])["value"].mean()
            pairs = zip(rows["Perturbation"], rows["Context"], strict=True)
            rows[f"{metric.title}, {method}"] = [float(means.get(pair, float("nan"))) for pair in pairs]
    return Table("", rows)


def _methods(found: Evaluation, parts: str) -> tuple[str, ...]:
    names = {kind: ", ".join(m.name for m in found.methods if m.kind == kind) for kind in ("prediction", "baseline")}
    return (
        f"{names['prediction'] or 'Predictions'} were compared with the measured cells of {found.real.rpartition('/')[2]} on "
        f"{len(found.conditions):,} conditions{f' ({parts})' if parts else ''} and {found.n_genes:,} genes, "
        f"beside {names['baseline'] or 'no baseline'}.",
        *(line for line in provenance(found) if not line.startswith("Versions")),
        f"Seed of control cells and rounding: {found.seed}.",
    )


def _statistics(found: Evaluation) -> tuple[str, ...]:
    used = ["mann-whitney", "benjamini-hochberg"] if found.de_engine else []
    used += ["energy distance"] if any("energy" in m.name for m in found.scored) else []
    return (*used, *(["bootstrap"] if found.skills else []))
