"""Whether a metric can tell a replicate from an average on a data set, and where a prediction stands between the two.

Positive: what a replicate of the measurement scores. Negative: what the mean of the other perturbations (or of other contexts) scores.
    BDS  share of conditions where the positive is better than the negative
    DRF  (negative - positive) / (negative - perfect), -1 to 1, median over conditions
    skill = (baseline - prediction) / (baseline - replicate), of means over conditions: 0 is the baseline, 1 a replicate
Source: Miller et al. 2025 (interpolated duplicate, DRF), scPertEval 0.2 (BDS; Schaefer et al. 2026). Boundary: numpy and scipy.

Notation: k conditions, g genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from state_engine.metrics.moments import Moments, welch

LEAST_BDS: Final = 0.8
LEAST_DRF: Final = 0.3
DRAWS: Final = 1000


@dataclass(frozen=True)
class Discrimination:
    """How well a metric tells a replicate from an average.

    Args:
        metric: its name.
        context: "" for all.
        bds, drf: see the module.
        n: conditions behind them.
    """

    metric: str
    context: str
    bds: float
    drf: float
    n: int

    @property
    def tells(self) -> bool:
        """Whether the metric may rank predictions on this data set."""
        return self.bds >= LEAST_BDS and self.drf >= LEAST_DRF


@dataclass(frozen=True)
class Skill:
    """Where a prediction stands between a baseline (0) and a replicate (1).

    Args:
        method, metric: whose, and by which metric.
        baseline: name of the best simple baseline, which scores 0.
        value: the skill, with its 95 % interval over conditions, `low` to `high`.
        n: conditions behind it.
        contexts: those whose conditions were used, because the metric can tell there; empty for all.
    """

    method: str
    metric: str
    baseline: str
    value: float
    low: float
    high: float
    n: int
    contexts: tuple[str, ...] = ()

    @property
    def better(self) -> bool:
        """The interval lies above 0."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """The interval lies below 0."""
        return self.high < 0


def interpolated_duplicate(replicate: Moments, rest: Moments, average: np.ndarray) -> np.ndarray:
    """Return a replicate's mean cell (g,), with the average in its place for each gene as far as the gene does not differ.

    alpha = 1 - adjusted p of Welch's test against the other perturbed cells; alpha x replicate + (1 - alpha) x average.
    The noise of genes that do not respond is so kept out of the best that can be reached.

    Args:
        replicate: half of a condition's cells.
        rest: all other perturbed cells.
        average: (g,) mean of the other perturbations.
    """
    from scipy.stats import false_discovery_control

    _, p = welch(replicate, rest)
    alpha = 1 - false_discovery_control(p)
    return np.asarray(alpha * replicate.mean + (1 - alpha) * average)


def discrimination(
    metric: str, context: str, positive: np.ndarray, negative: np.ndarray, perfect: float, more_is_better: bool
) -> Discrimination | None:
    """Return how well a metric tells the positives (k,) from the negatives (k,); None when no condition has both.

    Args:
        perfect: the best value of the metric.
    """
    known = np.isfinite(positive) & np.isfinite(negative)
    if not known.any():
        return None
    gain = (positive - negative if more_is_better else negative - positive)[known]
    room = np.abs(perfect - negative[known])
    drf = np.clip(gain / (room + 1e-6), -1, 1)
    return Discrimination(metric, context, float((gain > 0).mean()), float(np.median(drf)), int(known.sum()))


def skill(
    names: tuple[str, str, str],
    prediction: np.ndarray,
    baseline: np.ndarray,
    replicate: np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
) -> Skill | None:
    """Return the skill of a prediction, with an interval by drawing conditions with replacement.

    Args:
        names: method, metric, baseline.
        prediction, baseline, replicate: (k,) values of the same conditions; a condition without all three is left out.
        seed: of the draws.
        draws: how many.

    Returns:
        None when no condition has all three, or the replicate is no better than the baseline: there is nothing to measure with.
    """
    known = np.isfinite(prediction) & np.isfinite(baseline) & np.isfinite(replicate)
    values = np.stack([prediction[known], baseline[known], replicate[known]])
    n = values.shape[1]
    if n == 0:
        return None
    whole = values.mean(axis=1)
    if np.isclose(whole[1], whole[2]):
        return None
    # one draw of conditions for all three, so that what they share cancels
    chosen = np.random.default_rng(seed).integers(0, n, (draws, n))
    means = values[:, chosen].mean(axis=2)
    gaps = means[1] - means[2]
    usable = np.abs(gaps) > 1e-12
    drawn = (means[1] - means[0])[usable] / gaps[usable]
    low, high = np.percentile(drawn, [2.5, 97.5]) if usable.any() else (np.nan, np.nan)
    value = (whole[1] - whole[0]) / (whole[1] - whole[2])
    return Skill(*names, float(value), float(low), float(high), n)
