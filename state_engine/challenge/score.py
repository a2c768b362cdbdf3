"""Score a submission against held-out measured cells with the metrics of a challenge, beside its baseline.

The metrics are those of the challenge's profile, by cell-eval2 (MIT), on the CPU; where the profile names metrics of
cell-eval, that program can compute them in its own environment. Where a profile starts from the control cells of the submission,
this is kept and shown beside the numbers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine.challenge.score_request import ScoreRequest
from state_engine.challenge.scored_cells import (
    CONTEXT,
    ScoredCells,
    compared,
    depth_of,
    depth_remarks,
    null_checks,
    read_measured,
    read_submission,
)
from state_engine.challenge.scores import CALLED, SCORES, TABLE, ContextScores, MetricScore, Scores
from state_engine.challenge.source import open_source
from state_engine.challenge.spec import Rules, load_rules
from state_engine.challenge.submit import SubmissionRequest, source_of
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.errors import ChallengeError, listed
from state_engine.files import scratch_folder, write_json
from state_engine.metrics import engine
from state_engine.metrics.child import run_cell_eval
from state_engine.metrics.profile import TARGET, Fdr, Metric, Profile, mean_of, scaled
from state_engine.metrics.rank_tests import ENGINE
from state_engine.plain import plural, to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import SCORING, package_versions

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
class _Numbers:
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


def score(request: ScoreRequest, folder: Path, on_progress: OnProgress = silent) -> Scores:
    """Score a submission; `scores.json` and `scores.csv` (by perturbation) are stored in `folder`.

    Raises:
        ChallengeError, DataError: cells that cannot be read or compared, or a challenge without metrics.
    """
    rules = load_rules(request.submission.challenge)
    profile = rules.profile
    dataset = open_dataset(Path(request.truth), request.choices)
    contexts, remarks = contexts_to_compare(request.submission, dataset, rules)
    asked = replace(request.submission, contexts=contexts) if contexts else request.submission

    def read() -> tuple[ScoredCells, Comparison]:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".score-") as name:
            predicted = read_submission(asked, rules, Path(name), on_progress)
        depth = depth_of(predicted, rules, source_of(request.submission, rules).path)
        measured, there = read_measured(dataset, tuple(predicted.var_names), rules, contexts, on_progress, depth)
        cells = compared(predicted, measured, there, rules)
        null = null_checks(asked, rules, on_progress)
        cells = replace(cells, remarks=(*remarks, *depth_remarks(dataset, depth, rules), *cells.remarks), null=null)
        beside = Comparison(fdr=request.fdr, cell_eval=request.cell_eval)
        if request.training and profile.baseline == "perturbation mean":
            on_progress(Progress("Reading training cells"))
            mean = {"": _training_mean(request, tuple(cells.predicted.var_names), rules, depth)}
            beside = replace(beside, mean=mean, mean_words=f"perturbation means of {Path(request.training).name}")
        return cells, beside

    return score_cells(read, rules, folder, (request.submission.source, request.truth), on_progress)


def contexts_to_compare(submission: SubmissionRequest, dataset: Dataset, rules: Rules) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the contexts that are both predicted and measured, and what is left out; () for all, where the cells name no contexts.

    Raises:
        ChallengeError: both name contexts, and have none in common.
    """
    wanted = submission.contexts
    if not wanted and submission.is_run:
        labels = open_source(source_of(submission, rules), replace(rules, context_key=CONTEXT)).contexts
        wanted = labels.names if labels else ()
    both = tuple(c for c in wanted if c in dataset.contexts)
    if not wanted or (not both and len(dataset.contexts) == 1):
        return submission.contexts, ()
    if not both:
        raise ChallengeError(
            "Predicted and measured cells share no context.",
            f"Predicted: {listed(wanted)}. Measured: {listed(dataset.contexts)}.",
            "Choose the measurement of the same contexts.",
        )
    lacking = [c for c in wanted if c not in both]
    return both, (f"Contexts that were not measured, so not scored: {listed(lacking)}.",) if lacking else ()


