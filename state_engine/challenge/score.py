"""Score a submission against held-out measured cells with the metrics of a challenge, beside its baseline.

The metrics are those of the challenge's profile, by cell-eval2 (MIT), on the CPU; where the profile names metrics of
cell-eval, that program can compute them in its own environment. Where a profile starts from the control cells of the submission,
this is kept and shown beside the numbers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from state_engine.challenge.context_numbers import (
    Comparison,
    Sides,
    called_genes,
    mean_of_perturbations,
    metric_score,
    numbers_of,
    table_of,
)
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
from state_engine.challenge.scores import SCORES, TABLE, ContextScores, Scores
from state_engine.challenge.source import open_source
from state_engine.challenge.spec import Rules, load_rules
from state_engine.challenge.submit import SubmissionRequest, source_of
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.errors import ChallengeError, listed
from state_engine.files import write_json
from state_engine.metrics.profile import TARGET, Fdr, Profile, mean_of
from state_engine.metrics.rank_tests import ENGINE
from state_engine.plain import plural, to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import SCORING, package_versions


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
        found = numbers_of(profile, sides, rules, beside, remarks)
        versions = found.versions
        labels = set(sides.measured.obs[TARGET]) - {rules.control}
        metrics = tuple(metric_score(profile, metric, found, len(labels)) for metric in profile.metrics)
        overall = profile.overall([m.scaled for m in metrics])
        null = next((check for check in nulls if check.context in (context, "")), None)
        contexts.append(ContextScores(context, metrics, overall, len(labels), sizes[0], sizes[1], *called_genes(found), null))
        tables.append(table_of(found).assign(context=context))
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


def _contexts(cells: ScoredCells, rules: Rules) -> list[str]:
    if not rules.context_key or CONTEXT not in cells.predicted.obs:
        return [""]
    there = set(cells.measured.obs[CONTEXT])
    contexts = [c for c in sorted(set(cells.predicted.obs[CONTEXT])) if c in there]
    if not contexts:
        raise ChallengeError("Predicted and measured cells share no context.", fix="Choose the context columns of both.")
    return contexts


def _by_context(cells: ScoredCells, rules: Rules, contexts: list[str]) -> Iterator[Sides]:
    both_sides = [cells.predicted, cells.measured]
    del cells
    for context in contexts:
        here = [np.full(side.n_obs, True) if not context else (side.obs[CONTEXT] == context).to_numpy() for side in both_sides]
        if context:
            labels = [set(side.obs[TARGET].to_numpy(str)[rows]) for side, rows in zip(both_sides, here, strict=True)]
            both = list(labels[0] & labels[1] | {rules.control})
            here = [keep & np.isin(side.obs[TARGET].to_numpy(str), both) for side, keep in zip(both_sides, here, strict=True)]
        # all cells are taken as they are: a copy of them is as large
        sides = Sides(context, *(side if keep.all() else side[keep].copy() for side, keep in zip(both_sides, here, strict=True)))
        if context == contexts[-1]:
            both_sides.clear()  # held by the context alone from here on
        yield sides


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
