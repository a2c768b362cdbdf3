"""Cells of a context as raw counts, and the metrics of a profile on them.

Predictions on the log1p scale become counts by the step of the Submit page (expm1, a library size drawn from the measured control cells,
rounding by seed). Baselines are measured control cells with an effect added on the log1p scale; their cells already vary as counts
do, so they are rounded up or down at random, keeping the mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import numpy as np
import scipy.sparse as sp

from state_engine.challenge.counts import CountsOptions, Rounding, ToCounts
from state_engine.errors import ScaleError
from state_engine.evaluation.baselines import EvaluatedBaseline, baseline_cells
from state_engine.evaluation.files import ComparedFiles, Side
from state_engine.evaluation.request import EvaluationRequest
from state_engine.metrics import engine
from state_engine.metrics.profile import Profile

Cells = Iterator[tuple[str, int, ad.AnnData]]


def counts_of_context(
    files: ComparedFiles, baselines: tuple[EvaluatedBaseline, ...], request: EvaluationRequest, context: str, remarks: list[str]
) -> tuple[ad.AnnData, Cells]:
    """The measured cells, and method, seed, cells of every method; measured control cells stand in for all controls.

    Raises:
        ScaleError: the measured cells are not counts, or predictions are log1p and no rounding was chosen.
    """
    if files.real.scale != "counts":
        raise ScaleError(
            f"{files.real.name} has log1p values.",
            f"The metrics of {request.profile} compare raw counts.",
            "Give the raw counts, or another profile.",
        )
    labels = files.of(context)
    control = _counts(files.real, files.real.rows(files.control, context))
    real = engine.stacked(
        {p: _counts(files.real, files.real.rows(p, context)) for p in labels}, control, files.control, files.genes
    )
    libraries = np.asarray(control.sum(axis=1), np.float64).ravel()
    libraries = libraries[libraries > 0]

    def cells() -> Cells:
        for method, sides in files.predicted.items():
            said = files.said[method]
            if not any((p, context) in said for p in labels):
                continue
            for seed, side in enumerate(sides, 1):
                own = control
                if request.control_source == "predicted":
                    own = _predicted(side, side.rows(files.control, context), libraries, request, remarks)
                parts = dict.fromkeys(labels, own)
                for p in labels:
                    if (p, context) in said:
                        parts[p] = _predicted(side, side.rows(p, context), libraries, request, remarks)
                yield method, seed, engine.stacked(parts, own, files.control, files.genes)
        for baseline in baselines:
            if any((p, context) in baseline.effects for p in labels):
                parts = {p: _of_baseline(files, baseline, p, context, libraries, request.seed + i) for i, p in enumerate(labels)}
                yield baseline.name, 0, engine.stacked(parts, control, files.control, files.genes)

    return real, cells()


def metrics_on_counts(profile: Profile, cells: ad.AnnData, real: ad.AnnData, control: str) -> Iterator[tuple[str, str, float]]:
    """Yield perturbation ("" for a metric of the whole context), metric, value."""
    found = engine.compute(profile, cells, real, control)
    for metric in profile.metrics:
        values = found.values.get(metric.name)
        if values:
            yield from ((perturbation, metric.name, value) for perturbation, value in values.items())
        elif metric.name in found.means:
            yield "", metric.name, found.means[metric.name]


def _counts(side: Side, rows: np.ndarray) -> sp.csr_matrix:
    return sp.vstack([sp.csr_matrix(v) for _, v in side.blocks(rows, counts=True)], format="csr")


def _predicted(
    side: Side, rows: np.ndarray, libraries: np.ndarray, request: EvaluationRequest, remarks: list[str]
) -> sp.csr_matrix:
    if side.scale == "counts":
        return _counts(side, rows)
    if request.to_counts is None:
        raise ScaleError(
            f"{side.name} has log1p values.",
            f"The metrics of {request.profile} compare raw counts, and how values are rounded to counts changes them.",
            "Choose a rounding (--to-counts poisson), or another profile.",
        )
    remarks.append(
        f"log1p predictions were turned into counts: library sizes of the measured control cells, rounding {request.to_counts}, "
        f"seed {request.seed}."
    )
    values = sp.vstack([sp.csr_matrix(np.maximum(v, 0)) for _, v in side.blocks(rows)], format="csr")
    return _rounded(values, libraries, request.to_counts, request.seed, int(rows[0]))


def _of_baseline(
    files: ComparedFiles, baseline: EvaluatedBaseline, perturbation: str, context: str, libraries: np.ndarray, seed: int
) -> sp.csr_matrix:
    n = len(files.real.rows(perturbation, context))
    effect = baseline.effects.get((perturbation, context), np.zeros(len(files.genes)))
    return _rounded(sp.csr_matrix(baseline_cells(files, effect, context, n, seed)), libraries, "stochastic", seed, 0)


def _rounded(values: sp.csr_matrix, libraries: np.ndarray, rounding: Rounding, seed: int, first: int) -> sp.csr_matrix:
    change = ToCounts(CountsOptions(rounding, seed), np.zeros(first + values.shape[0], np.int32), (libraries,), 0)
    return change.apply(values, first)
