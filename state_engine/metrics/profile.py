"""What a profile of metrics is: which metrics, by whose definitions, and how their numbers become one score. Plain values only.

A challenge brings its profile in its TOML file (table `scoring`); the two profiles of the house are in `metrics.profiles`.

Notation: u a metric of the submission, b of the baseline, a of the anchor that scores 1: the perfect value, or a replicate
(one half of the measured cells against the other).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

ControlSource = Literal["real", "predicted"]
Fdr = Literal["per perturbation", "pooled"]
Shown = Literal["number", "count", "percent"]

TARGET: Final = "target_gene"
"""obs column of the perturbation in the cells that are given to the engine, whatever it is called in files."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: its name at the engine.
        title: what it is called here.
        more_is_better: its direction.
        meaning: what it says, for people.
        on: whether it needs only mean expression, or cells.
        needs_two: it compares the perturbations of a context, so a context with one has no value.
        in_verdict: it decides the words of a verdict: how far off a prediction is, and whether the pattern is right.
        by: whose function it is: the engine's, or one of `metrics.own`.
        perfect: its best value, where a prediction's skill between baseline and replicate is measured by it; None: it is not.
        describes: it says how predictions differ from measurements and ranks nothing, such as a slope whose best value is 1.
        detail: a reader sees it only on request.
        shown: how its values are written: a number, a count of genes, or a share in percent.
        weight: of its score in the overall score.
        baseline, anchor: b and a where the challenge publishes them; None: computed from the measured cells.
    """

    name: str
    title: str
    more_is_better: bool
    meaning: str
    on: Literal["means", "cells"] = "cells"
    needs_two: bool = False
    in_verdict: bool = False
    by: Literal["cell-eval2", "here"] = "cell-eval2"
    perfect: float | None = None
    describes: bool = False
    detail: bool = False
    shown: Shown = "number"
    weight: float = 1.0
    baseline: float | None = None
    anchor: float | None = None


@dataclass(frozen=True)
class Profile:
    """Metrics, and the rules by which they are computed and become a score.

    Args:
        metrics: in the order of the tables.
        name, title, values: short name, name for people, scale of expression that is compared. A challenge's own.
        definitions: settings of cell-eval2: "v1" (those of cell-eval), "v2", or one of its presets.
        controls: whose control cells effects may start from; the first is the rule.
        also: further numbers of the engine that are kept in the table by perturbation, but not scored.
        cell_eval: what cell-eval calls these metrics, when it can compute them; "" when it cannot.
        pooled_fdr: p-values may also be adjusted over all perturbations together.
        baseline: the mean over perturbations as every cell, or cell-eval2's mean response.
        anchor: what scores 1: the perfect value, or a replicate of the measurement.
        lowest: a score below it counts as this in the overall score; None for no limit.
        points: overall score of a submission that scores 1 in every metric.
    """

    metrics: tuple[Metric, ...]
    name: str = ""
    title: str = ""
    values: Literal["log1p", "counts"] = "log1p"
    definitions: str = "v2"
    controls: tuple[ControlSource, ...] = ("real", "predicted")
    also: tuple[str, ...] = ()
    cell_eval: str = ""
    pooled_fdr: bool = False
    baseline: Literal["perturbation mean", "mean response"] = "mean response"
    anchor: Literal["perfect", "replicate"] = "replicate"
    lowest: float | None = None
    points: float = 1.0

    @property
    def on_means(self) -> tuple[str, ...]:
        """Names of the metrics that need mean expression only."""
        return tuple(m.name for m in self.metrics if m.on == "means")

    @property
    def on_cells(self) -> tuple[str, ...]:
        """Names of the metrics that need cells."""
        return tuple(m.name for m in self.metrics if m.on == "cells")

    def metric(self, name: str) -> Metric | None:
        """The metric of that name; None when the profile has no such metric."""
        return next((m for m in self.metrics if m.name == name), None)

    def overall(self, scores: Sequence[float | None]) -> float | None:
        """Return the overall score of the metrics' scores, in their order; None when one is missing or there are none."""
        if len(scores) != len(self.metrics) or mean_of(scores) is None:
            return None
        lowest = -math.inf if self.lowest is None else self.lowest
        total = sum(m.weight * max(lowest, s) for m, s in zip(self.metrics, scores, strict=True) if s is not None)
        return self.points * total / sum(m.weight for m in self.metrics)


def scaled(value: float, baseline: float, more_is_better: bool) -> float | None:
    """Return the score of u where the perfect value scores 1: 0 is the baseline. None where the baseline is perfect already."""
    if more_is_better:
        return (value - baseline) / (1 - baseline) if baseline != 1 else None
    return 1 - value / baseline if baseline else None


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean; None when a value is missing or there are none."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return sum(known) / len(known) if known and len(known) == len(values) else None
