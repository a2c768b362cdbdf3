"""Which genes change: a full table of all genes for one perturbation in one context, by the Mann-Whitney U test (`metrics.rank_tests`).

What is compared with what:
- expression "corrected", "raw" or "calibrated": predicted cells against the predicted control (the same basal cells under the
  control label; in corrected and calibrated expression these are the basal cells as observed) or against all observed control cells of the context.
- expression "observed": measured cells of the perturbation against the observed control cells of the context.

Two things to know about predictions. The test treats the two groups as independent although predictions are paired with their
basal cells, and the number of predicted cells is the user's choice: p-values order genes, they are no evidence about nature.
And a prediction adds a small number to every zero, which a rank test calls a change: on real control cells of seven cell types,
adding to each gene a constant drawn with standard deviation 0.01 made half of 6,998 genes significant, and none once values under
`FLOOR` counted as "not detected". So the test and the fractions use that floor, in both groups; a measured count lies above it in
every cell of fewer than 45,000 counts, so tables of measured cells do not depend on it. Means and fold changes use the values as
they are.

Units: means are natural (mean of expm1 of the log1p values: counts per 10,000 when the data were normalised to that depth).
log2_fold_change = log2((mean_perturbed + PSEUDOCOUNT) / (mean_reference + PSEUDOCOUNT)). A mean of logarithms and 1e-9 (pdex's default) would
let a gene without a count in the reference change by 20 and more; the arithmetic mean is what "fold" means to a biologist, and the
pseudocount keeps genes near zero from leading the list.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.effects.bands import band_of_condition, bands_of, words
from state_engine.errors import RequestError, RunError, listed
from state_engine.files import replacing
from state_engine.metrics.rank_tests import ENGINE, FLOOR, PSEUDOCOUNT, RankTests, against_reference
from state_engine.metrics.rules import FOLD, SIGNIFICANT, changed, detected, significant
from state_engine.prediction.result import Layer, Result, open_result
from state_engine.progress import OnProgress, silent

Reference = Literal["predicted control", "observed control"]
Expression = Literal["corrected", "raw", "calibrated", "observed"]

MIN_CELLS: Final = 3
FOLDER: Final = "differential"
COLUMNS: Final = (
    "gene", "log2_fold_change", "mean_perturbed", "mean_reference", "fraction_perturbed", "fraction_reference",
    "p_value", "fdr", "statistic",
)  # fmt: skip
OF_PREDICTIONS: Final = ("effect", "band")
"""Columns of tables of predicted cells behind `COLUMNS`."""
_VERSION: Final = 3  # of the numbers: change it, and stored tables are made again


def differential(
    result: Result,
    perturbation: str,
    context: str,
    reference: Reference = "predicted control",
    expression: Expression = "corrected",
    floor: float = FLOOR,
    on_progress: OnProgress = silent,
) -> pd.DataFrame:
    """Return the table of all genes, in the order of the result.

    Columns: gene; log2_fold_change; mean_perturbed and mean_reference (natural, see the module); fraction_perturbed and
    fraction_reference (share of cells not under `floor`, 0 to 1); p_value (two-sided Mann-Whitney U, tie-, continuity-corrected);
    fdr (Benjamini-Hochberg over all genes); statistic (U of the perturbed cells, 0 to n_perturbed x n_reference). A gene that is
    the same in all cells has p 1 and fold change 0. Of predicted cells also: effect (difference of the mean log1p expression); band (whether its
    direction would hold in a replicate, see `effects.bands`: "not calibrated" but for the default output of a calibrated model).

    `attrs` of the table (JSON values): perturbation, context, reference, expression, n_perturbed, n_reference, method, scale; of predicted cells
    band and band_share of the condition, and bands: where they come from, a sentence.

    Raises:
        RequestError: the result has no genes, the two groups do not belong together, or one has fewer than 3 cells.
    """
    perturbed, control = groups(result, perturbation, context, reference, expression)
    layer = layer_of(expression)
    table, effect = _compared(result, perturbed, control, layer, floor, on_progress)
    table.attrs |= {"perturbation": perturbation, "context": context, "reference": reference, "expression": expression}
    return table if expression == "observed" else _with_bands(table, result, effect, layer)


def _with_bands(table: pd.DataFrame, result: Result, effect: NDArray[np.float64], layer: Layer) -> pd.DataFrame:
    """Return the table of a prediction with each gene's effect (g,) and its band; attrs get those of the condition."""
    bands = None
    if layer == result.default_layer:  # of this one was asked how often its directions hold
        bands = result.bands(table.attrs["perturbation"], table.attrs["context"])
    band, share = band_of_condition(effect, bands)
    made = table.assign(effect=effect, band=bands_of(effect, bands))
    made.attrs = table.attrs | {"band": band, "band_share": share, "bands": words(bands)}
    return made


