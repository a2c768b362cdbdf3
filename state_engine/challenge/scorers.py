"""The metrics of one context, by year: cell-eval2 on the CPU with pdex, or cell-eval in a process of its own for 2025."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.challenge.score_request import Fdr
from state_engine.challenge.scored_cells import TARGET
from state_engine.challenge.scores import VCC2025, VCC2026, Metric, MetricScore, mean_of, overall_2025, scaled_2025
from state_engine.challenge.spec import Rules
from state_engine.errors import ChallengeError
from state_engine.metrics.child import run_cell_eval

if TYPE_CHECKING:
    from cell_eval2 import EvalConfig

# stored values of the 2025 baseline's cells, at most: they are all alike, and dense
BASELINE_VALUES = 2e8
DEPTH_RATIO = 1.25


@dataclass(frozen=True)
class Made:
    """Metrics of one context: the scores, values by perturbation, who made them."""

    metrics: tuple[MetricScore, ...]
    table: pd.DataFrame
    overall: float | None
    engine: str = "cell-eval2"
    versions: dict[str, str] | None = None


def mean_of_perturbations(measured: ad.AnnData) -> np.ndarray:
    """(g,) mean of the labels' mean expression, the control's among them, as `cell-eval baseline` makes it."""
    labels = measured.obs[TARGET].to_numpy(str)
    means = [np.asarray(measured.X[labels == name].mean(axis=0)).ravel() for name in np.unique(labels)]
    return np.mean(means, axis=0)


# ---- 2025 ----


def score_2025(
    predicted: ad.AnnData,
    measured: ad.AnnData,
    rules: Rules,
    mean: np.ndarray | None,
    fdr: Fdr,
    cell_eval: str,
    remarks: list[str],
) -> Made:
    if not (predicted.obs[TARGET] == rules.control).any():
        raise ChallengeError(
            "The submission has no control cells.",
            "The scorer of 2025 takes the controls of the submission.",
            "Add them (the repair add-controls), or rename them (rename-control).",
        )
    _depth_remark(predicted, measured, rules, remarks)
    baseline = _mean_cells(measured, mean_of_perturbations(measured) if mean is None else mean, rules)
    engine, versions = "cell-eval2", None
    if cell_eval:
        sides = {"predicted": predicted, "baseline": baseline}
        values, versions = run_cell_eval(Path(cell_eval), sides, measured, rules.control, TARGET)
        user, base = values["predicted"], values["baseline"]
        engine = "cell-eval"
    else:
        # the tests on the measured cells are the same for both: the second reads them from the folder
        with tempfile.TemporaryDirectory(prefix="scores-") as kept:
            config = replace(_config_2025(measured, rules, fdr, remarks), cache_real=kept, cache_strict=True)
            user, base = (_by_metric(_metrics(side, measured, config)) for side in (predicted, baseline))
    metrics = tuple(_metric_2025(m, user.get(m.name, {}), base.get(m.name, {})) for m in VCC2025)
    overall = overall_2025([m.scaled for m in metrics])
    return Made(metrics, _table(user, base), overall, engine, versions)


def _metric_2025(metric: Metric, user: dict[str, float], base: dict[str, float]) -> MetricScore:
    if not user or not base:
        return MetricScore(metric.name, None, reason="The scorer gave no value.")
    u, b = float(np.mean(list(user.values()))), float(np.mean(list(base.values())))
    scaled = scaled_2025(u, b, metric.more_is_better)
    reason = "" if scaled is not None else "The baseline is perfect already."
    return MetricScore(metric.name, u, b, None, scaled, len(user), reason)


def _mean_cells(measured: ad.AnnData, mean: np.ndarray, rules: Rules) -> ad.AnnData:
    """The mean expression as every cell of every perturbation, with the measured controls."""
    is_control = (measured.obs[TARGET] == rules.control).to_numpy()
    labels, numbers = np.unique(measured.obs[TARGET].to_numpy(str)[~is_control], return_counts=True)
    most = max(2, int(BASELINE_VALUES / max(1, len(labels) * len(mean))))
    repeated = np.repeat(labels, np.minimum(numbers, most))
    rows = sp.csr_matrix(np.tile(mean.astype(np.float32), (len(repeated), 1)))
    controls = measured[is_control]
    target = np.concatenate([repeated, np.repeat(rules.control, controls.n_obs)])
    obs = pd.DataFrame({TARGET: pd.Categorical(target)}, index=[f"cell {i}" for i in range(len(target))])
    return ad.AnnData(sp.vstack([rows, controls.X], format="csr"), obs=obs, var=measured.var)


def _depth_remark(predicted: ad.AnnData, measured: ad.AnnData, rules: Rules, remarks: list[str]) -> None:
    depths = []
    for side in (predicted, measured):
        x = side.X[(side.obs[TARGET] == rules.control).to_numpy()]
        depths.append(float(np.median(np.asarray(x.expm1().sum(axis=1)))))
    if min(depths) > 0 and not 1 / DEPTH_RATIO < depths[0] / depths[1] < DEPTH_RATIO:
        remarks.append(
            f"Control cells of the submission have a depth of {depths[0]:,.0f} over the scored genes, measured ones {depths[1]:,.0f}: "
            "the MAE compares different scales."
        )


# ---- 2026 ----


def score_2026(predicted: ad.AnnData, measured: ad.AnnData, rules: Rules, remarks: list[str]) -> Made:
    from cell_eval2 import aggregate_metrics, build_generic_baseline

    config = config_2026(measured, rules, remarks)
    own = (predicted.obs[TARGET] != rules.control).to_numpy()
    controls = measured[(measured.obs[TARGET] == rules.control).to_numpy()]
    with_controls = ad.concat([predicted[own], controls], index_unique="-", keys=["predicted", "control"])
    tidy = _metrics(with_controls, measured, config)
    user = dict(aggregate_metrics(tidy).select("metric", "mean").iter_rows())
    with _quiet():
        try:
            base = dict(
                aggregate_metrics(build_generic_baseline(measured, config=config).results).select("metric", "mean").iter_rows()
            )
        except ValueError as error:
            raise _refused("The baseline", error) from error
    replicate = _replicate(measured, config, remarks)
    metrics = tuple(_metric_2026(m, user, base, replicate, len(set(measured.obs[TARGET])) - 1) for m in VCC2026)
    return Made(metrics, _table(_by_metric(tidy), {}), mean_of([m.scaled for m in metrics]))


def _replicate(measured: ad.AnnData, config: EvalConfig, remarks: list[str]) -> dict[str, float]:
    from cell_eval2.anchor import compute_replicate_anchor

    with _quiet():
        try:
            _, anchor = compute_replicate_anchor(measured, config=config)
        except ValueError as error:
            remarks.append(f"There is no replicate to compare with, so no scores of 2026: {_first_sentence(error)}")
            return {}
    return dict(anchor.select("metric", "replicate").iter_rows())


def _metric_2026(
    metric: Metric, user: dict[str, float], base: dict[str, float], replicate: dict[str, float], n: int
) -> MetricScore:
    from cell_eval2.catalog import CATALOG
    from cell_eval2.scoring import is_degenerate, score_one

    u, b, r = (_finite(side.get(metric.name)) for side in (user, base, replicate))
    if u is None or b is None or r is None:
        reason = "The scorer gave no value." if u is None or b is None else "There is no replicate."
        return MetricScore(metric.name, u, b, r, None, n, reason)
    try:
        policy = replace(CATALOG[metric.name].scoring, anchor=r, allow_negative_baseline=False)
        usable = not is_degenerate(b, policy)
    except ValueError:
        usable = False
    if not usable:
        return MetricScore(metric.name, u, b, r, None, n, "The replicate is no better than the baseline.")
    return MetricScore(metric.name, u, b, r, float(score_one(u, b, policy)), n)


# ---- cell-eval2 ----


def _config_2025(measured: ad.AnnData, rules: Rules, fdr: Fdr, remarks: list[str]) -> EvalConfig:
    from cell_eval2 import EvalConfig

    config = replace(EvalConfig.v1(), metrics="vcc", pert_col=TARGET, control=rules.control, device="cpu")
    scope: Literal["per_pert", "global"] = "per_pert" if fdr == "per perturbation" else "global"
    config = replace(config, de=replace(config.de, backend="pdex", fdr_scope=scope))
    return _with_targets(config, measured, rules, remarks)


def config_2026(measured: ad.AnnData, rules: Rules, remarks: list[str]) -> EvalConfig:
    """The scorer's settings of 2026 for measured cells under the labels of the rules."""
    from cell_eval2 import EvalConfig

    config = replace(EvalConfig.from_preset("vcc2026"), pert_col=TARGET, control=rules.control, device="cpu")
    return _with_targets(replace(config, de=replace(config.de, backend="pdex")), measured, rules, remarks)


