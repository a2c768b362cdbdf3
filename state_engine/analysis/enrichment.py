"""Gene sets and a prediction: which sets a condition changes, and how high sets stand in each group of cells. Answers are kept in the run's folder.

    RUN/gene_sets/sets-DIGEST.gmt          sets that somebody handed in
    RUN/gene_sets/METHOD-DIGEST.parquet    an answer; its name changes with the question, the sets and the result

Boundary: which test is what is for `gene_sets.enrich` to say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Final, Literal

import pandas as pd

from state_engine.analysis import differential as de
from state_engine.analysis.export import pseudobulk
from state_engine.errors import RequestError, RunError, listed
from state_engine.files import replacing, write_bytes
from state_engine.gene_sets.collection import built_in
from state_engine.gene_sets.enrich import LEAST, LIBRARY, PERMUTATIONS, over_representation, ranked, scores
from state_engine.gene_sets.sets import GeneSet
from state_engine.gene_sets.text import gmt_text, read_sets
from state_engine.metrics.rules import FOLD
from state_engine.options import about, check, option
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, Progress, silent

Method = Literal["over-representation", "gsea", "mean", "ssgsea"]
SCORES: Final = ("mean", "ssgsea")
FOLDER: Final = "gene_sets"
_VERSION: Final = 1  # of the numbers: change it, and stored answers are made again


@dataclass(frozen=True)
class EnrichRequest:
    """Gene sets tested in conditions of a prediction, or scored in its groups of cells."""

    VERB: ClassVar = "enrich"
    data: str = field(metadata=about("result of a prediction (.h5ad or .zarr)", metavar="P.h5ad", data=True))
    method: Method = option(
        "over-representation",
        "over-representation: sets among the genes that go up or down; gsea: sets at the ends of all genes by log2 fold change; mean or "
        "ssgsea: a score of each set in each group of cells",
        label="Method",
    )
    gene_sets: str = option("", "GMT, CSV or list of genes; default: the collection that comes with the program", metavar="FILE")
    perturbations: tuple[str, ...] = option(
        (), "perturbation; default: all that were predicted", flag="--perturbation", metavar="NAME"
    )
    contexts: tuple[str, ...] = option((), "context; default: all", flag="--context", metavar="NAME")
    reference: de.Reference = option("predicted control", "cells to compare with, as of `de`")
    expression: de.Expression = option("corrected", "which cells are compared with them, as of `de`")
    least_genes: int = option(LEAST, "genes of a set that the result must have", metavar="N", least=1, label="Smallest set")
    fold: float = option(
        FOLD,
        "absolute log2 fold change from which a gene goes up or down",
        metavar="X",
        least=0.0,
        label="Smallest |log2 fold change|",
    )
    permutations: int = option(PERMUTATIONS, "permutations of gsea", metavar="N", least=10, most=100_000, label="Permutations")
    seed: int = option(42, "of the permutations", metavar="N", least=0)

    def __post_init__(self) -> None:
        check(self, RequestError)


@dataclass(frozen=True)
class SetQuestion:
    """One answer about gene sets.

    Args:
        method: of `EnrichRequest`, as are `reference` to `seed`.
        perturbation, context: the condition; "" for scores, which are of all groups.
        sets: name of the sets in the run's folder, see `keep_sets`; "" for those of the program.
    """

    method: Method
    perturbation: str = ""
    context: str = ""
    sets: str = ""
    reference: de.Reference = "predicted control"
    expression: de.Expression = "corrected"
    least_genes: int = LEAST
    fold: float = FOLD
    permutations: int = PERMUTATIONS
    seed: int = 42


def questions(request: EnrichRequest, result: Result) -> tuple[SetQuestion, ...]:
    """Return what a request asks of a result: a question for each condition, or one of scores.

    Raises:
        RequestError: a perturbation or context that the result has not.
    """
    more = (request.reference, request.expression, request.least_genes, request.fold, request.permutations, request.seed)
    if request.method in SCORES:
        return (SetQuestion(request.method, "", "", "", *more),)
    there = result.conditions("observed" if request.expression == "observed" else "predicted")
    wanted = de.conditions_among(there, request.perturbations, request.contexts)
    return tuple(SetQuestion(request.method, p, c, "", *more) for p, c in wanted)


def answer(
    result: Result,
    question: SetQuestion,
    sets: Sequence[GeneSet],
    table: pd.DataFrame | None = None,
    on_progress: OnProgress = silent,
) -> pd.DataFrame:
    """Return the table of an answer: `gene_sets.enrich.COLUMNS`, or for scores gene_set and a column for each group of cells.

    Args:
        result: of a prediction.
        question: what is asked.
        sets: gene sets.
        table: of differential expression of the condition, where it is at hand.
        on_progress: called as it goes on.

    Raises:
        RequestError: as `differential`. GeneError: no set has enough genes here.
    """
    if not result.has_expression:
        raise RequestError("There are no genes to look at.", "The model predicts an embedding and has no gene decoder.")
    if question.method in SCORES:
        on_progress(Progress("Averaging cells"))
        found = scores(pseudobulk(result), sets, question.method, question.least_genes)
        made = found.rename_axis("gene_set").reset_index()
    else:
        if table is None:
            condition = question.perturbation, question.context
            table = de.differential(result, *condition, question.reference, question.expression, on_progress=on_progress)
        on_progress(Progress("Testing gene sets"))
        genes = table["gene"].tolist()
        if question.method == "gsea":
            values = table["log2_fold_change"].to_numpy(float)
            made = ranked(genes, values, sets, question.least_genes, question.permutations, question.seed)
        else:
            made = over_representation(genes, de.directions(table, question.fold), sets, question.least_genes)
    made.attrs["method"] = words(question)
    return made


def words(question: SetQuestion) -> str:
    """Return how an answer was made, in a sentence."""
    by = f"{LIBRARY} {metadata.version(LIBRARY)}"
    least = f"sets with {question.least_genes} or more genes"
    if question.method == "over-representation":
        return (
            f"{by}, hypergeometric test of the genes that change among all that were tested, {least}; FDR by Benjamini-Hochberg"
        )
    if question.method == "gsea":
        return (
            f"{by}, enrichment of genes ranked by log2 fold change, {question.permutations:,} permutations of the genes, {least}"
        )
    score = (
        "mean log1p expression of the genes of a set" if question.method == "mean" else f"{by}, single-sample enrichment score"
    )
    return f"{score}, of the mean expression of each group of cells, {least}"


def keep_sets(run_dir: Path, sets: Sequence[GeneSet]) -> str:
    """Write sets into a run's folder and return their name there."""
    text = gmt_text(sets)
    name = f"sets-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path = Path(run_dir) / FOLDER / f"{name}.gmt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, text.encode())
    return name


