"""Scores of a challenge: what is stored of a scoring, and how it is shown as text. Plain values only.

Notation: u a metric of the submission, b of the baseline, r of a replicate (one half of the measured cells against the other).
Where the anchor of a challenge is the perfect value: scaled = (u - b) / (1 - b) where 1 is best, 1 - u / b where 0 is best.
Where it is a replicate: scaled = (u - b) / (r - b), with the limits that the scorer sets; 0 is the baseline, 1 a replicate; more than 1
and less than 0 are possible, so it is never a percentage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from state_engine.challenge.findings import NullCheck
from state_engine.challenge.spec import load_rules
from state_engine.metrics.profile import Profile
from state_engine.plain import plural, read_json_as

# genes called at the engine, of predicted and of measured cells; a profile asks for them among `also`
CALLED: Final = ("de_wilcoxon_nsig_counts_pred", "de_wilcoxon_nsig_counts_real")
SCORES: Final = "scores.json"
TABLE: Final = "scores.csv"


@dataclass(frozen=True)
class MetricScore:
    """One metric of one context.

    Args:
        metric: name at the scorer.
        value: u, mean over perturbations.
        baseline: b.
        replicate: r, None where there is none.
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
    """Scores of one context ("" when the challenge has none). `overall` is None when a score is missing.

    Direction fidelity and the Jaccard index of responding genes reward a submission that calls more genes, so two numbers stand beside them:

    Args:
        called: genes called significant, the mean over perturbations, by the scorer's own rules; None where the profile does not ask for it.
        called_measured: the same of the measured cells.
        null: what effect zero calls when it is sent through the steps of the submission; None where that could not be checked.
    """

    context: str
    metrics: tuple[MetricScore, ...]
    overall: float | None
    n_perturbations: int
    n_predicted: int
    n_measured: int
    called: MetricScore | None = None
    called_measured: float | None = None
    null: NullCheck | None = None

    @property
    def null_rate(self) -> float | None:
        """Share of the genes that effect zero calls, all of them false; None where it was not checked."""
        return self.null.called / self.null.genes if self.null is not None and self.null.genes else None


@dataclass(frozen=True)
class Scores:
    """A submission scored.

    Args:
        challenge: whose metrics.
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
        flatters: the model may have seen scored conditions, so that the scores are too good.
        remarks: sentences that belong beside the numbers.
        seconds: time it took.
        scoring: the metrics and their rules; None in files of before 29 November 2026, which have those of `challenge`.
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
    flatters: bool | None = None
    scoring: Profile | None = None

    @property
    def doubtful(self) -> bool:
        """The model may have seen what is scored. Old files say so in their words only."""
        return "flatter" in self.held_out if self.flatters is None else self.flatters

    @property
    def profile(self) -> Profile:
        """The metrics of the scores.

        Raises:
            ChallengeError: the scores do not hold them, and the challenge is not known.
        """
        return self.scoring or load_rules(self.challenge).profile


def read_scores(path: Path) -> Scores | None:
    """Return stored scores; None when there are none yet.

    Raises:
        RunError: they are damaged.
    """
    return read_json_as(Scores, path, "scores file", "Score again.")


def score_lines(scores: Scores) -> list[str]:
    """Scores for a terminal."""
    lines = []
    titles = {m.name: m.title for m in scores.profile.metrics}
    for context in scores.contexts:
        where = f"{context.context}: " if context.context else ""
        lines.append(
            f"{where}{plural(context.n_perturbations, 'perturbation')}, {plural(context.n_predicted, 'predicted cell')} and "
            f"{plural(context.n_measured, 'measured cell')}"
        )
        lines.append(f"  {'':22}{'submission':>11}{'baseline':>11}{'replicate':>11}{'score':>9}")
        for m in context.metrics:
            numbers = "".join(f"{number_text(v):>11}" for v in (m.value, m.baseline, m.replicate))
            lines.append(f"  {titles.get(m.metric, m.metric):22}{numbers}{number_text(m.scaled, 3):>9}  {m.reason}".rstrip())
        lines += [f"  {title:22}" + "".join(f"{text:>11}" for text in row) for title, *row in beside_rows(context)]
    lines.append(overall_words(scores))
    said = (
        f"Metrics: {scores.engine}",
        f"Control cells: {scores.control_source}",
        f"Differential expression: {scores.de_engine}",
        f"Baseline: {scores.baseline}",
    )
    return [*lines, *said, *([scores.held_out] if scores.held_out else []), *scores.remarks]


def beside_rows(context: ContextScores) -> list[tuple[str, str, str, str]]:
    """Return what stands beside the metrics of responding genes, as text: title, submission, baseline, replicate."""
    called = context.called
    if called is None:
        return []
    real = "" if context.called_measured is None else f" of {context.called_measured:,.0f}"
    numbers = ["–" if v is None else f"{v:,.0f}" for v in (called.value, called.baseline, called.replicate)]
    rate = "not checked" if context.null_rate is None else f"{context.null_rate:.2%}"
    return [(f"Genes called{real}", *numbers), ("Called at effect 0", rate, "", "")]  # type: ignore[list-item]


def overall_words(scores: Scores) -> str:
    """Return the overall score as a sentence, on the scale of its challenge."""
    if scores.overall is None:
        return "No overall score: a metric is missing."
    profile = scores.profile
    baseline = "mean-response baseline" if profile.baseline == "mean response" else "mean baseline"
    if profile.anchor == "replicate":
        return f"Overall: {scores.overall:.3f} (0: {baseline}, {profile.points:g}: a replicate of the measurement)"
    return f"Overall: {scores.overall:.2f} of {profile.points:g} (0: {baseline})"


def number_text(value: float | None, digits: int = 4) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
