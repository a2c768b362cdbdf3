"""Metrics of predicted cells beside measured cells: every call of cell-eval2, on the CPU, its p-values by `scorer_tests`.

Known traps, and what is done: cell-eval2 might change the matrices that it is given (they cannot be written); it wants the same perturbations
on both sides, so those that a method says nothing about are filled with the control and their numbers dropped (a perturbation's
numbers do not depend on the other predictions); it charges the worst value for a correlation that does not exist, which is none here;
a failing metric vanishes from its table, so each is asked for by name.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.device import start_compiled_threads
from state_engine.errors import ChallengeError
from state_engine.metrics.own import MeanCells, own_values
from state_engine.metrics.profile import TARGET, ControlSource, Fdr, Profile
from state_engine.metrics.scorer_tests import own_rank_tests

if TYPE_CHECKING:
    import polars
    from cell_eval2 import EvalConfig

DEVICE: Literal["cpu"] = "cpu"
# correlations of effects, by either definitions: they do not exist for an effect that is the same for every gene
CORRELATIONS: Final = ("delta_pearson", "pearson_delta")
NO_TARGETS: Final = "No perturbation is named like a compared gene, so no perturbed gene is left out of the comparison."

Values = dict[str, dict[str, float]]
"""metric -> perturbation -> value; what does not exist is left out."""


@dataclass(frozen=True)
class Settings:
    """What a user may choose beside the profile.

    Args:
        controls: whose control cells effects start from; None: the profile's rule.
        fdr: over which tests p-values are adjusted, where the profile leaves the choice.
        metrics: only these of the profile's; empty for all, and for what it keeps beside them.
        tests: folder that keeps the tests of the measured cells, the same for every prediction beside them; "" for none.
        validate: whether the engine checks that the values are what the profile says.
    """

    controls: ControlSource | None = None
    fdr: Fdr = "per perturbation"
    metrics: tuple[str, ...] = ()
    tests: str = ""
    validate: bool = True


@dataclass(frozen=True)
class Computed:
    """Metrics of one prediction.

    Args:
        values: by metric and perturbation.
        means: by metric; also of metrics that exist only for all perturbations together.
    """

    values: Values
    means: dict[str, float]


def compute(
    profile: Profile, predicted: ad.AnnData, measured: ad.AnnData, control: str, settings: Settings | None = None
) -> Computed:
    """Return the metrics of a profile. Neither side is changed.

    Args:
        predicted, measured: cells with the label in obs `TARGET`, the same genes and perturbations.
        control: label of the control cells.

    Raises:
        ChallengeError: the engine refuses the cells; its reason is quoted.
    """
    from cell_eval2 import aggregate_metrics, compute_metrics

    settings = settings or Settings()
    config = _config(profile, measured, control, settings)
    with _quiet(), _refusals("These cells cannot be scored."):
        table = compute_metrics(_locked(predicted), _locked(measured), config=config)
        means = _means(aggregate_metrics(table), "mean")
    values: Values = {}
    for perturbation, metric, value in table.select("perturbation", "metric", "value").iter_rows():
        if value is not None and np.isfinite(value):
            values.setdefault(metric, {})[perturbation] = float(value)
    return Computed(values, means)


def compute_on_means(profile: Profile, cells: MeanCells, control: str, source: ControlSource) -> Values:
    """Return the metrics that need mean expression only, by perturbation.

    Args:
        cells: predicted and measured mean cells of a context; perturbations that are not predicted have no values.
        control: label of the control cells.
        source: whose control cells effects start from.
    """
    pairs = ((cells.predicted, cells.controls[0]), (cells.measured, cells.controls[1]))
    sides = [_rows(means, cells.measured, mean, control, cells.genes) for means, mean in pairs]
    on_means = [metric for metric in profile.metrics if metric.on == "means"]
    names = tuple(metric.name for metric in on_means if metric.by == "cell-eval2")
    found = compute(profile, sides[0], sides[1], control, Settings(source, metrics=names, validate=False)).values
    base = cells.controls[0] if source == "predicted" else cells.controls[1]
    flat = {
        p for p, mean in cells.predicted.items() if np.ptp(mean - base) == 0 or np.ptp(cells.measured[p] - cells.controls[1]) == 0
    }
    values: Values = {}
    for metric in on_means:
        if metric.needs_two and len(cells.measured) < 2:
            continue
        if metric.by == "here":
            values[metric.name] = own_values(metric.name, cells, base)
        elif metric.name in found:
            exists = cells.predicted.keys() - flat if metric.name in CORRELATIONS else cells.predicted.keys()
            values[metric.name] = {p: v for p, v in found[metric.name].items() if p in exists}
    return values


def _rows(
    means: Mapping[str, np.ndarray],
    measured: Mapping[str, np.ndarray],
    mean: np.ndarray,
    control: str,
    genes: tuple[str, ...],
) -> ad.AnnData:
    """A row for each measured perturbation and one for the control; what has no mean stands at the control."""
    rows = [means.get(p, mean) for p in measured]
    return _cells(np.vstack([*rows, mean]).astype(np.float32), [*measured, control], genes)


# ---- anchors ----


def mean_response(profile: Profile, measured: ad.AnnData, control: str) -> dict[str, float]:
    """Return the metrics of cell-eval2's baseline: every perturbation has the mean response of all.

    Raises:
        ChallengeError: there is no such baseline for these cells.
    """
    from cell_eval2 import aggregate_metrics, build_generic_baseline

    with _quiet(), _refusals("The baseline cannot be scored."):
        made = build_generic_baseline(measured, config=_config(profile, measured, control, Settings()))
        return _means(aggregate_metrics(made.results), "mean")


def replicate(profile: Profile, measured: ad.AnnData, control: str) -> dict[str, float]:
    """Return the metrics of one half of the measured cells against the other.

    Raises:
        ChallengeError: there are too few cells to halve.
    """
    from cell_eval2.anchor import compute_replicate_anchor

    with _quiet(), _refusals("There is no replicate to compare with."):
        _, anchor = compute_replicate_anchor(measured, config=_config(profile, measured, control, Settings()))
        return _means(anchor, "replicate")


def score_between(metric: str, value: float, baseline: float, anchor: float) -> float | None:
    """Return the score between baseline (0) and anchor (1), with the limits that the engine sets for this metric.

    None when the anchor is no better than the baseline.
    """
    from cell_eval2.catalog import CATALOG
    from cell_eval2.scoring import is_degenerate, score_one

    try:
        policy = replace(CATALOG[metric].scoring, anchor=anchor, allow_negative_baseline=False)
        usable = not is_degenerate(baseline, policy)
    except ValueError:
        return None
    return float(score_one(value, baseline, policy)) if usable else None


# ---- cells ----


def stacked(
    parts: Mapping[str, np.ndarray | sp.csr_matrix], control: np.ndarray | sp.csr_matrix, label: str, genes: tuple[str, ...]
) -> ad.AnnData:
    """Return cells of perturbations and of the control as AnnData, CSR float32."""
    blocks = [sp.csr_matrix(x) for x in (*parts.values(), control)]
    labels = np.repeat([*parts, label], [x.shape[0] for x in blocks])
    return _cells(sp.vstack(blocks, format="csr").astype(np.float32), labels, genes)


def _cells(x: np.ndarray | sp.csr_matrix, labels: np.ndarray | list[str], genes: tuple[str, ...]) -> ad.AnnData:
    obs = pd.DataFrame({TARGET: pd.Categorical(labels)}, index=[f"cell {i}" for i in range(x.shape[0])])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=object)))


def _locked(cells: ad.AnnData) -> ad.AnnData:
    """Return the same cells in arrays that cannot be written. No copy is made, so an engine that changed what it is given would be refused."""
    x = cells.X
    if sp.issparse(x):
        x = sp.csr_matrix(x)
        x.sort_indices()  # in place, once, by us: the order of stored values is nobody's
        x = sp.csr_matrix((x.data.view(), x.indices.view(), x.indptr.view()), shape=x.shape)
        for part in (x.data, x.indices, x.indptr):
            part.flags.writeable = False
        x.has_sorted_indices = True
    else:
        x = np.asarray(x).view()
        x.flags.writeable = False
    return ad.AnnData(x, obs=cells.obs.copy(), var=cells.var.copy())


def has_targets(measured: ad.AnnData, control: str) -> bool:
    """Whether a perturbation is named like a gene, which is then left out where a metric compares effects."""
    return bool((set(measured.obs[TARGET]) - {control}) & set(measured.var_names))


# ---- cell-eval2 ----


def _config(profile: Profile, measured: ad.AnnData, control: str, settings: Settings) -> EvalConfig:
    """The engine's settings: the profile's definitions, under our labels, on the CPU, with pdex."""
    import numba
    from cell_eval2 import EvalConfig

    start_compiled_threads()
    versions = {"v1": EvalConfig.v1, "v2": EvalConfig.v2}
    known = profile.definitions in versions
    config = versions[profile.definitions]() if known else EvalConfig.from_preset(profile.definitions)
    config = replace(
        config,
        metrics=list(settings.metrics or [*(m.name for m in profile.metrics if m.by == "cell-eval2"), *profile.also]),
        pert_col=TARGET,
        control=control,
        device=DEVICE,
        num_threads=numba.get_num_threads(),  # by itself it asks for all cores, which numba refuses where fewer are allowed
        input_type="counts" if profile.values == "counts" else "lognorm",
        control_source="pred" if (settings.controls or profile.controls[0]) == "predicted" else "real",
        validate_input=settings.validate,
        de=replace(config.de, backend="pdex", fdr_scope="global" if settings.fdr == "pooled" else "per_pert"),
    )
    if settings.tests:
        config = replace(config, cache_real=settings.tests, cache_strict=True)
    # drugs and cytokines are no genes: the engine is told that no perturbed gene is to be left out
    return config if has_targets(measured, control) else replace(config, target_gene_map={"*": None})


def _means(table: polars.DataFrame, column: str) -> dict[str, float]:
    """Finite numbers of a table (a polars frame) by metric."""
    rows = table.select("metric", column).iter_rows()
    return {metric: float(value) for metric, value in rows if value is not None and np.isfinite(value)}


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Raise a refusal of the engine as a `ChallengeError` that quotes its first sentence."""
    try:
        yield
    except ValueError as error:
        why = str(error).split(". ")[0].rstrip(".")[:400]
        raise ChallengeError(what, f"cell-eval2 says: {why}.", "Check the files.") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the engines' warnings, which are about what is decided and reported here."""
    log = logging.getLogger("cell_eval2")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), own_rank_tests():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
