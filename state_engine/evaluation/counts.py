"""Cells of a context as raw counts, and the metrics of a profile on them.

Predictions on the log1p scale become counts by the step of the Submit page, by their kind (see `state_engine.challenge.counts`): control cells plus
an effect keep the counts and depth of their control cell where the measured file has it, and are rounded at random where it has not; raw
predictions are drawn, at library sizes of the measured control cells. Baselines are measured control cells plus an effect.
"""

from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import numpy as np
import scipy.sparse as sp

from state_engine.challenge.counts import (
    STEPS,
    CountsOptions,
    Rounding,
    ToCounts,
    cell_generator,
    moved_counts,
    step_of,
)
from state_engine.challenge.source import basal_of
from state_engine.data.embedding_record import prediction_kind
from state_engine.data.files.hdf5 import open_h5
from state_engine.errors import ScaleError
from state_engine.evaluation.baselines import EvaluatedBaseline, baseline_cells
from state_engine.evaluation.compared import ComparedFiles, Side
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
                    own = _predicted(files, side, side.rows(files.control, context), libraries, request, remarks)
                parts = dict.fromkeys(labels, own)
                for p in labels:
                    if (p, context) in said:
                        parts[p] = _predicted(files, side, side.rows(p, context), libraries, request, remarks)
                yield method, seed, engine.stacked(parts, own, files.control, files.genes)
        for baseline in baselines:
            if any((p, context) in baseline.effects for p in labels):
                parts = {p: _of_baseline(files, baseline, p, context, request.seed + i) for i, p in enumerate(labels)}
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
    files: ComparedFiles, side: Side, rows: np.ndarray, libraries: np.ndarray, request: EvaluationRequest, remarks: list[str]
) -> sp.csr_matrix:
    if side.scale == "counts":
        return _counts(side, rows)
    if request.to_counts is None:
        raise ScaleError(
            f"{side.name} has log1p values.",
            f"The metrics of {request.profile} compare raw counts, and how values are rounded to counts changes them.",
            "Choose a rounding (--to-counts auto), or another profile.",
        )
    with open_h5(side.dataset.path) as file:
        kind = prediction_kind(file, side.source.representation)
    donors = _donors(files, side, rows) if request.to_counts == "auto" else None
    step = step_of(request.to_counts, kind, donors is not None)
    words = "" if step == "donor" else "library sizes of the measured control cells, "
    remarks.append(
        f"log1p predictions of {side.name} ({kind}) were turned into counts: {words}rounding {step}, seed {request.seed}: {STEPS[step]}."
    )
    if step == "donor":
        assert donors is not None
        return _on_donors(files, side.blocks(rows), donors, request.seed, int(rows[0]))
    values = sp.vstack([sp.csr_matrix(np.maximum(v, 0)) for _, v in side.blocks(rows)], format="csr")
    return _rounded(values, libraries, step, request.seed, int(rows[0]))


def _donors(files: ComparedFiles, side: Side, rows: np.ndarray) -> np.ndarray | None:
    """Return the measured cell (row) that each predicted cell starts from; None where the measured file does not have them all."""
    basal = basal_of(side.dataset.path)
    if basal is None or not side.dataset.scale.depth:
        return None
    names = files.real.dataset.obs_names
    place = {str(name): i for i, name in enumerate(names)}
    if len(place) < len(names):
        return None
    found = [place.get(basal.names.names[code], -1) if code >= 0 else -1 for code in basal.names.codes[rows]]
    return None if -1 in found else np.array(found, np.int64)


def _on_donors(
    files: ComparedFiles, blocks: Iterator[tuple[np.ndarray, np.ndarray]], donors: np.ndarray, seed: int, first: int
) -> sp.csr_matrix:
    """Return counts of cells that are control cells plus an effect.

    Args:
        blocks: rows and log1p expression (b, g) of the cells, at the depth of the comparison.
        donors: (m,) the row of the measured file that each starts from.
        seed, first: of the draws, and the place of the first cell.
    """
    parts, done = [], 0
    for _, values in blocks:
        mine = donors[done : done + len(values)]
        unique, back = np.unique(mine, return_inverse=True)
        own = _counts(files.real, unique)
        measured = np.concatenate([v for _, v in files.real.blocks(unique)])
        # counts of a cell by the natural values they were normalised to: its own depth over that of the comparison
        depth = np.asarray(own.sum(axis=1), np.float64).ravel() / np.maximum(
            np.expm1(measured, dtype=np.float64).sum(axis=1), 1e-9
        )
        for row, place in enumerate(back):
            rates = np.expm1(np.maximum(values[row], 0), dtype=np.float64) * depth[place]
            rng = cell_generator(seed, first + done + row)
            counts = moved_counts(own[[place]].toarray()[0].astype(np.float64), rates, rng)
            parts.append(sp.csr_matrix(counts[None].astype(np.float32)))
        done += len(values)
    return sp.vstack(parts, format="csr")


def _of_baseline(files: ComparedFiles, baseline: EvaluatedBaseline, perturbation: str, context: str, seed: int) -> sp.csr_matrix:
    n = len(files.real.rows(perturbation, context))
    effect = baseline.effects.get((perturbation, context), np.zeros(len(files.genes)))
    values, rows = baseline_cells(files, effect, context, n, seed)
    return _on_donors(files, iter([(rows, values)]), rows, seed, 0)


def _rounded(values: sp.csr_matrix, libraries: np.ndarray, rounding: Rounding, seed: int, first: int) -> sp.csr_matrix:
    change = ToCounts(CountsOptions(rounding, seed), np.zeros(first + values.shape[0], np.int32), (libraries,), 0)
    return change.apply(values, first)