def _training_mean(request: ScoreRequest, genes: tuple[str, ...], rules: Rules, depth: float | None) -> np.ndarray:
    training = open_dataset(Path(request.training), request.training_choices)
    cells, there = read_measured(training, genes, rules, depth=depth)
    if not there.all():
        lacking = [g for g, yes in zip(genes, there, strict=True) if not yes]
        raise ChallengeError(
            f"{training.path.name} lacks {len(lacking):,} of the {plural(len(genes), 'scored gene')}: {listed(lacking)}.",
            "The baseline is a mean over all of them.",
            "Give training cells with the genes of the challenge.",
        )
    return mean_of_perturbations(cells)


def score_cells(
    read: Callable[[], tuple[ScoredCells, Comparison]],
    rules: Rules,
    folder: Path,
    names: tuple[str, str],
    on_progress: OnProgress = silent,
) -> Scores:
    """Score cells that are already on common genes and labels, context by context.

    Args:
        read: returns the cells and what they are compared with; called once. Nobody else holds the cells, so predicted ones are gone
            from memory when those of the baseline, as many, are made.
        rules: of the challenge; its profile says which metrics are computed.
        folder: for `scores.json` and `scores.csv`.
        names: of the submission's file and of the measured one.

    Raises:
        ChallengeError: the challenge has no metrics, or the cells cannot be scored.
    """
    start = time.monotonic()
    profile = rules.profile
    cells, beside = read()
    contexts, tables, remarks = [], [], list(cells.remarks)
    versions: dict[str, str] = {}
    nulls, n_genes, names_of_contexts = cells.null, cells.predicted.n_vars, _contexts(cells, rules)
    by_context = _by_context(cells, rules, names_of_contexts)
    del cells
    for number, sides in enumerate(by_context):
        context = sides.context
        on_progress(Progress("Scoring", number, len(names_of_contexts)))
        sizes = [int((labels != rules.control).sum()) for labels in (sides.predicted_labels(), sides.measured.obs[TARGET])]
        found = _numbers(profile, sides, rules, beside, remarks)
        versions = found.versions
        labels = set(sides.measured.obs[TARGET]) - {rules.control}
        metrics = tuple(_metric_score(profile, metric, found, len(labels)) for metric in profile.metrics)
        overall = profile.overall([m.scaled for m in metrics])
        null = next((check for check in nulls if check.context in (context, "")), None)
        contexts.append(ContextScores(context, metrics, overall, len(labels), sizes[0], sizes[1], *_called(found), null))
        tables.append(_table(found).assign(context=context))
    program = "cell-eval" if versions else "cell-eval2"
    result = Scores(
        challenge=profile.name,
        source=names[0],
        truth=names[1],
        contexts=tuple(contexts),
        overall=mean_of([c.overall for c in contexts]),
        n_genes=n_genes,
        engine=f"{program} {versions.get(program) or metadata.version(program)}",
        versions={**package_versions(SCORING), **versions},
        control_source=_control_words(profile),
        de_engine=_de_words(beside.fdr, versions),
        baseline=_baseline_words(profile, beside.mean_words),
        held_out=beside.held_out,
        flatters=beside.flatters,
        remarks=tuple(dict.fromkeys(remarks)),
        seconds=time.monotonic() - start,
        scoring=profile,
    )
    write_json(folder / SCORES, to_plain(result))
    pd.concat(tables).to_csv(folder / TABLE, index=False)
    return result


@dataclass
class _Sides:
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


def _contexts(cells: ScoredCells, rules: Rules) -> list[str]:
    if not rules.context_key or CONTEXT not in cells.predicted.obs:
        return [""]
    there = set(cells.measured.obs[CONTEXT])
    contexts = [c for c in sorted(set(cells.predicted.obs[CONTEXT])) if c in there]
    if not contexts:
        raise ChallengeError("Predicted and measured cells share no context.", fix="Choose the context columns of both.")
    return contexts