def layer_of(expression: Expression) -> Layer:
    """Return where the values of a question lie; measured cells are the same everywhere."""
    return "corrected" if expression == "observed" else expression


def groups(
    result: Result, perturbation: str, context: str, reference: Reference, expression: Expression
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the perturbed and of the reference cells.

    Raises:
        RequestError: as `differential`.
    """
    for value, known in ((reference, get_args(Reference)), (expression, get_args(Expression))):
        if value not in known:
            raise RequestError(f"'{value}' cannot be compared.", f"Known: {listed(known)}.")
    if expression == "observed" and reference != keys.OBSERVED_CONTROL:
        raise RequestError("Measured cells are compared with the measured control.", "A predicted control would mix two sources.")
    kind = keys.OBSERVED if expression == "observed" else keys.PREDICTED
    perturbed = result.rows(kind, context, perturbation)
    _enough(perturbed, f"{keys.KIND_WORDS[kind]} cells of '{perturbation}' in '{context}'")
    if expression == "calibrated" and not result.is_calibrated(perturbation, context):
        raise RequestError(
            f"There is no calibrated prediction of '{perturbation}' in '{context}'.",
            "The model has no calibration, or was trained on this perturbation in no other context.",
            "Look at the corrected prediction.",
        )
    paired = reference == keys.PREDICTED_CONTROL
    control = result.paired_controls(perturbed) if paired else result.rows(keys.OBSERVED_CONTROL, context)
    _enough(control, f"{keys.KIND_WORDS[reference]} cells in '{context}'")
    return perturbed, control


def in_order(table: pd.DataFrame, measured: bool) -> pd.DataFrame:
    """Return genes in the order in which to read them: of predicted cells by |log2_fold_change|, of measured ones by p, then by that."""
    by = pd.DataFrame({"change": -table["log2_fold_change"].abs(), "p": table["p_value"]})
    names = ["p", "change"] if measured else ["change"]
    return table.loc[by.sort_values(names, kind="stable").index]


def compare_groups(
    result: Result,
    perturbed: NDArray[np.int64],
    reference: NDArray[np.int64],
    layer: Layer = "corrected",
    floor: float = FLOOR,
    on_progress: OnProgress = silent,
) -> pd.DataFrame:
    """Return the same table for any two groups of rows, such as a selection in the plot and the rest.

    Raises:
        RequestError: the result has no genes, or a group has fewer than 3 cells.
    """
    return _compared(result, perturbed, reference, layer, floor, on_progress)[0]


def _compared(
    result: Result,
    perturbed: NDArray[np.int64],
    reference: NDArray[np.int64],
    layer: Layer,
    floor: float,
    on_progress: OnProgress,
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the table of two groups, and (g,) the difference of their mean log1p expression; each cell is read once for both."""
    if not result.has_expression:
        raise RequestError("There are no genes to compare.", "The model predicts an embedding and has no gene decoder.")
    for rows, name in ((perturbed, "selected cells"), (reference, "reference cells")):
        _enough(rows, name)
    x, y = _Cells(result, perturbed, layer), _Cells(result, reference, layer)
    tests = against_reference({"perturbed": x}, y, floor, on_progress)
    _finite(result, x, y)
    table = gene_table(result.genes, tests)
    table.attrs.update(_description(len(perturbed), len(reference), floor))
    return table, x.means - y.means


def gene_table(genes: Sequence[str], tests: RankTests, group: str = "perturbed", reference: str = "reference") -> pd.DataFrame:
    """Return the table of a test of one group of cells against a reference, in the columns of `differential`.

    Args:
        genes: names, one for each column that was tested.
        tests: of one group.
        group, reference: what the columns of their means and fractions are called.
    """
    return pd.DataFrame(
        {
            "gene": list(genes),
            "log2_fold_change": tests.log2_fold_change[0],
            f"mean_{group}": tests.mean[0],
            f"mean_{reference}": tests.mean_reference,
            f"fraction_{group}": tests.fraction[0],
            f"fraction_{reference}": tests.fraction_reference,
            "p_value": tests.p_value[0],
            "fdr": tests.fdr[0],
            "statistic": tests.statistic[0],
        }
    )


def table_for(
    run_dir: Path,
    perturbation: str,
    context: str,
    reference: Reference = "predicted control",
    expression: Expression = "corrected",
    floor: float = FLOOR,
    on_progress: OnProgress = silent,
    result: Result | None = None,
) -> Path:
    """Return the table as a file, run_dir/differential/….parquet; it is written when it is not there or the result has changed. See `read_table`.

    Args:
        result: the run's, where it is open already.

    Raises:
        RequestError: as `differential`.
        RunError: the run has no readable result.
    """
    path = table_path(run_dir, perturbation, context, reference, expression, floor)
    if not path.exists():
        result = result or open_result(Path(run_dir) / "result.h5ad")
        table = differential(result, perturbation, context, reference, expression, floor, on_progress)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as beside:
            table.to_parquet(beside, engine="pyarrow")
    return path


def table_path(
    run_dir: Path,
    perturbation: str,
    context: str,
    reference: Reference = "predicted control",
    expression: Expression = "corrected",
    floor: float = FLOOR,
) -> Path:
    """Return where `table_for` keeps a table; it may not be there yet. Its name changes with the question and the result.

    Raises:
        RunError: the run has no result.
    """
    key = [_VERSION, perturbation, context, reference, expression, floor, PSEUDOCOUNT, *stamp_of_result(run_dir)]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{perturbation} {context} {expression}").strip("-")[:80]
    return Path(run_dir) / FOLDER / f"{name}-{digest}.parquet"


def stamp_of_result(run_dir: Path) -> tuple[int, int]:
    """Return size and time of a run's result, with which the names of stored answers change.

    Raises:
        RunError: the run has no result.
    """
    result = Path(run_dir) / "result.h5ad"
    if not result.exists():
        raise RunError(
            "The run has no result.", "result.h5ad is missing from its folder.", "Wait for the prediction, or run it again."
        )
    state = result.stat()
    return state.st_size, state.st_mtime_ns


def read_table(path: Path) -> pd.DataFrame:
    """Return a stored table with its `attrs`.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise RunError(
            f"The table {path.name} cannot be read.", "It is missing or damaged.", "Delete it; it is made again."
        ) from error


def directions(table: pd.DataFrame, fold: float = FOLD, fdr: float = SIGNIFICANT) -> NDArray[np.int8]:
    """Return 1, -1 or 0 for each gene of a table that goes up, goes down, or does not change (`metrics.rules.changed`).

    Measured cells: FDR under `fdr` and an absolute log2 fold change of at least `fold`. Predicted cells: the fold change, of genes that are
    detected; p would depend on the number of predicted cells, which is a choice.
    """
    change = table["log2_fold_change"].to_numpy(float)
    if table.attrs.get("expression", "observed") == "observed":
        there = significant(table["fdr"].to_numpy(float), fdr)
    else:
        there = detected(table["fraction_perturbed"].to_numpy(float), table["fraction_reference"].to_numpy(float))
    return changed(change, there, fold)


def conditions_among(
    there: Sequence[tuple[str, str]], perturbations: Sequence[str], contexts: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the conditions that have one of the perturbations and one of the contexts; without any, all.

    Raises:
        RequestError: a name that no condition has, or no condition of these names.
    """
    for names, known in ((perturbations, {p for p, _ in there}), (contexts, {c for _, c in there})):
        if unknown := [name for name in names if name not in known]:
            raise RequestError(f"The result has no {listed(unknown)}.", f"It has: {listed(sorted(known), 12)}.")
    wanted = [(p, c) for p, c in there if p in (perturbations or (p,)) and c in (contexts or (c,))]
    if not wanted:
        raise RequestError("There is no such condition.", f"The result has: {listed([f'{p} in {c}' for p, c in there], 8)}.")
    return wanted


def count_changes(table: pd.DataFrame, fold: float = FOLD) -> tuple[int, int]:
    """Return how many genes go (up, down); see `directions`."""
    calls = directions(table, fold)
    return int((calls > 0).sum()), int((calls < 0).sum())


def _enough(rows: NDArray[np.int64], name: str) -> None:
    if len(rows) < MIN_CELLS:
        raise RequestError(
            f"There are {len(rows)} {name}.", f"A test needs at least {MIN_CELLS} in each group.", "Predict more cells."
        )


class _Cells:
    """Cells of a result whose genes are read block by block, as `against_reference` takes them.

    Notes what is not finite, and (g,) the mean log1p expression of the genes that were read of all cells.
    """

    def __init__(self, result: Result, rows: NDArray[np.int64], layer: Layer) -> None:
        self.result, self.rows, self.layer = result, rows, layer
        self.shape = len(rows), result.n_genes
        self.wrong_cells, self.wrong_genes = np.zeros(len(rows), bool), np.zeros(result.n_genes, bool)
        self.means = np.zeros(result.n_genes)

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.float32]:
        values = self.result.block(self.rows, part[1], self.layer)[part[0]]
        wrong = ~np.isfinite(values)
        if wrong.any():
            self.wrong_cells |= wrong.any(axis=1)
            self.wrong_genes[part[1]] |= wrong.any(axis=0)
            values[wrong] = 0  # refused at the end, with the numbers of all genes
        self.means[part[1]] = values.mean(axis=0, dtype=np.float64)
        return values