def _with_targets(config: EvalConfig, measured: ad.AnnData, rules: Rules, remarks: list[str]) -> EvalConfig:
    """Perturbations that are no genes (drugs, cytokines) are said to have no target gene to leave out."""
    labels = set(measured.obs[TARGET]) - {rules.control}
    if labels & set(measured.var_names):
        return config
    remarks.append("No perturbation is named like a measured gene, so no perturbed gene is left out of the comparison.")
    return replace(config, target_gene_map={"*": None})


def _metrics(predicted: ad.AnnData, measured: ad.AnnData, config: EvalConfig):  # type: ignore[no-untyped-def]  # a polars frame
    """Values by perturbation and metric. Copies go in: the engine may normalise in place."""
    from cell_eval2 import compute_metrics

    with _quiet():
        try:
            return compute_metrics(predicted.copy(), measured.copy(), config=config)
        except ValueError as error:
            raise _refused("The submission", error) from error


def _by_metric(tidy) -> dict[str, dict[str, float]]:  # type: ignore[no-untyped-def]
    found: dict[str, dict[str, float]] = {}
    for perturbation, metric, value in tidy.select("perturbation", "metric", "value").iter_rows():
        if value is not None:
            found.setdefault(metric, {})[perturbation] = float(value)
    return found


def _table(user: dict[str, dict[str, float]], base: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Long: perturbation, metric, value, baseline."""
    rows = [
        (perturbation, metric, value, base.get(metric, {}).get(perturbation))
        for metric, values in user.items()
        for perturbation, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["perturbation", "metric", "value", "baseline"])


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refused(what: str, error: ValueError) -> ChallengeError:
    return ChallengeError(
        f"{what} cannot be scored.", f"cell-eval2 says: {_first_sentence(error)}", "See the checks of the file."
    )


def _first_sentence(error: ValueError) -> str:
    text = str(error).split(". ")[0].rstrip(".")
    return f"{text[:400]}."


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
