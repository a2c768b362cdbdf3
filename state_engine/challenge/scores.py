"""Scores of a challenge: what the metrics mean, how a metric becomes a score, and what is kept of a scoring. Plain values only.

Notation: u a metric of the submission, b of the baseline, r of a replicate (one half of the measured cells against the other).
2025: scaled = (u - b) / (1 - b) where 1 is best, 1 - u / b where 0 is best; overall = 100 x mean of max(0, scaled).
2026: scaled = (u - b) / (r - b), with the limits that the scorer sets; overall = their mean. 0 is the baseline, 1 a replicate; more
than 1 and less than 0 are possible, so it is never a percentage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from state_engine.errors import ConfigError, RunError
from state_engine.plain import from_plain

SCORES: Final = "scores.json"
TABLE: Final = "scores.csv"


@dataclass(frozen=True)
class Metric:
    """A metric: its name at the scorer, what it is called here, whether more is better, and what it says, for people."""

    name: str
    title: str
    more_is_better: bool
    meaning: str


VCC2025: Final = (
    Metric(
        "mae",
        "MAE",
        False,
        "Mean absolute error of the mean expression (log1p) of a perturbation's cells, over all genes; then the mean over "
        "perturbations. 0 is best.",
    ),
    Metric(
        "discrimination_score_l1",
        "PDS",
        True,
        "Perturbation discrimination: measured effects are ranked by their L1 distance to the predicted effect (the perturbed gene "
        "left out), and 1 - rank / n says how near the right one is. 1 is best, 0.5 is chance.",
    ),
    Metric(
        "overlap_at_N",
        "DES",
        True,
        "Differential expression: of the k genes that change significantly in the measurement (FDR < 0.05), the share that is also "
        "among the k significant genes with the largest predicted fold changes. 1 is best.",
    ),
)
VCC2026: Final = (
    Metric(
        "pds_cosine",
        "PDS",
        True,
        "Is the predicted profile nearer (by cosine) to its own measured profile than to those of the other perturbations? 1 is "
        "best, 0.5 is no information.",
    ),
    Metric(
        "expr_mse_unbiased_capped_norm",
        "Expression error",
        False,
        "Squared error of the predicted expression, freed of sampling noise and divided by the size of the measured effects. 0 is best.",
    ),
    Metric(
        "de_wilcoxon_direction_fidelity_yield_raw",
        "Direction, fidelity",
        True,
        "Of the genes predicted to change, the share that changes in that direction in the measurement. 1 is best.",
    ),
    Metric(
        "de_wilcoxon_direction_reach_raw",
        "Direction, reach",
        True,
        "How far down the list of predicted genes the directions stay right. 1 is best.",
    ),
    Metric(
        "de_wilcoxon_sig_jaccard",
        "Responding genes",
        True,
        "Genes that respond significantly both as predicted and as measured, divided by those that do in either. 1 is best.",
    ),
    Metric(
        "de_wilcoxon_lfc_nmae",
        "Fold changes",
        False,
        "Mean absolute error of predicted log fold changes, divided by the size of the measured ones. 0 is best.",
    ),
)


@dataclass(frozen=True)
class MetricScore:
    """One metric of one context.

    Args:
        metric: name at the scorer.
        value: u, mean over perturbations.
        baseline: b.
        replicate: r (2026), None where there is none.
        scaled: the score; None when it cannot be made (`reason` says why).
        n: perturbations it is the mean of.
        reason: why a number is missing.
    """

    metric: str
    value: float | None
    baseline: float | None = None
    replicate: float | None = None
    scaled: float | None = None
    n: int = 0
    reason: str = ""


@dataclass(frozen=True)
class ContextScores:
    """Scores of one context ("" when the challenge has none). `overall` is None when a score is missing."""

    context: str
    metrics: tuple[MetricScore, ...]
    overall: float | None
    n_perturbations: int
    n_predicted: int
    n_measured: int


@dataclass(frozen=True)
class Scores:
    """A submission scored.

    Args:
        challenge: "vcc2025" or "vcc2026": whose metrics.
        source, truth: files.
        contexts: scores by context.
        overall: mean over contexts, None when one is missing.
        n_genes: genes compared.
        engine: package that made the metrics.
        versions: of the packages that shape the numbers.
        control_source: whose control cells the metrics start from, words.
        de_engine: test for differential expression and how its p-values are adjusted, words.
        baseline: what the baseline is, words.
        held_out: what the scored perturbations are to the model, words; "" when not known.
        remarks: sentences that belong beside the numbers.
        seconds: time it took.
    """

    challenge: str
    source: str
    truth: str
    contexts: tuple[ContextScores, ...]
    overall: float | None
    n_genes: int
    engine: str
    versions: dict[str, str] = field(default_factory=dict)
    control_source: str = ""
    de_engine: str = ""
    baseline: str = ""
    held_out: str = ""
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0


def metrics_of(challenge: str) -> tuple[Metric, ...]:
    """The metrics of a year. Custom challenges are scored as the year whose scale of values they share."""
    return VCC2026 if challenge == "vcc2026" else VCC2025


def scaled_2025(value: float, baseline: float, more_is_better: bool) -> float | None:
    """u against the baseline on the scale of 2025: 0 is the baseline, 1 perfect. None where the baseline is perfect already."""
    if more_is_better:
        return (value - baseline) / (1 - baseline) if baseline != 1 else None
    return 1 - value / baseline if baseline else None


def overall_2025(scaled: Sequence[float | None]) -> float | None:
    """100 x mean of max(0, scaled); None when a score is missing or there are none."""
    known = [s for s in scaled if s is not None and math.isfinite(s)]
    return 100 * sum(max(0.0, s) for s in known) / len(known) if known and len(known) == len(scaled) else None


def mean_of(values: Sequence[float | None]) -> float | None:
    """Their mean; None when one is missing or there are none."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def read_scores(path: Path) -> Scores | None:
    """Kept scores; None when there are none yet.

    Raises:
        RunError: they are damaged.
    """
    if not path.exists():
        return None
    try:
        return from_plain(Scores, json.loads(path.read_bytes()))
    except (OSError, ValueError, ConfigError) as error:
        raise RunError(f"The scores {path.name} cannot be read.", str(error), "Score again.") from error


