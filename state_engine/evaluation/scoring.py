"""Every method of an evaluation through the engine, context by context: on means, on cells in chunks, or on counts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anndata as ad
import numpy as np
import scipy.sparse as sp

from state_engine.effects.exposure import Exposure, TrainedOn
from state_engine.effects.means import Means
from state_engine.evaluation.baselines import EvaluatedBaseline, baseline_cells, baseline_means, baseline_spread
from state_engine.evaluation.compared import ComparedFiles, Condition, sparse_cells
from state_engine.evaluation.counts import counts_of_context, metrics_on_counts
from state_engine.evaluation.replicate_clouds import METRIC as ENERGY
from state_engine.evaluation.replicate_clouds import ReplicateClouds
from state_engine.evaluation.replicates import Replicates
from state_engine.evaluation.request import EvaluationRequest
from state_engine.files import scratch_folder
from state_engine.metrics import engine
from state_engine.metrics.called import called_values, rank_tests_of
from state_engine.metrics.child import run_cell_eval
from state_engine.metrics.own import MeanCells, Reference
from state_engine.metrics.population import Cloud, Components, Marginals, energy_distance, expressed_genes
from state_engine.metrics.profile import TARGET, Profile
from state_engine.metrics.rules import significant
from state_engine.progress import OnProgress, Progress

# values of one side that are in memory at once when cells are compared: 200 MB dense
CHUNK_VALUES = 5e7


@dataclass(frozen=True)
class Row:
    """One number. `perturbation` is "" for a metric of a whole context; `seed` counts a method's files from 1, 0 for baselines."""

    method: str
    seed: int
    perturbation: str
    context: str
    metric: str
    value: float


Spreads = Mapping[Condition, np.ndarray]
"""condition -> (g,) standard deviation among its cells."""
MEASURED: Final = "measured"
"""Method of numbers that are of the measured cells themselves."""


@dataclass(eq=False)
class Scored:
    """What is scored, and what the scoring adds: remarks, and another engine where one was used.

    `spreads` are by method, a file a seed; those of the measured cells under `MEASURED`. `energies` are the energy distances of
    replicate and average to the truth.
    """

    files: ComparedFiles
    request: EvaluationRequest
    profile: Profile
    real: Means
    predicted: dict[str, tuple[Means, ...]]
    baselines: tuple[EvaluatedBaseline, ...]
    remarks: list[str]
    engine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    chunk_values: float = CHUNK_VALUES
    replicates: Replicates | None = None
    exposures: dict[Condition, Exposure] = field(default_factory=dict)
    trained: dict[Condition, TrainedOn] = field(default_factory=dict)
    spreads: dict[str, tuple[Spreads, ...]] = field(default_factory=dict)
    energies: dict[Condition, tuple[float, float]] = field(default_factory=dict)

    def control(self, own: Means | None, context: str) -> np.ndarray:
        """(g,) mean of the control cells that effects of a method start from."""
        source = self.real if own is None or self.request.control_source == "real" else own
        return source.mean(self.files.control, context)

    def baseline_means(self, baseline: EvaluatedBaseline, context: str) -> dict[str, np.ndarray]:
        """Return the mean expression that a baseline predicts, by perturbation."""
        return baseline_means(self.files, self.real, baseline, context)

    def effect(self, method: str, perturbation: str, context: str) -> np.ndarray | None:
        """(g,) the effect a method predicts, mean over seeds; None where it says nothing."""
        if method in self.predicted:
            if (perturbation, context) not in self.files.said[method]:
                return None
            seeds = self.predicted[method]
            return np.mean([s.mean(perturbation, context) - self.control(s, context) for s in seeds], axis=0)
        baseline = next(b for b in self.baselines if b.name == method)
        mean = self.baseline_means(baseline, context).get(perturbation)
        return None if mean is None else mean - self.real.mean(self.files.control, context)


def _remark_targets(scored: Scored) -> None:
    files = scored.files
    if not {label for context in files.contexts for label in files.of(context)} & set(files.genes):
        scored.remarks.append(engine.NO_TARGETS)