def sets_of_run(run_dir: Path, name: str) -> tuple[GeneSet, ...]:
    """Return sets by the name that `keep_sets` gave; "" are those of the program.

    Raises:
        RunError: there are none of this name.
    """
    if not name:
        return built_in()
    kept = {path.stem: path for path in (Path(run_dir) / FOLDER).glob("sets-*.gmt")}
    if name not in kept:
        raise RunError(
            "These gene sets are not in the run's folder.", f"It has: {listed(sorted(kept)) or 'none'}.", "Hand them in again."
        )
    return read_sets(kept[name])


def answer_path(run_dir: Path, question: SetQuestion) -> Path:
    """Return where `answer_for` keeps an answer; it may not be there yet.

    Raises:
        RunError: the run has no result.
    """
    key = [_VERSION, metadata.version(LIBRARY), *astuple(question), *de.stamp_of_result(run_dir)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return Path(run_dir) / FOLDER / f"{question.method}-{digest}.parquet"


def answer_for(run_dir: Path, question: SetQuestion, on_progress: OnProgress = silent) -> Path:
    """Make an answer where it is not there, and return its file. See `answer`.

    Raises:
        RequestError, GeneError: as `answer`. RunError: no readable result, or no such sets.
    """
    path = answer_path(run_dir, question)
    if not path.exists():
        sets = sets_of_run(run_dir, question.sets)
        table = None
        if question.method not in SCORES:
            condition = question.perturbation, question.context
            table = de.read_table(
                de.table_for(run_dir, *condition, question.reference, question.expression, on_progress=on_progress)
            )
        made = answer(open_result(Path(run_dir) / "result.h5ad"), question, sets, table, on_progress)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside:
            made.to_parquet(beside, engine="pyarrow")
    return path
