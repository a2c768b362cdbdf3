"""From numbers of single conditions to means, comparisons and words. A mean and a comparison look at the same conditions on both sides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from state_engine.metrics.profile import Metric

# a lead smaller than this part of the number is none; falling behind is always reported
TIE: Final = 1e-3


@dataclass(frozen=True)
class SummaryRow:
    """A mean.

    Args:
        method, metric: of what.
        context: "" for all.
        value: mean over conditions, then over seeds.
        spread: standard deviation of the seeds' means; None with one seed.
        n: conditions behind it.
    """

    method: str
    metric: str
    context: str
    value: float | None
    spread: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """A prediction and a baseline on the conditions that both have numbers for.

    Args:
        value, other: means of the prediction (over seeds) and of the baseline.
        n: conditions; better: those where the prediction is better.
    """

    method: str
    baseline: str
    metric: str
    value: float
    other: float
    n: int
    better: int

    def worse(self, more_is_better: bool) -> bool:
        """The prediction is worse than the baseline."""
        return self.value < self.other if more_is_better else self.value > self.other


@dataclass(frozen=True)
class Statement:
    """A part of a verdict: a prediction is worse, or better, than a baseline.

    Args:
        method, baseline: what is compared; no baseline in a statement that is read from an old file.
        worse: which of the two.
        text: the sentence, without the name of the prediction.
    """

    method: str
    baseline: str
    worse: bool
    text: str


def summarise(table: pd.DataFrame) -> tuple[SummaryRow, ...]:
    """Means of the long table (method, seed, perturbation, context, metric, value), over all conditions and by context."""
    rows = []
    contexts = list(dict.fromkeys(table["context"]))
    for (method, metric), part in table.groupby(["method", "metric"], sort=False):
        wanted = ["", *contexts] if len(contexts) > 1 else [""]
        for context in wanted:
            here = part if context == "" else part[part["context"] == context]
            if here.empty:
                continue
            seeds = here.groupby("seed")["value"].mean()
            spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
            n = int((here["seed"] == here["seed"].iloc[0]).sum())
            rows.append(SummaryRow(str(method), str(metric), context, _finite(seeds.mean()), spread, n))
    return tuple(rows)


def comparisons(
    table: pd.DataFrame, methods: Iterable[str], baselines: Iterable[str], metrics: Sequence[Metric]
) -> tuple[Comparison, ...]:
    """Every prediction against every baseline by every metric."""
    means = {
        key: part.groupby(["perturbation", "context"])["value"].mean()
        for key, part in table.groupby(["method", "metric"], sort=False)
    }
    found = []
    baselines = list(baselines)
    for method in methods:
        for baseline in baselines:
            for metric in metrics:
                if metric.describes or (method, metric.name) not in means or (baseline, metric.name) not in means:
                    continue
                pair = pd.concat([means[method, metric.name], means[baseline, metric.name]], axis=1, join="inner").dropna()
                if pair.empty:
                    continue
                own, other = pair.iloc[:, 0], pair.iloc[:, 1]
                better = int((own > other).sum() if metric.more_is_better else (own < other).sum())
                found.append(Comparison(method, baseline, metric.name, float(own.mean()), float(other.mean()), len(pair), better))
    return tuple(found)


def furthest_behind(table: pd.DataFrame, method: str, baseline: str, metric: Metric, n: int = 3) -> tuple[str, ...]:
    """Return the conditions in which a prediction is further behind a baseline than elsewhere, worst first; only those behind it."""
    part = table[(table["metric"] == metric.name) & (table["perturbation"] != "")]
    means = part.groupby(["method", "perturbation", "context"])["value"].mean()
    if method not in means or baseline not in means:
        return ()
    lead = (means[method] - means[baseline]).dropna()
    behind = (-lead if metric.more_is_better else lead).sort_values(ascending=False)
    return tuple(f"{p} in {c}" for (p, c), gap in behind.items() if gap > 0)[:n]


def verdict(found: Sequence[Comparison], metrics: Sequence[Metric]) -> tuple[Statement, ...]:
    """Return, for each prediction, which simple baseline is better than it, by which numbers; then which it beats."""
    by_name = {m.name: m for m in metrics}
    statements = []
    for method, baseline in dict.fromkeys((c.method, c.baseline) for c in found):
        pair = [c for c in found if (c.method, c.baseline) == (method, baseline) and by_name[c.metric].in_verdict]
        worse = [c for c in pair if c.worse(by_name[c.metric].more_is_better)]
        better = [c for c in pair if c not in worse and abs(c.value - c.other) > TIE * abs(c.other)]
        for number, part in enumerate((worse, better)):
            if part:
                numbers = "; ".join(_numbers(c, by_name[c.metric]) for c in part)
                text = f"{('Worse', 'Better')[number]} than {_the(baseline)}: {numbers}."
                statements.append(Statement(method, baseline, number == 0, text))
    return tuple(sorted(statements, key=lambda s: not s.worse))


def sentence(statement: Statement) -> str:
    """Return a statement with the name of its prediction in front."""
    return f"{statement.method[:1].upper()}{statement.method[1:]}. {statement.text}"


def _numbers(c: Comparison, metric: Metric) -> str:
    ours, theirs = apart(c.value, c.other)
    share = f", better in {c.better:,} of {c.n:,} conditions" if c.n > 1 else ""
    return f"{metric.title} {ours} against {theirs}{share}"


def apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    digits = next((d for d in range(3, 7) if f"{one:.{d}f}" != f"{other:.{d}f}"), 6)
    return f"{one:.{digits}f}", f"{other:.{digits}f}"


def _the(baseline: str) -> str:
    return baseline if baseline == "no change" else f"the {'ridge regression' if baseline == 'ridge' else baseline}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