def _by_context(cells: ScoredCells, rules: Rules, contexts: list[str]) -> Iterator[_Sides]:
    both_sides = [cells.predicted, cells.measured]
    del cells
    for context in contexts:
        here = [np.full(side.n_obs, True) if not context else (side.obs[CONTEXT] == context).to_numpy() for side in both_sides]
        if context:
            labels = [set(side.obs[TARGET].to_numpy(str)[rows]) for side, rows in zip(both_sides, here, strict=True)]
            both = list(labels[0] & labels[1] | {rules.control})
            here = [keep & np.isin(side.obs[TARGET].to_numpy(str), both) for side, keep in zip(both_sides, here, strict=True)]
        # all cells are taken as they are: a copy of them is as large
        sides = _Sides(context, *(side if keep.all() else side[keep].copy() for side, keep in zip(both_sides, here, strict=True)))
        if context == contexts[-1]:
            both_sides.clear()  # held by the context alone from here on
        yield sides


# ---- one context ----


def _numbers(
    profile: Profile,
    sides: _Sides,
    rules: Rules,
    beside: Comparison,
    remarks: list[str],
) -> _Numbers:
    """Metrics of the submission, of its baseline and of a replicate, as the profile wants them."""
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
        return _Numbers(user.values, {}, user.means, engine.mean_response(profile, measured, control), replicates)
    means = [side.means | _means(side.values) for side in (user, base)]
    return _Numbers(user.values, base.values, means[0], means[1], replicates)


def _by_cell_eval(profile: Profile, sides: dict[str, ad.AnnData], measured: ad.AnnData, control: str, python: str) -> _Numbers:
    if not profile.cell_eval or "baseline" not in sides:
        raise ChallengeError(
            f"cell-eval does not compute the metrics of {profile.title}.", fix="Score without it (no --cell-eval)."
        )
    values, versions = run_cell_eval(Path(python), profile.cell_eval, sides, measured, control)
    user, base = values["predicted"], values["baseline"]
    return _Numbers(user, base, _means(user), _means(base), versions=versions)


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


def _metric_score(profile: Profile, metric: Metric, found: _Numbers, n: int) -> MetricScore:
    """One metric and its score. Numbers that the challenge publishes take the place of those computed here."""
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


def _called(found: _Numbers) -> tuple[MetricScore | None, float | None]:
    """Return how many genes are called in predicted cells, the baseline's and a replicate's, and in measured cells; None where not asked for."""
    own, real = CALLED
    if own not in found.means:
        return None, None
    n = len(found.values.get(own, {}))
    return MetricScore(
        own, found.means[own], found.baseline_means.get(own), found.replicate_means.get(own), n=n
    ), found.means.get(real)


def _table(found: _Numbers) -> pd.DataFrame:
    """Long: perturbation, metric, value, baseline."""
    rows = []
    for metric, values in found.values.items():
        base = found.baseline.get(metric, {})
        rows += [(perturbation, metric, value, base.get(perturbation)) for perturbation, value in values.items()]
    return pd.DataFrame(rows, columns=["perturbation", "metric", "value", "baseline"])


# ---- the mean baseline ----


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


# ---- words beside the numbers ----


def _control_words(profile: Profile) -> str:
    if profile.controls[0] == "real":
        return "of the measurement"
    return "of the submission for PDS and DES (as cell-eval does)"


def _de_words(fdr: Fdr, versions: dict[str, str]) -> str:
    # cell-eval in its own environment tests by pdex, cell-eval2 here gets the same p from the house's engine
    test = f"pdex {versions['pdex']}" if "pdex" in versions else f"{ENGINE} {metadata.version(ENGINE)}"
    scope = "within each perturbation" if fdr == "per perturbation" else "over all perturbations together"
    return f"Mann-Whitney U, {test}; FDR {scope}"


def _baseline_words(profile: Profile, mean_words: str) -> str:
    if profile.baseline == "mean response":
        return "mean response of the measured perturbations (cell-eval2's generic baseline)"
    return f"mean of the {mean_words or 'measured perturbation means, which sees the answer and is hard to beat'}"