def score_on_means(scored: Scored, on_progress: OnProgress) -> list[Row]:
    """The metrics of mean expression, of all methods."""
    _remark_targets(scored)
    files, profile, rows = scored.files, scored.profile, []
    source = scored.request.control_source
    for number, context in enumerate(files.contexts):
        on_progress(Progress("Scoring mean expression", number, len(files.contexts)))
        real = {p: scored.real.mean(p, context) for p in files.of(context)}
        real_control = scored.real.mean(files.control, context)
        references = _references(scored, context)
        measured_spread = _of_context(scored.spreads[MEASURED][0], context)
        for method, seeds in scored.predicted.items():
            for seed, own in enumerate(seeds, 1):
                means = {p: own.mean(p, context) for p in real if (p, context) in files.said[method]}
                if means:
                    spreads = _of_context(scored.spreads[method][seed - 1], context), measured_spread
                    cells = MeanCells(means, real, (scored.control(own, context), real_control), files.genes, references, spreads)
                    rows += _rows(method, seed, context, engine.compute_on_means(profile, cells, files.control, source))
        for baseline in scored.baselines:
            means = scored.baseline_means(baseline, context)
            if means:
                control_spread = measured_spread[files.control]
                moved = {p: baseline_spread(scored.real, control_spread, baseline, (p, context), files.control) for p in means}
                spreads = moved, measured_spread
                cells = MeanCells(means, real, (real_control, real_control), files.genes, references, spreads)
                rows += _rows(baseline.name, 0, context, engine.compute_on_means(profile, cells, files.control, source))
    return rows


def _of_context(spreads: Spreads, context: str) -> dict[str, np.ndarray]:
    return {p: spread for (p, c), spread in spreads.items() if c == context}


def _references(scored: Scored, context: str) -> dict[str, Reference]:
    """What the conditions of a context are held against beside their control, for the metrics that need it."""
    if scored.replicates is None or not any(m.by == "here" for m in scored.profile.metrics):
        return {}
    found = {p: scored.replicates.reference((p, context)) for p in scored.files.of(context)}
    return {p: reference for p, reference in found.items() if reference is not None}


def _rows(method: str, seed: int, context: str, values: engine.Values) -> list[Row]:
    return [Row(method, seed, p, context, metric, v) for metric, by in values.items() for p, v in by.items()]


# ---- cells ----


def score_on_cells(scored: Scored, on_progress: OnProgress) -> list[Row]:
    """The metrics of differential expression, a few perturbations at a time."""
    if scored.request.cell_eval:
        return _by_cell_eval(scored, on_progress)
    if scored.profile.cell_eval:
        scored.remarks.append("cell-eval itself was not run: no environment with it was named (--cell-eval PYTHON).")
    files, rows = scored.files, []
    chunks = [(c, part) for c in files.contexts for part in _chunks(scored, c)]
    total = len(chunks) * (sum(map(len, scored.predicted.values())) + sum(bool(b.effects) for b in scored.baselines))
    done = 0
    components: dict[str, Components] = {}
    _remark_targets(scored)
    for context, labels in chunks:
        control = sparse_cells(files.real, files.real.rows(files.control, context))
        real = engine.stacked(
            {p: sparse_cells(files.real, files.real.rows(p, context)) for p in labels}, control, files.control, files.genes
        )
        if context not in components:
            components = {context: _components(scored, context)}
            _measure_halves(scored, context, components[context], on_progress)
        with _cell_metrics(scored, real, components[context]) as (metrics, measured):
            rows += _rows(MEASURED, 0, context, measured)
            for method, seed, cells in _methods_cells(scored, context, labels, control):
                on_progress(Progress("Testing genes", done, total))
                values = metrics(cells)
                own = {
                    metric: {p: v for p, v in by.items() if _says(scored, method, p, context)} for metric, by in values.items()
                }
                rows += _rows(method, seed, context, own)
                done += 1
    return rows


def _measure_halves(scored: Scored, context: str, components: Components, on_progress: OnProgress) -> None:
    """Note the energy distances of replicate and average of each condition of a context, where that is a metric of the profile."""
    if scored.replicates is None or not any(metric.name == ENERGY for metric in scored.profile.metrics):
        return
    clouds = ReplicateClouds.of(scored.files, scored.replicates.halves, context, components)
    labels = scored.files.of(context)
    for number, p in enumerate(labels):
        on_progress(Progress("Comparing halves of measured cells", number, len(labels)))
        energies = clouds.energies(p)
        if energies is not None:
            scored.energies[p, context] = energies


