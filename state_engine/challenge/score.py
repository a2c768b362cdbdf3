"""Score a submission against held-out measured cells with the metrics of a challenge, beside the mean baseline.

The metrics are cell-eval2's (MIT), on the CPU with pdex; for 2025 cell-eval itself can make them in its own environment.
Known traps, and what is done: cell-eval takes control cells from the prediction (kept for 2025, and said beside the numbers);
it changes the caller's matrices (it gets copies in a process of its own); failing metrics vanish (each is asked for by name).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from state_engine.challenge.score_request import Fdr, ScoreRequest
from state_engine.challenge.scored_cells import CONTEXT, TARGET, ScoredCells, compared, read_measured, read_submission
from state_engine.challenge.scorers import Made, mean_of_perturbations, score_2025, score_2026
from state_engine.challenge.scores import SCORES, TABLE, ContextScores, Scores, mean_of
from state_engine.challenge.source import open_source
from state_engine.challenge.spec import Rules, load_rules
from state_engine.challenge.submit import SubmissionRequest, source_of
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.errors import ChallengeError, listed
from state_engine.files import write_json
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.versions import SCORING, package_versions


def score(request: ScoreRequest, folder: Path, on_progress: OnProgress = silent) -> Scores:
    """Scores a submission; `scores.json` and `scores.csv` (by perturbation) are kept in `folder`.

    Raises:
        ChallengeError, DataError: cells that cannot be read or compared.
    """
    rules = load_rules(request.submission.challenge)
    dataset = open_dataset(Path(request.truth), request.choices)
    contexts, remarks = contexts_to_compare(request.submission, dataset, rules)
    asked = replace(request.submission, contexts=contexts) if contexts else request.submission
    with tempfile.TemporaryDirectory(dir=folder, prefix=".score-") as name:
        predicted = read_submission(asked, rules, Path(name), on_progress)
    measured, there = read_measured(dataset, tuple(predicted.var_names), rules, contexts, on_progress)
    cells = compared(predicted, measured, there, rules)
    cells = replace(cells, remarks=(*remarks, *cells.remarks))
    mean = None
    if request.training and rules.values == "log1p":
        on_progress(Progress("Reading training cells"))
        mean = {"": _training_mean(request, tuple(cells.predicted.var_names), rules)}
    words = f"perturbation means of {Path(request.training).name}" if mean is not None else ""
    return score_cells(
        cells, rules, folder, source=request.submission.source, truth=request.truth, mean=mean, mean_words=words,
        fdr=request.fdr, cell_eval=request.cell_eval, on_progress=on_progress,
    )  # fmt: skip


def contexts_to_compare(submission: SubmissionRequest, dataset: Dataset, rules: Rules) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Contexts that are both predicted and measured, and what is left out; () for all, where the cells name no contexts.

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


def _training_mean(request: ScoreRequest, genes: tuple[str, ...], rules: Rules) -> np.ndarray:
    training = open_dataset(Path(request.training), request.training_choices)
    cells, there = read_measured(training, genes, rules)
    if not there.all():
        lacking = [g for g, yes in zip(genes, there, strict=True) if not yes]
        raise ChallengeError(
            f"{training.path.name} lacks {len(lacking):,} of the {len(genes):,} scored genes: {listed(lacking)}.",
            "The baseline is a mean over all of them.",
            "Give training cells with the genes of the challenge.",
        )
    return mean_of_perturbations(cells)


def score_cells(
    cells: ScoredCells,
    rules: Rules,
    folder: Path,
    *,
    source: str,
    truth: str,
    mean: dict[str, np.ndarray] | None = None,
    mean_words: str = "",
    held_out: str = "",
    fdr: Fdr = "per perturbation",
    cell_eval: str = "",
    on_progress: OnProgress = silent,
) -> Scores:
    """Scores cells that are already on common genes and labels, context by context.

    Args:
        cells: to compare.
        rules: of the challenge; its scale of values decides whose metrics are used (counts: 2026, log1p: 2025).
        folder: for `scores.json` and `scores.csv`.
        source, truth: names of the files.
        mean: (g,) mean expression that is the baseline of 2025, by context ("" for any); None: the mean of the measured
            perturbations themselves.
        mean_words: what that mean is of.
        held_out: what the perturbations are to the model, in words.
        fdr, cell_eval: see `ScoreRequest`.
    """
    start = time.monotonic()
    counts = rules.values == "counts"
    contexts, tables, remarks = [], [], list(cells.remarks)
    engine, versions = "cell-eval2", dict[str, str]()
    pairs = list(_by_context(cells, rules))
    for number, (context, predicted, measured) in enumerate(pairs):
        on_progress(Progress("Scoring", number, len(pairs)))
        if counts:
            made = score_2026(predicted, measured, rules, remarks)
        else:
            own = mean.get(context, mean.get("")) if mean else None
            made = score_2025(predicted, measured, rules, own, fdr, cell_eval, remarks)
            engine, versions = made.engine, made.versions or {}
        contexts.append(_context(context, made, predicted, measured, rules))
        tables.append(made.table.assign(context=context))
    result = Scores(
        challenge="vcc2026" if counts else "vcc2025",
        source=source,
        truth=truth,
        contexts=tuple(contexts),
        overall=mean_of([c.overall for c in contexts]),
        n_genes=cells.predicted.n_vars,
        engine=f"{engine} {versions.get(engine) or metadata.version(engine)}",
        versions={**package_versions(SCORING), **versions},
        control_source="of the measurement" if counts else "of the submission for PDS and DES (as cell-eval does)",
        de_engine=_de_words(counts, fdr, versions),
        baseline=_baseline_words(counts, mean_words),
        held_out=held_out,
        remarks=tuple(dict.fromkeys(remarks)),
        seconds=time.monotonic() - start,
    )
    write_json(folder / SCORES, to_plain(result))
    pd.concat(tables).to_csv(folder / TABLE, index=False)
    return result


def _by_context(cells: ScoredCells, rules: Rules) -> Iterator[tuple[str, ad.AnnData, ad.AnnData]]:
    if not rules.context_key or CONTEXT not in cells.predicted.obs:
        yield "", cells.predicted, cells.measured
        return
    there = set(cells.measured.obs[CONTEXT])
    contexts = [c for c in sorted(set(cells.predicted.obs[CONTEXT])) if c in there]
    if not contexts:
        raise ChallengeError("Predicted and measured cells share no context.", fix="Choose the context columns of both.")
    for context in contexts:
        parts = [side[(side.obs[CONTEXT] == context).to_numpy()].copy() for side in (cells.predicted, cells.measured)]
        both = set(parts[0].obs[TARGET]) & set(parts[1].obs[TARGET]) | {rules.control}
        yield context, *(part[np.isin(part.obs[TARGET].to_numpy(str), list(both))].copy() for part in parts)


def _context(context: str, made: Made, predicted: ad.AnnData, measured: ad.AnnData, rules: Rules) -> ContextScores:
    n_predicted, n_measured = (int((side.obs[TARGET] != rules.control).sum()) for side in (predicted, measured))
    n = len(set(measured.obs[TARGET]) - {rules.control})
    return ContextScores(context, made.metrics, made.overall, n, n_predicted, n_measured)


def _de_words(counts: bool, fdr: Fdr, versions: dict[str, str]) -> str:
    pdex = versions.get("pdex") or metadata.version("pdex")
    scope = "within each perturbation" if counts or fdr == "per perturbation" else "over all perturbations together"
    return f"Mann-Whitney U, pdex {pdex}; FDR {scope}"


def _baseline_words(counts: bool, mean_words: str) -> str:
    if counts:
        return "mean response of the measured perturbations (cell-eval2's generic baseline)"
    return f"mean of the {mean_words or 'measured perturbation means, which sees the answer and is hard to beat'}"