def _finite(result: Result, x: _Cells, y: _Cells) -> None:
    """Refuse NaN and infinity by the genes that have them: results of before may hold what their data set held."""
    both = x.rows, y.rows
    genes = [str(result.genes[i]) for i in np.flatnonzero(x.wrong_genes | y.wrong_genes)]
    if genes:
        cells = int(x.wrong_cells.sum() + y.wrong_cells.sum())
        raise RequestError(
            "The cells cannot be compared: their expression is not all finite (NaN or infinite).",
            f"{cells:,} of {len(both[0]) + len(both[1]):,} cells, in {len(genes):,} of {len(result.genes):,} genes, such as {listed(genes, 3)}.",
            "Remove or repair these cells in the data set, and predict again.",
        )


def _description(n: int, m: int, floor: float) -> Mapping[str, object]:
    method = (
        f"{ENGINE} {metadata.version(ENGINE)}, two-sided Mann-Whitney U test with tie and continuity correction on log1p expression, values "
        f"under {floor:g} counted as not detected; FDR by Benjamini-Hochberg over all genes; log2 fold change of arithmetic "
        f"means of expm1 values, pseudocount {PSEUDOCOUNT:g}"
    )
    scale = "means are natural: counts per 10,000 when the data were normalised to that depth"
    return {"n_perturbed": n, "n_reference": m, "method": method, "scale": scale, "floor": floor, "pseudocount": PSEUDOCOUNT}