def _components(scored: Scored, context: str) -> Components:
    """Principal components of the measured cells of a context, controls among them; of a part of them where they are very many."""
    side = scored.files.real
    rows = np.concatenate([side.rows(p, context) for p in sorted({*side.dataset.perturbations, scored.files.control})])
    most = max(2, int(CHUNK_VALUES // max(1, len(scored.files.genes))))
    if len(rows) > most:
        rows = np.random.default_rng(0).choice(rows, most, replace=False)
    return Components.of(np.concatenate([values for _, values in side.blocks(np.sort(rows))]).astype(np.float32, copy=False))


@contextlib.contextmanager
def _cell_metrics(
    scored: Scored, real: ad.AnnData, components: Components
) -> Iterator[tuple[Callable[[ad.AnnData], engine.Values], engine.Values]]:
    """Give the function that computes the metrics of a prediction's cells, and numbers of the measured cells, which are tested once."""
    profile, control = scored.profile, scored.files.control
    if all(metric.by == "here" for metric in profile.metrics if metric.on == "cells"):
        tests, clouds, single_genes = (
            rank_tests_of(real, control),
            _clouds(components, real, control),
            _SingleGenes.of(real, control),
        )

        def own_metrics(cells: ad.AnnData) -> engine.Values:
            own = _clouds(components, cells, control)
            energy = {p: energy_distance(own[p], clouds[p]) for p in own}
            single = single_genes.values(_by_label(cells, control))
            return {**called_values(rank_tests_of(cells, control), tests), "energy_pca50": energy, **single}

        called = significant(tests.fdr).sum(axis=1)
        genes = dict(zip(tests.groups, called.astype(float).tolist(), strict=True))
        yield own_metrics, {"de_genes": genes, **single_genes.halves(_by_label(real, control))}
        return
    with scratch_folder() as kept:
        settings = engine.Settings(scored.request.control_source, metrics=profile.on_cells, tests=str(kept))
        yield (lambda cells: engine.compute(profile, cells, real, control, settings).values), {}


def _clouds(components: Components, cells: ad.AnnData, control: str) -> dict[str, Cloud]:
    return {p: components.cloud(own) for p, own in _by_label(cells, control).items()}


def _by_label(cells: ad.AnnData, control: str) -> dict[str, sp.csr_matrix]:
    """Return the cells of each perturbation."""
    labels = cells.obs[TARGET].to_numpy(str)
    return {p: cells.X[labels == p] for p in dict.fromkeys(labels.tolist()) if p != control}


@dataclass(frozen=True, eq=False)
class _SingleGenes:
    """Measured cells gene by gene.

    Args:
        measured: perturbation -> the genes that are compared (indices), and what they are.
    """

    measured: Mapping[str, tuple[np.ndarray, Marginals]]

    @classmethod
    def of(cls, real: ad.AnnData, control: str) -> _SingleGenes:
        controls, found = real.X[real.obs[TARGET].to_numpy(str) == control], {}
        for p, cells in _by_label(real, control).items():
            genes = expressed_genes(cells, controls)
            found[p] = genes, Marginals.of(cells, genes)
        return cls(found)

    def values(self, cells: Mapping[str, sp.csr_matrix]) -> engine.Values:
        """Return the two metrics of predicted cells against the measured ones."""
        pairs = {p: (Marginals.of(own, self.measured[p][0]), self.measured[p][1]) for p, own in cells.items()}
        return _gene_by_gene(pairs)

    def halves(self, real: Mapping[str, sp.csr_matrix]) -> engine.Values:
        """Return the same of one half of the measured cells against the other: what chance alone makes of so few."""
        pairs = {}
        for p, cells in real.items():
            if cells.shape[0] > 1:
                one, other = np.array_split(np.random.default_rng(0).permutation(cells.shape[0]), 2)
                genes = self.measured[p][0]
                pairs[p] = Marginals.of(cells[one], genes), Marginals.of(cells[other], genes)
        return _gene_by_gene(pairs)


def _gene_by_gene(pairs: Mapping[str, tuple[Marginals, Marginals]]) -> engine.Values:
    known = {p: pair for p, pair in pairs.items() if len(pair[0].share)}
    return {
        "wasserstein": {p: own.distance(real) for p, (own, real) in known.items()},
        "expressing_off": {p: own.share_off(real) for p, (own, real) in known.items()},
    }


def _says(scored: Scored, method: str, perturbation: str, context: str) -> bool:
    said = scored.files.said.get(method)
    if said is not None:
        return (perturbation, context) in said
    return (perturbation, context) in next(b for b in scored.baselines if b.name == method).effects


def _chunks(scored: Scored, context: str) -> list[tuple[str, ...]]:
    """Perturbations of a context in groups whose cells fit into memory together, by the side with more of them."""
    width = len(scored.files.genes)
    groups: list[list[str]] = [[]]
    size = 0.0
    for p in scored.files.of(context):
        sides = [scored.real, *(seed for seeds in scored.predicted.values() for seed in seeds)]
        cells = max(side.n(p, context) for side in sides) * width
        if groups[-1] and size + cells > scored.chunk_values:
            groups.append([])
            size = 0.0
        groups[-1].append(p)
        size += cells
    return [tuple(g) for g in groups]


def _methods_cells(
    scored: Scored, context: str, labels: tuple[str, ...], control: sp.csr_matrix
) -> Iterator[tuple[str, int, ad.AnnData]]:
    """method, seed, cells, for predictions and for the baselines that say something here."""
    files = scored.files
    for method, sides in files.predicted.items():
        if not any(_says(scored, method, p, context) for p in labels):
            continue
        for seed, side in enumerate(sides, 1):
            own = control if scored.request.control_source == "real" else sparse_cells(side, side.rows(files.control, context))
            # the engine wants every perturbation on both sides: control cells stand in, and their numbers are dropped
            parts = {p: sparse_cells(side, side.rows(p, context)) if _says(scored, method, p, context) else own for p in labels}
            yield method, seed, engine.stacked(parts, own, files.control, files.genes)
    for baseline in scored.baselines:
        if any((p, context) in baseline.effects for p in labels):
            yield baseline.name, 0, _baseline_cells(scored, baseline, context, labels, control)


def _baseline_cells(
    scored: Scored, baseline: EvaluatedBaseline, context: str, labels: tuple[str, ...], control: sp.csr_matrix
) -> ad.AnnData:
    files, parts = scored.files, {}
    for number, p in enumerate(labels):
        effect = baseline.effects.get((p, context))
        seed = scored.request.seed + number
        n = scored.real.n(p, context)
        cells, _ = baseline_cells(files, np.zeros(len(files.genes)) if effect is None else effect, context, n, seed)
        parts[p] = sp.csr_matrix(cells)
    return engine.stacked(parts, control, files.control, files.genes)


def _by_cell_eval(scored: Scored, on_progress: OnProgress) -> list[Row]:
    """All metrics by cell-eval, in a process of its own."""
    files, rows = scored.files, []
    names = {m.name for m in scored.profile.metrics}
    for number, context in enumerate(files.contexts):
        on_progress(Progress("cell-eval is scoring", number, len(files.contexts)))
        labels = files.of(context)
        control = sparse_cells(files.real, files.real.rows(files.control, context))
        real = engine.stacked(
            {p: sparse_cells(files.real, files.real.rows(p, context)) for p in labels}, control, files.control, files.genes
        )
        made = list(_methods_cells(scored, context, labels, control))
        sides = {f"side {i}": cells for i, (_, _, cells) in enumerate(made)}
        values, versions = run_cell_eval(Path(scored.request.cell_eval), scored.profile.cell_eval, sides, real, files.control)
        for i, (method, seed, _) in enumerate(made):
            own: Mapping[str, dict[str, float]] = values[f"side {i}"]
            kept = {
                m: {p: v for p, v in by.items() if np.isfinite(v) and _says(scored, method, p, context)}
                for m, by in own.items()
                if m in names
            }
            rows += _rows(method, seed, context, kept)
        scored.remarks.append(
            "Baselines were scored on control cells drawn in the number of the measured cells, as cell-eval needs cells."
        )
        scored.engine, scored.versions = f"cell-eval {versions['cell-eval']}, in a process of its own", versions
    return rows


# ---- counts ----


def score_on_counts(scored: Scored, on_progress: OnProgress) -> list[Row]:
    """Return the metrics of a profile that compares counts, context by context."""
    rows, files = [], scored.files
    _remark_targets(scored)
    for number, context in enumerate(files.contexts):
        on_progress(Progress("Scoring counts", number, len(files.contexts)))
        real, methods = counts_of_context(files, scored.baselines, scored.request, context, scored.remarks)
        for method, seed, cells in methods:
            on_progress(Progress("Scoring counts", number, len(files.contexts)))
            for perturbation, metric, value in metrics_on_counts(scored.profile, cells, real, files.control):
                if all(_says(scored, method, p, context) for p in ([perturbation] if perturbation else files.of(context))):
                    rows.append(Row(method, seed, perturbation, context, metric, value))
    return rows
