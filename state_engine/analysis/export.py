"""The tables of a run in one zip of CSV files: what a spreadsheet or R reads without knowing .h5ad.

README.txt                          what each file holds, with units; what was left out and why
manifest.json                       how the run was made
cells.csv                           labels of all cells, with their place on the UMAP
pseudobulk.csv                      mean log1p expression: a row a gene, a column a group of cells
effect_sizes.csv                    every predicted condition, the largest effect first
genes/PERTURBATION in CONTEXT.csv   differential expression of all genes against the paired predicted control
measured/scores.csv                 agreement with measured cells, beside baselines
measured/PERTURBATION in CONTEXT.csv    predicted and measured change of each gene
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pandas as pd

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis import projection, stored
from state_engine.analysis.in_shards import make_tables
from state_engine.errors import RequestError
from state_engine.files import replacing
from state_engine.plain import csv_for_people
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, Progress, silent
from state_engine.shards.executors import Executor

FILE_NAME: Final = "tables.zip"

_README = """Tables of a run of STATE Explorer. How the run was made: manifest.json.

cells.csv         a row a cell: perturbation, context, batch, kind (predicted, predicted control, observed control, observed), the basal
                  cell that a prediction starts from, and its place on the UMAP.
pseudobulk.csv    mean log1p expression of each group of cells ("kind | perturbation | context"); predictions are the corrected
                  expression: each basal cell plus its own predicted effect.
effect_sizes.csv  every predicted condition: length of the mean effect over all genes (log1p), genes up and down (absolute log2
                  fold change of 0.25 or more, detected in 1 % of the cells of one side), largest effects, and the gene with the largest.
genes/            one table a condition, all genes: predicted cells against the same basal cells under the control label. Means are natural (counts
                  per 10,000 when the data were normalised to that depth), fractions from 0 to 1; the method is below.
                  The number of predicted cells is a choice, so p-values order genes and are no evidence about nature.
measured/         where the data set measured the perturbation: log2 fold changes and effects (log1p) of the measured cells, the prediction
                  (corrected, raw, and calibrated where there is one) and simple baselines; scores.csv says how well each agrees.

Method of the tables in genes/: {method}
"""


def write_tables(run_dir: Path, on_progress: OnProgress = silent, executor: Executor | None = None) -> Path:
    """Writes run_dir/tables.zip; tables of genes that are missing are made first, by an executor (None: this process).

    Returns:
        Its path; the file appears only when complete.

    Raises:
        RunError: the run has no readable result.
    """
    run_dir = Path(run_dir)
    result = open_result(run_dir / "result.h5ad")
    output, left_out = run_dir / FILE_NAME, list[str]()
    with replacing(output) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(run_dir / "manifest.json", "manifest.json")
        _put(archive, "cells.csv", _cells(run_dir, result), index_label="cell")
        method = "none was made."
        if result.has_expression:
            on_progress(Progress("Averaging cells"))
            _put(archive, "pseudobulk.csv", pseudobulk(result), index_label="gene")
            make_tables(run_dir, on_progress, executor)
            method, left_out = _genes(archive, run_dir, result, on_progress)
            left_out += _effect_sizes(archive, run_dir, on_progress)
        else:
            left_out.append("Tables of genes: the model predicts an embedding and has no gene decoder.")
        note = "\nLeft out:\n" + "\n".join(left_out) + "\n" if left_out else ""
        archive.writestr("README.txt", _README.format(method=method) + note)
    return output


def pseudobulk(result: Result) -> pd.DataFrame:
    """(g, groups) mean log1p expression of each group of cells, columns "kind | perturbation | context"."""
    columns = {}
    for kind in keys.KINDS:
        for perturbation, context in result.conditions(kind):
            columns[f"{kind} | {perturbation} | {context}"] = result.mean(result.rows(kind, context, perturbation))
    return pd.DataFrame(columns, index=pd.Index(result.genes)).astype("float32")


def _cells(run_dir: Path, result: Result) -> pd.DataFrame:
    path = run_dir / "projection.npz"
    if not path.exists():
        return result.obs
    xy = projection.load(path).everywhere(result.n_cells)
    return result.obs.assign(umap_1=xy[:, 0], umap_2=xy[:, 1])


def _genes(archive: zipfile.ZipFile, run_dir: Path, result: Result, on_progress: OnProgress) -> tuple[str, list[str]]:
    """Writes a table and, where it was measured, a comparison of each condition. Returns the method, and what was left out."""
    conditions, scores, left_out, method = result.conditions(), [], [], "none was made."
    for number, ((perturbation, context), name) in enumerate(zip(conditions, _file_names(conditions), strict=True)):
        on_progress(Progress("Packing tables", number, len(conditions)))
        try:
            table = de.read_table(stored.answer(run_dir, perturbation, context, result=result))
        except RequestError as error:
            left_out.append(f"{perturbation} in {context}: {error}")
            continue
        method = str(table.attrs["method"]) + "."
        _put(archive, f"genes/{name}.csv", table)
        path = stored.comparison_path(run_dir, perturbation, context)
        if path.exists():
            found = stored.read_comparison(path)
            _put(archive, f"measured/{name}.csv", found.genes)
            scores.append(found.table().assign(perturbation=perturbation, context=context))
    if scores:
        _put(archive, "measured/scores.csv", pd.concat(scores, ignore_index=True))
    return method, left_out


def _effect_sizes(archive: zipfile.ZipFile, run_dir: Path, on_progress: OnProgress) -> list[str]:
    try:
        _put(archive, "effect_sizes.csv", de.read_table(stored.effects_for(run_dir, on_progress)))
    except RequestError as error:
        return [f"effect_sizes.csv: {error}"]
    return []


def _file_names(conditions: list[tuple[str, str]]) -> Iterator[str]:
    """A name of letters, digits and blanks for each condition; a second of the same name gets a number."""
    seen: dict[str, int] = {}
    for perturbation, context in conditions:
        name = re.sub(r"[^A-Za-z0-9+_.-]+", " ", f"{perturbation} in {context}").strip(" .")[:120]
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
        yield name if seen[name.lower()] == 1 else f"{name} ({seen[name.lower()]})"


def _put(archive: zipfile.ZipFile, name: str, table: pd.DataFrame, index_label: str = "") -> None:
    archive.writestr(name, csv_for_people(table, index_label))
