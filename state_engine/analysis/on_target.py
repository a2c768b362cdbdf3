"""On target? For perturbations that name a gene: is that gene down (CRISPRi, knock-out) or up (CRISPRa), by how much, in how many cells.

A label names genes as they stand in the data, alone, joined by "+" or "_", or behind a word for how ("CRISPRi STAT1", "STAT1_KO"). A gene that
hardly a cell detects on either side says nothing about a knock-down, and is told apart from one that does not move. Measured cells are
compared with measured control cells, predicted cells with the same cells under the control.

Boundary: numbers; which rule calls a gene is for `metrics.rules` to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import FeatureSource, read_features
from state_engine.errors import RequestError
from state_engine.metrics.rank_tests import against_reference, q_values
from state_engine.metrics.rules import FOLD, SIGNIFICANT, detected
from state_engine.options import about, check, option, part
from state_engine.plain import agreed, first_places, part_of, plural
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, Progress, silent

Expected = Literal["down", "up", "either"]
Verdict = Literal["on target", "wrong way", "no change", "not clear", "not detected", "too few cells"]

COLUMNS: Final = (
    "perturbation", "context", "gene", "expected", "verdict", "log2_fold_change", "p_value", "fdr", "mean_perturbed", "mean_reference",
    "fraction_perturbed", "fraction_reference", "n_perturbed", "n_reference",
)  # fmt: skip
TARGETS: Final = "targets.parquet"
NO_GENE: Final = "name_no_gene"  # attribute of the table: how many perturbations name no gene of the file
FEWEST: Final = 20  # cells of either side: with fewer, half a knock-down is missed more often than found
_TOLD: Final = ("on target", "wrong way", "no change")
_UNCLEAR: Final = "the gene is hardly detected, the cells are too few, or the change is as large as chance makes it"
_DOWN: Final = frozenset(
    ("crispri", "ko", "knockout", "kd", "knockdown", "sirna", "shrna", "rnai", "cas9", "crispr", "dcas9krab")
)
_UP: Final = frozenset(("crispra", "oe", "overexpression", "overexpressed", "cdna", "orf", "activation"))
_PARTS: Final = re.compile(r"[+_\s,;|/:]+")
_SIDES: Final = {"down": -1, "up": 1, "either": 0}


@dataclass(frozen=True)
class TargetsRequest:
    """On-target check of a data set's measured perturbations, or of a prediction's."""

    VERB: ClassVar = "targets"
    data: str = field(
        metadata=about("data set with measured perturbations, or the result of a prediction", metavar="X.h5ad", data=True)
    )
    expected: Literal["auto", "down", "up", "either"] = option(
        "auto",
        "which way the named gene should go; auto: as the label or the column of types says, else either",
        label="Expected change",
    )
    type_key: str = option("", "column of obs with how a cell was perturbed (CRISPRi, CRISPRa, KO, OE); default: perturbation_type",
                           metavar="COLUMN", label="Column of types")  # fmt: skip
    cells: de.Expression = option(
        "corrected", "of a prediction: which cells are looked at, as --expression of `de`", label="Cells"
    )
    choices: Choices = part(Choices())

    def __post_init__(self) -> None:
        check(self, RequestError)


@dataclass(frozen=True)
class Target:
    """A gene that a perturbation names, and which way it should go."""

    perturbation: str
    gene: str
    expected: Expected


@dataclass(frozen=True, eq=False)
class _Side:
    """Cells of a condition: expression (log1p) of the targets, (n, t)."""

    perturbation: str
    context: str
    cells: NDArray[np.float32]
    control: NDArray[np.float32]


def targets_of(
    labels: Iterable[str], genes: Collection[str], kinds: dict[str, str] | None = None, expected: str = "auto"
) -> tuple[Target, ...]:
    """Return the genes that perturbations name.

    Args:
        labels: of the perturbations, without the control.
        genes: of the data set; upper and lower case are told apart, as drugs are called like genes in small letters.
        kinds: label -> how it was perturbed, where a column says so.
        expected: "auto", or the same for all.
    """
    found = []
    for label in labels:
        words = [label] if label in genes else [w for w in _PARTS.split(label) if w]
        named = [w for w in words if w in genes]
        way = _way([*words, *_PARTS.split((kinds or {}).get(label, ""))]) if expected == "auto" else expected
        found += [Target(label, gene, way) for gene in dict.fromkeys(named)]  # type: ignore[arg-type]
    return tuple(found)


def _way(words: Sequence[str]) -> Expected:
    said = {re.sub(r"[^a-z0-9]", "", word.lower()) for word in words}
    down, up = bool(said & _DOWN), bool(said & _UP)
    return "either" if down == up else "down" if down else "up"


def check_targets(request: TargetsRequest, on_progress: OnProgress = silent) -> pd.DataFrame:
    """Return the check that a request asks for: of a prediction where the file is one, else of a data set.

    Raises:
        StateError: as `on_target_of_result` and `on_target_of_data`, or the file cannot be read.
    """
    dataset = open_dataset(Path(request.data), request.choices)
    if {keys.KIND, keys.BASAL_CELL} <= set(dataset.columns):
        return on_target_of_result(open_result(Path(request.data)), request.cells, request.expected, on_progress)
    return on_target_of_data(dataset, request.expected, request.type_key, on_progress)


def on_target_of_data(
    dataset: Dataset, expected: str = "auto", type_key: str = "", on_progress: OnProgress = silent
) -> pd.DataFrame:
    """Return the check of measured perturbations, `COLUMNS`, a row for each perturbation, context and gene; empty where no label names a gene.

    Raises:
        LabelError: no control. ScaleError: the values are neither counts nor log1p. RequestError: no such column of types.
    """
    control = dataset.require_control()
    labels = [p for p in dataset.perturbations if p != control]
    wanted = targets_of(labels, set(dataset.genes.names), _kinds(dataset, labels, type_key), expected)
    genes = tuple(dict.fromkeys(t.gene for t in wanted))
    if not genes:
        return pd.DataFrame(columns=list(COLUMNS))
    place = first_places(dataset.genes.names)
    source = FeatureSource(str(dataset.expression), tuple(place[g] for g in genes), dataset.scale.require() == "counts")

    def sides() -> Iterator[_Side]:
        named, total = dict.fromkeys(t.perturbation for t in wanted), len(dataset.contexts)
        for done, context in enumerate(dataset.contexts):
            on_progress(Progress("Reading cells", done, total))
            rows = dataset.control_rows(context)
            if not len(rows):
                continue
            reference = read_features(dataset, source, rows)
            for label in named:
                mine = dataset.rows(label, context)
                if len(mine):
                    yield _Side(label, context, read_features(dataset, source, mine), reference)

    return _with_nameless(_checked(wanted, genes, sides(), measured=True), labels, wanted)


def on_target_of_result(
    result: Result, expression: de.Expression = "corrected", expected: str = "auto", on_progress: OnProgress = silent
) -> pd.DataFrame:
    """Return the check of a prediction, or of the measured cells beside it ("observed"); see `on_target_of_data`.

    Raises:
        RequestError: no genes, or no paired control.
    """
    if not result.has_expression:
        raise RequestError("There are no genes to look at.", "The model predicts an embedding and has no gene decoder.")
    observed = expression == "observed"
    there = result.conditions(keys.OBSERVED if observed else keys.PREDICTED)
    labels = list(dict.fromkeys(p for p, _ in there))
    wanted = targets_of(labels, set(result.genes), None, expected)
    genes = tuple(dict.fromkeys(t.gene for t in wanted))
    if not genes:
        return pd.DataFrame(columns=list(COLUMNS))
    named, layer = {t.perturbation for t in wanted}, de.layer_of(expression)

    # row of a prediction -> row of its control; all are matched at once, since matching goes through a table of the whole file
    paired = np.full(result.n_cells, -1, np.int64)
    if not observed:
        of_named = np.flatnonzero(result.mask(keys.PREDICTED) & result.obs[keys.PERTURBATION].isin(named).to_numpy())
        paired[of_named] = result.paired_controls(of_named)

    def sides() -> Iterator[_Side]:
        for done, (p, c) in enumerate(there):
            on_progress(Progress("Reading cells", done, len(there)))
            if p in named and (expression != "calibrated" or result.is_calibrated(p, c)):
                rows = result.rows(keys.OBSERVED if observed else keys.PREDICTED, c, p)
                control = result.rows(keys.OBSERVED_CONTROL, c) if observed else paired[rows]
                yield _Side(p, c, result.read(rows, genes, layer), result.read(control, genes, layer))

    return _with_nameless(_checked(wanted, genes, sides(), measured=observed), labels, wanted)


def _with_nameless(table: pd.DataFrame, labels: Collection[str], wanted: Sequence[Target]) -> pd.DataFrame:
    table.attrs[NO_GENE] = len(labels) - len({target.perturbation for target in wanted})
    return table


def dead(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the perturbations of which no gene moves the expected way in any context, though it could be told in one at least."""
    told = table[table["verdict"].isin(_TOLD)]
    hits = told.groupby("perturbation", sort=False)["verdict"].agg(lambda v: bool((v == "on target").any()))
    return tuple(str(p) for p, hit in hits.items() if not hit)


