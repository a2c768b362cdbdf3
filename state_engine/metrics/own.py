"""Metrics of mean cells that are computed here: weighted ones, those beside the mean of the other perturbations, cosine and slope.

Boundary: numpy. A value that does not exist is left out, never zero.

Notation: g genes; x a measured mean cell, y a predicted one, o the mean of the other perturbations (Systema's reference).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from state_engine.metrics.retrieval import Distance, best_amplitude, retrieval
from state_engine.metrics.weighted import weighted_mse, weighted_pearson, weighted_r2


@dataclass(frozen=True, eq=False)
class Reference:
    """What a measured condition is held against beside its control.

    Args:
        average: (g,) mean cell of the other perturbations, or the control moved as the perturbation moves other contexts.
        weights: (g,) of genes, that sum to 1.
    """

    average: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class MeanCells:
    """Predicted and measured mean cells of one context.

    Args:
        predicted, measured: perturbation -> (g,); perturbations may be missing from `predicted`.
        controls: mean of the prediction's control cells, and of the measured ones.
        genes: names of the g genes.
        references: perturbation -> what it is held against; missing where there is nothing.
        spreads: perturbation -> (g,) standard deviation of the cells, predicted and measured; missing where it is not known.
    """

    predicted: Mapping[str, np.ndarray]
    measured: Mapping[str, np.ndarray]
    controls: tuple[np.ndarray, np.ndarray]
    genes: tuple[str, ...]
    references: Mapping[str, Reference] = field(default_factory=dict)
    spreads: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] = ({}, {})


@dataclass(frozen=True, eq=False)
class Pair:
    """A predicted and a measured mean cell (g,), each with its effect against its own control (g,)."""

    y: np.ndarray
    x: np.ndarray
    predicted_effect: np.ndarray
    measured_effect: np.ndarray
    reference: Reference | None = None


def own_values(metric: str, cells: MeanCells, base: np.ndarray) -> dict[str, float]:
    """Return a metric of this module, by perturbation; one of a whole context stands under "".

    Args:
        metric: its name.
        cells: of a context.
        base: (g,) control cell that predicted effects start from.
    """
    control = cells.controls[1]
    if metric in _RETRIEVALS:
        distance, mean_cells = _RETRIEVALS[metric]
        start = (0, 0) if mean_cells else (base, control)
        predicted = {p: y - start[0] for p, y in cells.predicted.items()}
        measured = {p: x - start[1] for p, x in cells.measured.items()}
        return retrieval(predicted, measured, cells.genes, distance)
    if metric in _AMPLITUDE:
        best = _amplitude(cells, base)
        return {} if best is None else {"": best[_AMPLITUDE.index(metric)]}
    if metric == "spread":
        own, real = cells.spreads
        return {
            p: ratio for p in cells.predicted if p in own and p in real and np.isfinite(ratio := spread_ratio(own[p], real[p]))
        }
    found = {}
    for p, y in cells.predicted.items():
        x = cells.measured[p]
        value = own_value(metric, Pair(y, x, y - base, x - control, cells.references.get(p)))
        if np.isfinite(value):
            found[p] = value
    return found


# by which distance, and whether mean cells are compared or effects
_RETRIEVALS: dict[str, tuple[Distance, bool]] = {"pds_cosine_midrank": ("cosine", False), "centroid_accuracy": ("l2", True)}


_AMPLITUDE = ("best_amplitude", "amplitude_gain")
MOST_QUERIES = 100  # perturbations, evenly taken, that the best amplitude is looked for on


def _amplitude(cells: MeanCells, base: np.ndarray) -> tuple[float, float] | None:
    """Return the factor on all effects with the best PDS by L1, and what PDS gains by it; None where there is no PDS."""
    few = list(cells.predicted)[:: len(cells.predicted) // MOST_QUERIES + 1]
    predicted = {p: cells.predicted[p] - base for p in few}
    measured = {p: x - cells.controls[1] for p, x in cells.measured.items()}
    best = best_amplitude(predicted, measured, cells.genes)
    if best is None:
        return None
    own = retrieval(predicted, measured, cells.genes, "l1")
    return best[0], best[1] - float(np.mean(list(own.values())))


def spread_ratio(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return the median over genes of predicted over measured standard deviation, both (g,); NaN when no measured gene varies."""
    varies = measured > 0
    return float(np.median(predicted[varies] / measured[varies])) if varies.any() else float("nan")


def own_value(metric: str, pair: Pair) -> float:
    """Return one metric of one condition; NaN where it does not exist.

    Raises:
        KeyError: no such metric here.
    """
    even = np.full(len(pair.x), 1 / len(pair.x))
    if metric == "expr_mae":
        return float(np.abs(pair.y - pair.x).mean())
    if metric == "expr_mse":
        return weighted_mse(pair.y, pair.x, even)
    if metric == "delta_pearson":
        return weighted_pearson(pair.predicted_effect, pair.measured_effect, even)
    if metric == "delta_cosine":
        return cosine(pair.predicted_effect, pair.measured_effect)
    if metric == "slope":
        size = float(pair.predicted_effect @ pair.predicted_effect)
        return float(pair.predicted_effect @ pair.measured_effect) / size if size > 0 else float("nan")
    if metric not in _WITH_REFERENCE:
        raise KeyError(metric)
    return _beside(metric, pair, pair.reference) if pair.reference is not None else float("nan")


_WITH_REFERENCE = ("weighted_mse", "weighted_r2", "weighted_pearson", "pearson_mean")


def _beside(metric: str, pair: Pair, reference: Reference) -> float:
    """Return a metric that needs the mean of the other perturbations, or weights."""
    if metric == "weighted_mse":
        return weighted_mse(pair.y, pair.x, reference.weights)
    if metric == "weighted_r2":
        return weighted_r2(pair.y, pair.x, reference.average, reference.weights)
    if metric == "weighted_pearson":
        return weighted_pearson(pair.predicted_effect, pair.measured_effect, reference.weights)
    even = np.full(len(pair.x), 1 / len(pair.x))
    return weighted_pearson(pair.y - reference.average, pair.x - reference.average, even)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two effects (g,); NaN when one is zero."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else float("nan")
