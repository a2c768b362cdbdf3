"""How good predictions are, beside simple baselines: the verb `evaluate`, and what it keeps.

    DIR/metrics.csv       method, seed, perturbation, context, metric, value, n_predicted, n_measured, n_control
    DIR/summary.csv       method, metric, context, value (mean over conditions, then seeds), spread (of the seeds), n
    DIR/effects.npz       effects of every method and condition, for figures
    DIR/evaluation.json   `Evaluation`: what was compared with what, by whom, and a verdict in words

Metrics: cell-eval2 on means that are taken here while the files stream by, and on cells, a few perturbations at a time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from state_engine.effects.exposure import Exposure, TrainedOn, parts_trained
from state_engine.effects.means import Means, Sums, means_by_condition
from state_engine.errors import RunError
from state_engine.evaluation.baselines import EffectSource, baselines_of
from state_engine.evaluation.chances import CHANCES, score_chances
from state_engine.evaluation.compared import ComparedFiles, Condition, Side
from state_engine.evaluation.effect_source import effect_source, perturbation_features
from state_engine.evaluation.effects_file import keep_effects
from state_engine.evaluation.elsewhere import measured_elsewhere
from state_engine.evaluation.files import open_files, with_cells_of_effects
from state_engine.evaluation.foreign_effects import ForeignEffects
from state_engine.evaluation.judgement import Judgement, judgement, telling
from state_engine.evaluation.null_rates import score_null
from state_engine.evaluation.paired import paired_means
from state_engine.evaluation.profiles import find_profile
from state_engine.evaluation.replicate_clouds import METRIC as ENERGY
from state_engine.evaluation.replicate_clouds import energy_discriminations
from state_engine.evaluation.replicates import Halves, Judged, Replicates, judge
from state_engine.evaluation.report import (
    EFFECTS,
    EVALUATION,
    FORMAT,
    METRICS,
    SUMMARY,
    EvaluatedCondition,
    EvaluatedMethod,
    Evaluation,
)
from state_engine.evaluation.request import EvaluationRequest
from state_engine.evaluation.scoring import (
    CHUNK_VALUES,
    MEASURED,
    Row,
    Scored,
    Spreads,
    score_on_cells,
    score_on_counts,
    score_on_means,
)
from state_engine.evaluation.verdict import comparisons, furthest_behind, sentence, summarise, verdict
from state_engine.files import free_output, output_folder, replacing, write_json
from state_engine.metrics.rank_tests import ENGINE, FLOOR
from state_engine.metrics.replicate import Discrimination, Skill
from state_engine.plain import agreed, part_of, to_plain
from state_engine.prediction.result import open_result
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import SCORING, package_versions


def evaluate(
    request: EvaluationRequest, output: Path, on_progress: OnProgress = silent, chunk_values: float = CHUNK_VALUES
) -> Evaluation:
    """Score predictions and baselines; the tables are stored in `output`.

    Args:
        request: what to compare.
        output: a folder, made when missing; each file appears only when complete.
        on_progress: told block by block; may raise `JobCancelled`.
        chunk_values: values of one side that are in memory at once where cells are compared.

    Raises:
        DataError, RequestError, ChallengeError: files that cannot be read or compared; each says what and why.
    """
    with output_folder(output), tempfile.TemporaryDirectory(dir=output, prefix=".cells-") as folder:
        for name in (METRICS, SUMMARY, EFFECTS, EVALUATION):
            free_output(output / name, request.real, *(file.path for file in request.predicted))
        asked, remarks, tables = with_cells_of_effects(request, Path(folder), on_progress)
        return _evaluate(asked, output, on_progress, chunk_values, remarks, tables)


def _evaluate(
    request: EvaluationRequest,
    output: Path,
    on_progress: OnProgress,
    chunk_values: float,
    said: list[str],
    tables: Mapping[str, ForeignEffects],
) -> Evaluation:
    start = time.monotonic()
    on_progress(Progress("Reading labels"))
    files = open_files(request)
    remarks = [*said, *files.remarks]
    halves = Halves(files)
    real, predicted, spreads = _means(files, request, halves, on_progress)
    source = effect_source(request, files, real)
    features, why = perturbation_features(request)
    made = baselines_of(files, real, source, features, why)
    other = measured_elsewhere(request, files, on_progress)
    if other is not None:
        made, remarks = (*made, other.baseline), [*remarks, *other.remarks]
    profile = find_profile(request.profile)
    elsewhere = next((dict(b.effects) for b in made if b.name == "mean of other contexts"), {})
    replicates = Replicates(halves, real, elsewhere)
    scored = Scored(files, request, profile, real, predicted, made, remarks, chunk_values=chunk_values, replicates=replicates)
    scored.spreads = spreads
    scored.exposures, scored.trained = _exposures(files, request, source)
    rows: list[Row] = []
    if profile.on_means and not request.cell_eval:
        rows += score_on_means(scored, on_progress)
    if profile.values == "counts":
        rows += score_on_counts(scored, on_progress)
    elif profile.on_cells:
        rows += score_on_cells(scored, on_progress) + score_null(scored, on_progress)
    if any(table.chances is not None for table in tables.values()):
        rows += score_chances(scored, tables, on_progress)
        scored.profile = replace(profile, metrics=(*profile.metrics, CHANCES))
    on_progress(Progress("Writing the tables"))
    table = _table(rows, scored)
    return _write(table, scored, source.words, start, output)


def _means(
    files: ComparedFiles, request: EvaluationRequest, halves: Halves, on_progress: OnProgress
) -> tuple[Means, dict[str, tuple[Means, ...]], dict[str, tuple[Spreads, ...]]]:
    """Means of every measured condition (baselines need those that are not scored too) and of the compared predictions; spreads of the compared."""
    everything = tuple((str(p), str(c)) for c in files.real.dataset.contexts for p in files.real.dataset.perturbations)
    if request.effects:
        everything = (*files.conditions, *((files.control, c) for c in files.contexts))
    wanted = (*files.conditions, *((files.control, c) for c in files.contexts))
    real, spread = _means_of(files, files.real, (everything, wanted), "Averaging measured cells", on_progress, halves)
    predicted: dict[str, tuple[Means, ...]] = {}
    spreads: dict[str, tuple[Spreads, ...]] = {MEASURED: (spread,)}
    for method, sides in files.predicted.items():
        made = []
        for number, side in enumerate(sides):
            words = f"Averaging cells of {method}" + (f", seed {number + 1} of {len(sides)}" if len(sides) > 1 else "")
            said = tuple(pair for pair in wanted if pair in files.said[method] or pair[0] == files.control)
            means, own_spread = _means_of(files, side, (said, said), words, on_progress)
            if request.control_source == "real":
                means = paired_means(files, side, means, real)
            made.append((means, own_spread))
        predicted[method], spreads[method] = tuple(means for means, _ in made), tuple(spread for _, spread in made)
    return real, predicted, spreads


def _means_of(
    files: ComparedFiles,
    side: Side,
    conditions: tuple[tuple[Condition, ...], tuple[Condition, ...]],
    stage: str,
    on_progress: OnProgress,
    halves: Halves | None = None,
) -> tuple[Means, Spreads]:
    """Return the means of some conditions of a file, and the standard deviations of others among them; those without cells are left out."""
    (codes, compared), n = (_codes(side, part) for part in conditions), len(files.genes)
    rows = np.flatnonzero(codes >= 0)
    sums = Sums(n, squares={})
    blocks_of_cells = side.blocks(rows) if halves is None else halves.watch(side.blocks(rows))

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        done = 0
        for part, values in blocks_of_cells:
            sums.add(conditions[1], compared[part], values)
            yield part, values
            done += len(part)
            on_progress(Progress(stage, done, len(rows)))

    means = means_by_condition(blocks(), codes, conditions[0], files.control, files.genes)
    found = sums.means(conditions[1], files.control)
    # the standard error of a mean is the spread over the root of the number of cells
    return means, {(p, c): np.sqrt(found.squared_errors(p, c) * found.n(p, c)) for p, c in found.conditions}


def _codes(side: Side, conditions: tuple[Condition, ...]) -> np.ndarray:
    """Return which of the conditions each cell is of, (n,); -1 for none."""
    codes = np.full(side.dataset.n_cells, -1, dtype=np.int64)
    for number, (p, c) in enumerate(conditions):
        codes[side.rows(p, c)] = number
    return codes


def _table(rows: list[Row], scored: Scored) -> pd.DataFrame:
    """The long table, with cells behind each number."""
    files, real = scored.files, scored.real
    table = pd.DataFrame([vars(r) for r in rows], columns=list(Row.__dataclass_fields__))
    first = {m: seeds[0] for m, seeds in scored.predicted.items()}

    def cells(row: pd.Series) -> tuple[int | None, int | None, int]:
        condition = row["perturbation"], row["context"]
        own = first[row["method"]].n(*condition) if row["method"] in first and row["perturbation"] else None
        return own, real.n(*condition) if row["perturbation"] else None, real.n(files.control, row["context"])

    counts = [cells(row) for _, row in table.iterrows()]
    names = ("n_predicted", "n_measured", "n_control")
    for i, name in enumerate(names):
        table[name] = pd.array([c[i] for c in counts], dtype="Int64")
    return table


def _write(table: pd.DataFrame, scored: Scored, effects_words: str, start: float, output: Path) -> Evaluation:
    files, request = scored.files, scored.request
    output.mkdir(parents=True, exist_ok=True)
    summary = summarise(table)
    against = comparisons(table, files.predicted, [b.name for b in scored.baselines], scored.profile.metrics)
    said = verdict(against, scored.profile.metrics)
    judged = _judged(scored)
    discriminations, skills = judged.discriminations, judged.skills
    judgements = tuple(_judgement(m, table, scored, discriminations, skills) for m in files.predicted)
    with replacing(output / METRICS) as beside:
        table.to_csv(beside, index=False)
    with replacing(output / SUMMARY) as beside:
        pd.DataFrame([vars(r) for r in summary]).to_csv(beside, index=False)
    remarks = [*scored.remarks, *keep_effects(output / EFFECTS, scored)]
    energy = scored.profile.metric(ENERGY)
    if energy is not None:  # it is shown, and no skill is measured by it
        discriminations += energy_discriminations(energy, scored.energies)
    evaluation = Evaluation(
        format=FORMAT,
        profile=request.profile,
        real=request.real,
        n_genes=len(files.genes),
        conditions=_conditions(scored),
        methods=_methods(scored, MEASURED in set(table["method"])),
        summary=summary,
        comparisons=against,
        verdict=tuple(sentence(s) for s in said),
        control_source=_control_words(scored),
        effects_source=effects_words,
        engine=scored.engine or f"cell-eval2 {metadata.version('cell-eval2')}",
        de_engine=_de_words(scored),
        device="cpu",
        versions={**package_versions(SCORING), **scored.versions},
        seed=request.seed,
        remarks=tuple(dict.fromkeys(remarks)),
        held_out=request.held_out,
        flatters=request.flatters,
        metrics=scored.profile.metrics,
        statements=said,
        judgements=judgements if judged.discriminations else (),
        discriminations=discriminations,
        skills=skills,
        seen=judged.seen,
        seconds=round(time.monotonic() - start, 3),
    )
    write_json(output / EVALUATION, to_plain(evaluation))
    return evaluation


def _exposures(
    files: ComparedFiles, request: EvaluationRequest, source: EffectSource
) -> tuple[dict[Condition, Exposure], dict[Condition, TrainedOn]]:
    """Return whether each condition is a test of the model, and what of it was trained on, where that is known.

    As the prediction says, or the training whose effects are the baselines.
    """
    if request.by_kind:
        try:
            result = open_result(Path(request.real))
        except RunError:  # cells of both sides, but no result of this version
            return {}, {}
        parts = {pair: one for pair, one in result.trained_on().items() if pair in files.conditions}
        return {pair: result.exposure(*pair) for pair in files.conditions}, parts
    if source.own:
        return {}, {}
    trained = set(zip(source.table.perturbations, source.table.contexts, strict=True))
    parts = parts_trained(trained, files.conditions)
    return {pair: "in training" if one.pair else "test" for pair, one in parts.items()}, parts


def _judged(scored: Scored) -> Judged:
    """How well each metric tells here, and the skill of each prediction (its mean over seeds)."""
    if scored.replicates is None or scored.request.cell_eval:
        return Judged((), ())
    files, real = scored.files, scored.real
    predictions = {}
    for method, seeds in scored.predicted.items():
        said = {}
        for p, c in files.said[method]:
            effect = scored.effect(method, p, c)
            if effect is not None:
                said[p, c] = (np.mean([own.mean(p, c) for own in seeds], axis=0), effect)
        predictions[method] = said
    baselines: dict[str, dict[Condition, tuple[np.ndarray, np.ndarray]]] = {}
    for baseline in scored.baselines:
        means = {(p, c): mean for c in files.contexts for p, mean in scored.baseline_means(baseline, c).items()}
        baselines[baseline.name] = {(p, c): (mean, mean - real.mean(files.control, c)) for (p, c), mean in means.items()}
    trained = frozenset(c for c, exposure in scored.exposures.items() if exposure == "in training")
    return judge(scored.profile, scored.replicates, predictions, baselines, scored.request.seed, trained, scored.trained)


def _judgement(
    method: str, table: pd.DataFrame, scored: Scored, found: tuple[Discrimination, ...], skills: tuple[Skill, ...]
) -> Judgement:
    """The verdict on a prediction, with the conditions in which it is worst by the first metric that can tell."""
    if scored.exposures and set(scored.exposures.values()) == {"in training"}:
        text = "The model was trained on all of these conditions: agreement with their cells is recall, not a test."
        return Judgement(method, "recall", text, short="Recall, not a test: the model was trained on all of these conditions.")
    tells = telling(found)
    first = next((s for s in skills if s.method == method and s.metric in tells), None)
    metric = scored.profile.metric(first.metric) if first else None
    worst = furthest_behind(table, method, first.baseline, metric) if first and metric else ()
    return judgement(method, skills, found, scored.profile.metrics, worst)


def _conditions(scored: Scored) -> tuple[EvaluatedCondition, ...]:
    files, real = scored.files, scored.real
    seeds = [seeds[0] for seeds in scored.predicted.values()]
    replicates = scored.replicates
    floors = {pair: replicates.noise_floor(pair) if replicates else None for pair in files.conditions}
    found = []
    for p, c in files.conditions:
        n_predicted = max(own.n(p, c) for own in seeds)
        exposure = scored.exposures.get((p, c), "not known")
        found.append(EvaluatedCondition(p, c, n_predicted, real.n(p, c), real.n(files.control, c), floors[p, c], exposure))
    return tuple(found)


def _methods(scored: Scored, has_measured: bool) -> tuple[EvaluatedMethod, ...]:
    n = len(scored.files.conditions)
    paths: dict[str, tuple[str, ...]] = {}
    for file in scored.request.predicted:
        paths[file.method] = (*paths.get(file.method, ()), file.effects or file.path)
    predictions = [_prediction(scored, method, paths[method], n) for method in scored.files.predicted]
    baselines = [EvaluatedMethod(b.name, "baseline", (), len(b.effects), b.reason) for b in scored.baselines]
    measured = [EvaluatedMethod(MEASURED, "measured", (scored.request.real,), n)] if has_measured else []
    return (*predictions, *baselines, *measured)


def _prediction(scored: Scored, method: str, files: tuple[str, ...], n: int) -> EvaluatedMethod:
    said = len(scored.files.said[method])
    lost = f"{part_of(n - said, n, 'condition')} {agreed(n - said, 'is', 'are')} not predicted by it."
    reason = "" if said == n else lost
    return EvaluatedMethod(method, "prediction", files, said, reason)


def _control_words(scored: Scored) -> str:
    files = scored.files
    n = sum(scored.real.n(files.control, c) for c in files.contexts)
    if scored.request.control_source == "real":
        return f"measured control cells ({n:,}, '{files.control}')"
    own = next(iter(scored.predicted.values()))[0]
    m = sum(own.n(files.control, c) for c in files.contexts)
    return f"control cells of each prediction ({m:,}, '{files.control}'; as cell-eval does), measured ones ({n:,}) for baselines"


def _de_words(scored: Scored) -> str:
    if not scored.profile.on_cells:
        return ""
    if all(metric.by == "here" for metric in scored.profile.metrics if metric.on == "cells"):
        test = f"{ENGINE} {metadata.version(ENGINE)}, values under {FLOOR:g} counted as not detected"
    else:
        test = f"pdex {scored.versions['pdex']}" if "pdex" in scored.versions else f"{ENGINE} {metadata.version(ENGINE)}"
    return f"Mann-Whitney U, {test}; FDR within each perturbation"