def words(table: pd.DataFrame) -> str:
    """Return what a check found, in a few sentences; how many perturbations name no gene is in the table's attribute `NO_GENE`.

    Only a perturbation that says which way its gene should go counts as moving it as expected.
    """
    if table.empty:
        return "No perturbation names a gene of the data."
    nameless = int(table.attrs.get(NO_GENE, 0))
    others = f" {plural(nameless, 'other names', 'others name')} no gene of this file." if nameless else ""
    sided = table[table["expected"] != "either"]
    rest = table[~table["perturbation"].isin(sided["perturbation"])]
    found = [_sided_words(sided)] if len(sided) else ["No perturbation here says which way its gene should go."]
    if len(rest):
        found.append(_either_words(rest, beside=bool(len(sided))))
    return " ".join(found) + others


def _sided_words(table: pd.DataFrame) -> str:
    told = table[table["verdict"].isin(_TOLD)]
    names, gone = told["perturbation"].nunique(), dead(table)
    unclear = table["perturbation"].nunique() - names
    if not names:
        return f"Of none of the {plural(unclear, 'perturbation that names', 'perturbations that name')} a gene can it be told: {_UNCLEAR}."
    more = f" Of {unclear:,} more it cannot be told: {_UNCLEAR}." if unclear else ""
    right = names - len(gone)
    whole = part_of(right, names, "perturbation")
    verb, their = agreed(right, "moves", "move"), agreed(right, "it names", "they name")
    return f"{whole} {verb} the gene {their} as expected.{more}"


