"""The metrics of one context of a submission, of its baseline and of a replicate, as the profile of a challenge wants them.

The engines are cell-eval2 and cell-eval. Boundary: cells on common genes and labels; which they are is `challenge.scored_cells`.

Notation: g genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.challenge.scores import CALLED, MetricScore
from state_engine.challenge.spec import Rules
from state_engine.errors import ChallengeError
from state_engine.files import scratch_folder
from state_engine.metrics import engine
from state_engine.metrics.child import run_cell_eval
from state_engine.metrics.profile import TARGET, Fdr, Metric, Profile, scaled

# stored values of the cells of the mean baseline, at most: they are all alike, and dense
BASELINE_VALUES = 2e8
DEPTH_RATIO = 1.25


@dataclass(frozen=True)
class Comparison:
    """What the submission is compared with, beside the measured cells.

    Args:
        mean: (g,) mean expression that is the baseline, by context ("" for any), where the profile's baseline is a mean over
            perturbations; empty: the mean of the measured perturbations themselves.
        mean_words: what that mean is of.
        held_out: what the perturbations are to the model, in words.
        flatters: the model may have seen them; None when not known.
        fdr, cell_eval: see `ScoreRequest`.
    """

    mean: dict[str, np.ndarray] = field(default_factory=dict)
    mean_words: str = ""
    held_out: str = ""
    flatters: bool | None = None
    fdr: Fdr = "per perturbation"
    cell_eval: str = ""


@dataclass(frozen=True)
class Numbers:
    """Metrics of one context.

    Args:
        values, baseline: by metric and perturbation; the baseline's are empty where it has only means.
        means, baseline_means, replicate_means: by metric.
        versions: of the packages in cell-eval's own environment; {} when it was not used.
    """

    values: engine.Values
    baseline: engine.Values
    means: dict[str, float]
    baseline_means: dict[str, float]
    replicate_means: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class Sides:
    """Cells of one context. Not frozen: the predicted ones are given away once, and are then held here no longer.

    Args:
        context: "" where the cells name none.
        predicted: None when given away.
        measured: stays.
    """

    context: str
    predicted: ad.AnnData | None
    measured: ad.AnnData

    def predicted_labels(self) -> pd.Series:
        assert self.predicted is not None, "asked for before they are given away"
        return self.predicted.obs[TARGET]

    def give_predicted(self) -> ad.AnnData:
        given, self.predicted = self.predicted, None
        assert given is not None, "given away once"
        return given


def numbers_of(
    profile: Profile,
    sides: Sides,
    rules: Rules,
    beside: Comparison,
    remarks: list[str],
) -> Numbers:
    """Return the metrics of the submission, of its baseline and of a replicate, as the profile wants them."""
    context, predicted, measured = sides.context, sides.give_predicted(), sides.measured
    control = rules.control
    if profile.controls[0] == "predicted":
        _require_controls(predicted, rules)
    else:  # effects start from the measured control cells, whatever the submission has
        own = (predicted.obs[TARGET] != control).to_numpy()
        controls = measured[(measured.obs[TARGET] == control).to_numpy()]
        predicted = ad.concat([predicted[own], controls], index_unique="-", keys=["predicted", "control"])
    if profile.values == "log1p":
        _depth_remark(predicted, measured, rules, remarks)
    if not engine.has_targets(measured, control):
        remarks.append(engine.NO_TARGETS)
    of_mean = profile.baseline == "perturbation mean"

    def mean_cells() -> ad.AnnData:
        """Made when they are needed: they are as large as all the others together."""
        mean = beside.mean.get(context, beside.mean.get(""))
        return _mean_cells(measured, mean_of_perturbations(measured) if mean is None else mean, rules)

    if beside.cell_eval:
        compared_cells = {"predicted": predicted, **({"baseline": mean_cells()} if of_mean else {})}
        return _by_cell_eval(profile, compared_cells, measured, control, beside.cell_eval)
    # the tests on the measured cells are the same for both sides: the second reads them from the folder
    with scratch_folder() as tests:
        settings = engine.Settings(fdr=beside.fdr, tests=str(tests) if of_mean else "")
        user = engine.compute(profile, predicted, measured, control, settings)
        del predicted  # before the baseline's cells, which are as large, are made
        base = engine.compute(profile, mean_cells(), measured, control, settings) if of_mean else None
    replicates = _replicate(profile, measured, control, remarks) if profile.anchor == "replicate" else {}
    if base is None:
        return Numbers(user.values, {}, user.means, engine.mean_response(profile, measured, control), replicates)
    means = [side.means | _means(side.values) for side in (user, base)]
    return Numbers(user.values, base.values, means[0], means[1], replicates)


def _by_cell_eval(profile: Profile, sides: dict[str, ad.AnnData], measured: ad.AnnData, control: str, python: str) -> Numbers:
    if not profile.cell_eval or "baseline" not in sides:
        raise ChallengeError(
            f"cell-eval does not compute the metrics of {profile.title}.", fix="Score without it (no --cell-eval)."
        )
    values, versions = run_cell_eval(Path(python), profile.cell_eval, sides, measured, control)
    user, base = values["predicted"], values["baseline"]
    return Numbers(user, base, _means(user), _means(base), versions=versions)


def _means(values: engine.Values) -> dict[str, float]:
    """Plain means over perturbations, as cell-eval takes them."""
    return {metric: float(np.mean(list(found.values()))) for metric, found in values.items() if found}


def _require_controls(predicted: ad.AnnData, rules: Rules) -> None:
    if not (predicted.obs[TARGET] == rules.control).any():
        raise ChallengeError(
            "The submission has no control cells.",
            f"The scorer of {rules.title} takes the controls of the submission.",
            "Add them (the repair add-controls), or rename them (rename-control).",
        )


def _replicate(profile: Profile, measured: ad.AnnData, control: str, remarks: list[str]) -> dict[str, float]:
    try:
        return engine.replicate(profile, measured, control)
    except ChallengeError as error:
        remarks.append(f"{error.what.rstrip('.')}, so no scores: {error.why}")
        return {}


def metric_score(profile: Profile, metric: Metric, found: Numbers, n: int) -> MetricScore:
    """Return one metric and its score. Numbers that the challenge publishes take the place of those computed here."""
    u = found.means.get(metric.name)
    b = metric.baseline if metric.baseline is not None else found.baseline_means.get(metric.name)
    values = found.values.get(metric.name)
    n = len(values) if values and profile.anchor == "perfect" else n
    r = metric.anchor if metric.anchor is not None else found.replicate_means.get(metric.name)
    if u is None or b is None:
        return MetricScore(metric.name, u, b, r, None, n, "The scorer gave no value.")
    if profile.anchor == "perfect" and metric.anchor is None:
        result = scaled(u, b, metric.more_is_better)
        return MetricScore(metric.name, u, b, None, result, n, "" if result is not None else "The baseline is perfect already.")
    if r is None:
        return MetricScore(metric.name, u, b, r, None, n, "There is no replicate.")
    result = engine.score_between(metric.name, u, b, r)
    return MetricScore(
        metric.name, u, b, r, result, n, "" if result is not None else "The replicate is no better than the baseline."
    )


def called_genes(found: Numbers) -> tuple[MetricScore | None, float | None]:
    """Return how many genes are called in predicted cells, the baseline's and a replicate's, and in measured cells; None where not asked for."""
    own, real = CALLED
    if own not in found.means:
        return None, None
    n = len(found.values.get(own, {}))
    return MetricScore(
        own, found.means[own], found.baseline_means.get(own), found.replicate_means.get(own), n=n
    ), found.means.get(real)


def table_of(found: Numbers) -> pd.DataFrame:
    """Return a long table: perturbation, metric, value, baseline."""
    rows = []
    for metric, values in found.values.items():
        base = found.baseline.get(metric, {})
        rows += [(perturbation, metric, value, base.get(perturbation)) for perturbation, value in values.items()]
    return pd.DataFrame(rows, columns=["perturbation", "metric", "value", "baseline"])


def mean_of_perturbations(measured: ad.AnnData) -> np.ndarray:
    """Return the mean (g,) of the labels' mean expression, the control's among them, as `cell-eval baseline` computes it."""
    labels = measured.obs[TARGET].to_numpy(str)
    means = [np.asarray(measured.X[labels == name].mean(axis=0)).ravel() for name in np.unique(labels)]
    return np.mean(means, axis=0)


def _mean_cells(measured: ad.AnnData, mean: np.ndarray, rules: Rules) -> ad.AnnData:
    """The mean expression as every cell of every perturbation, with the measured controls."""
    is_control = (measured.obs[TARGET] == rules.control).to_numpy()
    labels, numbers = np.unique(measured.obs[TARGET].to_numpy(str)[~is_control], return_counts=True)
    # two cells are enough for a test, and more than BASELINE_VALUES would not fit into memory
    most = max(2, int(BASELINE_VALUES / max(1, len(labels) * len(mean))))
    repeated = np.repeat(labels, np.minimum(numbers, most))
    controls = measured[is_control]
    # dense: without zeros a sparse matrix would be twice as large
    rows = np.empty((len(repeated) + controls.n_obs, len(mean)), np.float32)
    rows[: len(repeated)] = mean
    for start in range(0, controls.n_obs, 1024):
        block = controls.X[start : start + 1024]
        rows[len(repeated) + start : len(repeated) + start + block.shape[0]] = block.toarray() if sp.issparse(block) else block
    target = np.concatenate([repeated, np.repeat(rules.control, controls.n_obs)])
    obs = pd.DataFrame({TARGET: pd.Categorical(target)}, index=[f"cell {i}" for i in range(len(target))])
    return ad.AnnData(rows, obs=obs, var=measured.var)


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