def score_lines(scores: Scores) -> list[str]:
    """Scores for a terminal."""
    lines = []
    titles = {m.name: m.title for m in metrics_of(scores.challenge)}
    for context in scores.contexts:
        where = f"{context.context}: " if context.context else ""
        lines.append(
            f"{where}{context.n_perturbations:,} perturbations, {context.n_predicted:,} predicted and {context.n_measured:,} measured cells"
        )
        lines.append(f"  {'':22}{'submission':>11}{'baseline':>11}{'replicate':>11}{'score':>9}")
        for m in context.metrics:
            numbers = "".join(f"{number_text(v):>11}" for v in (m.value, m.baseline, m.replicate))
            lines.append(f"  {titles.get(m.metric, m.metric):22}{numbers}{number_text(m.scaled, 3):>9}  {m.reason}".rstrip())
    lines.append(overall_words(scores))
    said = (
        f"Metrics: {scores.engine}",
        f"Control cells: {scores.control_source}",
        f"Differential expression: {scores.de_engine}",
        f"Baseline: {scores.baseline}",
    )
    return [*lines, *said, *([scores.held_out] if scores.held_out else []), *scores.remarks]


def overall_words(scores: Scores) -> str:
    """The overall score as a sentence, on the scale of its year."""
    if scores.overall is None:
        return "No overall score: a metric is missing."
    if scores.challenge == "vcc2026":
        return f"Overall: {scores.overall:.3f} (0: mean-response baseline, 1: a replicate of the measurement)"
    return f"Overall: {scores.overall:.2f} of 100 (0: mean baseline)"


def number_text(value: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