def _either_words(table: pd.DataFrame, beside: bool) -> str:
    """Return how many perturbations change their gene at all, of those that do not say which way it should go."""
    total, moved = table["perturbation"].nunique(), table.loc[table["verdict"] == "on target", "perturbation"].nunique()
    changes = f"{agreed(moved, 'changes', 'change')} {agreed(moved, 'its gene', 'their genes')}, up or down."
    if beside:
        return f"Of {total:,} more that {agreed(total, 'does', 'do')} not say which way, {moved:,} {changes}"
    return f"{part_of(moved, total, 'perturbation')} {changes}"


def _kinds(dataset: Dataset, labels: Sequence[str], type_key: str) -> dict[str, str]:
    """Return label -> how it was perturbed, where one column says the same of all of its cells."""
    key = type_key or "perturbation_type"
    if key not in dataset.columns:
        if type_key:
            raise RequestError(
                f"There is no column '{type_key}'.", "It is to say how cells were perturbed.", "Name a column of obs."
            )
        return {}
    names, codes = dataset.coded(key)
    found = {}
    for label in labels:
        kinds = np.unique(codes[dataset.rows(label)])
        if len(kinds) == 1 and kinds[0] > 0:  # 0 is missing
            found[label] = names[kinds[0]]
    return found


def _checked(wanted: Sequence[Target], genes: tuple[str, ...], sides: Iterable[_Side], measured: bool) -> pd.DataFrame:
    by_label: dict[str, list[Target]] = {}
    for target in wanted:
        by_label.setdefault(target.perturbation, []).append(target)
    rows, place = [], {gene: column for column, gene in enumerate(genes)}
    for side in sides:
        for target in by_label[side.perturbation]:
            at = [place[target.gene]]
            test = against_reference({"it": side.cells[:, at]}, side.control[:, at])
            numbers = (
                test.log2_fold_change,
                test.p_value,
                test.mean,
                test.mean_reference,
                test.fraction,
                test.fraction_reference,
            )
            told = (float(np.ravel(v)[0]) for v in numbers)
            asked = side.perturbation, side.context, target.gene, target.expected
            rows.append((*asked, *told, len(side.cells), len(side.control)))
    names = [name for name in COLUMNS if name not in ("verdict", "fdr")]
    table = pd.DataFrame(rows, columns=names)
    table["fdr"] = q_values(table["p_value"].to_numpy(float))
    table["verdict"] = _verdicts(table, measured)
    return table[list(COLUMNS)].sort_values(["perturbation", "context"], kind="stable", ignore_index=True)


def _verdicts(table: pd.DataFrame, measured: bool) -> NDArray[np.str_]:
    """(rows,) verdicts; of predicted cells the fold change alone decides, since their number is a choice."""
    fold, side = table["log2_fold_change"].to_numpy(float), table["expected"].map(_SIDES).to_numpy(int)
    moved = np.abs(fold) >= FOLD
    sure = table["fdr"].to_numpy(float) < SIGNIFICANT if measured else np.ones(len(table), bool)
    there = detected(table["fraction_perturbed"].to_numpy(float), table["fraction_reference"].to_numpy(float))
    few = table[["n_perturbed", "n_reference"]].min(axis=1).to_numpy() < (FEWEST if measured else de.MIN_CELLS)
    right = (side == 0) | (np.sign(fold) == side)
    cases = [few, ~there, moved & ~sure, moved & right, moved]
    return np.select(cases, ["too few cells", "not detected", "not clear", "on target", "wrong way"], "no change")
