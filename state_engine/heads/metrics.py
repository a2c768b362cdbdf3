"""How well labels or numbers are called, with bootstrap intervals.

The values are scikit-learn's. A bootstrap sample is a count of how often each cell was drawn (cells of a label are drawn among
themselves, so every sample has every label), and the metrics of a thousand of them are computed from sums of counts.

Notation: m test cells, k labels, b bootstrap samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from state_engine.heads.report import Bin, Score
from state_engine.heads.request import Task

Values = NDArray[np.float64]
Whole = NDArray[np.int64]
CLASSIFICATION = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")
REGRESSION = ("r2", "mae", "spearman")
BINS = 10
INTERVAL = (2.5, 97.5)
MOST_ORDERED = 20_000_000  # test cells times labels, up to which AUROC gets an interval: 24 bytes each


def scores(
    task: Task, truth: Whole | Values, called: Values, resamples: int, seed: int, scored: Callable[[], None] = lambda: None
) -> tuple[Score, ...]:
    """Return the metrics of a task with their intervals.

    Args:
        truth: (m,) places of labels; (m, k) 0 and 1; (m,) numbers.
        called: (m, k) probabilities, or (m,) numbers.
        resamples: b.
        seed: of the samples.
        scored: called after each of them.
    """
    names = REGRESSION if task == "regression" else CLASSIFICATION
    points = point_values(task, truth, called)
    measure = counted(task, truth, called)
    measured = []
    for counts in samples(_strata(task, truth), resamples, np.random.default_rng(seed)):
        measured.append(measure(counts))
        scored()
    drawn = np.array(measured)
    found = []
    for place, name in enumerate(names):
        column = drawn[:, place]
        usable = column[np.isfinite(column)]
        low, high = np.percentile(usable, INTERVAL).tolist() if len(usable) else (None, None)
        value = points[name]
        found.append(Score(name, value if np.isfinite(value) else None, low, high))
    return tuple(found)


def point_values(task: Task, truth: Whole | Values, called: Values) -> dict[str, float]:
    """Return the metrics by scikit-learn; NaN where one is not defined."""
    if task == "regression":
        rho = float("nan") if np.ptp(called) == 0 or np.ptp(truth) == 0 else float(stats.spearmanr(truth, called)[0])
        return {"r2": float(sk.r2_score(truth, called)), "mae": float(sk.mean_absolute_error(truth, called)), "spearman": rho}
    if task == "multi-label":
        return _of_several(np.asarray(truth, np.int64), called)
    best, labels = called.argmax(1), np.arange(called.shape[1])
    there = np.unique(truth)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a label that is never called has no precision: it counts as 0, which is said in the docs
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            truth, best, labels=there, average="macro", zero_division=0.0
        )
        balanced = sk.balanced_accuracy_score(truth, best)
    areas = [sk.roc_auc_score(truth == j, called[:, j]) for j in labels if 0 < (truth == j).sum() < len(truth)]
    return {
        "accuracy": float(sk.accuracy_score(truth, best)), "balanced_accuracy": float(balanced), "precision": float(precision),
        "recall": float(recall), "f1": float(f1), "auroc": float(np.mean(areas)) if areas else float("nan"),
    }  # fmt: skip


def _of_several(truth: Whole, called: Values) -> dict[str, float]:
    """Metrics of several labels for each cell: means over labels; accuracy is that of all labels of a cell at once."""
    best = (called >= 0.5).astype(np.int64)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, best, average="macro", zero_division=0.0)
    two_sided = [j for j in range(truth.shape[1]) if 0 < truth[:, j].sum() < len(truth)]
    areas = [sk.roc_auc_score(truth[:, j], called[:, j]) for j in two_sided]
    balanced = [sk.balanced_accuracy_score(truth[:, j], best[:, j]) for j in two_sided]
    return {
        "accuracy": float(sk.accuracy_score(truth, best)),
        "balanced_accuracy": float(np.mean(balanced)) if balanced else float("nan"),
        "precision": float(precision), "recall": float(recall), "f1": float(f1),
        "auroc": float(np.mean(areas)) if areas else float("nan"),
    }  # fmt: skip


def _strata(task: Task, truth: Whole | Values) -> Whole:
    if task == "classification":
        return np.asarray(truth, np.int64)
    if task == "multi-label":
        return np.asarray(np.unique(truth, axis=0, return_inverse=True)[1].ravel(), np.int64)
    return np.zeros(len(truth), np.int64)


def samples(strata: Whole, resamples: int, rng: np.random.Generator) -> Iterator[Values]:
    """Yield (m,) how often each cell was drawn, cells of a stratum among themselves."""
    groups = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    for _ in range(resamples):
        counts = np.zeros(len(strata))
        for cells in groups:
            counts[cells] = np.bincount(rng.integers(0, len(cells), len(cells)), minlength=len(cells))
        yield counts


def counted(task: Task, truth: Whole | Values, called: Values) -> Callable[[Values], list[float]]:
    """Return a function that gives the metrics, in the order of their names, when each cell counts as often as it is told."""
    if task == "regression":
        return _counted_numbers(truth.astype(float), called)
    if task == "multi-label":
        return _counted_several(np.asarray(truth, np.int64), called)
    k, best, true = called.shape[1], called.argmax(1), np.asarray(truth, np.int64)
    right = true == best
    few = areas_fit(called)
    areas = [Area(truth == j, called[:, j]) for j in range(k) if few and 0 < (truth == j).sum() < len(truth)]

    def measure(counts: Values) -> list[float]:
        # sums of the table of true by called labels, without the table: it grows with the square of the labels
        rows, columns = (np.bincount(of, weights=counts, minlength=k) for of in (true, best))
        there = rows > 0
        hit = np.bincount(true[right], weights=counts[right], minlength=k)[there]
        recall = hit / rows[there]
        precision = _ratio(hit, columns[there])
        f1 = _ratio(2 * hit, (rows + columns)[there])
        auroc = float(np.mean([area(counts) for area in areas])) if areas else float("nan")
        mean_recall = float(recall.mean())
        return [float(hit.sum() / rows.sum()), mean_recall, float(precision.mean()), mean_recall, float(f1.mean()), auroc]

    return measure


def areas_fit(called: Values) -> bool:
    """Return whether AUROC gets an interval: each label needs its own order of all test cells."""
    return called.size <= MOST_ORDERED


def _counted_several(truth: Whole, called: Values) -> Callable[[Values], list[float]]:
    best = called >= 0.5
    exact = (best == truth).all(1)
    two_sided = [j for j in range(truth.shape[1]) if 0 < truth[:, j].sum() < len(truth)]
    areas = [Area(truth[:, j] == 1, called[:, j]) for j in two_sided if areas_fit(called)]

    def measure(counts: Values) -> list[float]:
        true, said, both = counts @ truth, counts @ best, counts @ (truth * best)
        whole = counts.sum()
        precision, recall, f1 = _ratio(both, said), _ratio(both, true), _ratio(2 * both, true + said)
        neither = whole - true - said + both
        balanced = ((_ratio(both, true) + _ratio(neither, whole - true)) / 2)[two_sided]
        auroc = float(np.mean([area(counts) for area in areas])) if areas else float("nan")
        means = [float(x.mean()) for x in (precision, recall, f1)]
        return [float(counts @ exact / whole), float(balanced.mean()) if two_sided else float("nan"), *means, auroc]

    return measure


def _counted_numbers(truth: Values, called: Values) -> Callable[[Values], list[float]]:
    def measure(counts: Values) -> list[float]:
        rows = np.repeat(np.arange(len(counts)), counts.astype(int))
        values = point_values("regression", truth[rows], called[rows])
        return [values[name] for name in REGRESSION]

    return measure


def _ratio(part: Any, whole: Any) -> Values:
    """part / whole; 0 where there is nothing."""
    whole = np.asarray(whole, float)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


class Area:
    """The area under the ROC curve of one label, for any count of each cell; the cells are sorted once.

    Args:
        positive: (m,) whether a cell has the label.
        probability: (m,) of it.
    """

    def __init__(self, positive: NDArray[np.bool_], probability: Values) -> None:
        self.order = np.argsort(probability, kind="stable")
        values = probability[self.order]
        # cells of one probability are one step of the curve: a pair of them counts half
        self.starts = np.flatnonzero(np.r_[True, np.diff(values) != 0])
        self.positive = positive[self.order].astype(float)

    def __call__(self, counts: Values) -> float:
        """Return the share of pairs (with, without the label) that are in the right order."""
        sorted_counts = counts[self.order]
        above = np.add.reduceat(sorted_counts * self.positive, self.starts)
        below = np.add.reduceat(sorted_counts * (1 - self.positive), self.starts)
        pairs = above.sum() * below.sum()
        if not pairs:
            return float("nan")
        lower = np.cumsum(below) - below
        return float((above * (lower + below / 2)).sum() / pairs)


def reliability(confidence: Values, right: NDArray[np.bool_]) -> tuple[tuple[Bin, ...], float]:
    """Return the bins of probability that hold cells, and the mean gap between probability and share that is right (weighted)."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins, gap = [], 0.0
    for at in np.unique(place):
        cells = place == at
        mean, accuracy = float(confidence[cells].mean()), float(right[cells].mean())
        bins.append(Bin(at / BINS, (at + 1) / BINS, int(cells.sum()), mean, accuracy))
        gap += abs(mean - accuracy) * cells.sum() / len(place)
    return tuple(bins), float(gap)
