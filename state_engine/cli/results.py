"""The commands `prepare` (variable genes of a data set) and `de` (which genes a prediction changes), as the pages Data and Genes have them."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.cli.options import Write, data_set, path, request, takes, word
from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import RequestError, listed
from state_engine.files import free_output, replacing
from state_engine.plain import csv_for_people
from state_engine.progress import OnProgress, Progress

REFERENCES = ("predicted control", "observed control")
EXPRESSIONS = ("corrected", "raw", "calibrated", "observed")


@takes(
    {
        "--data": path("X.h5ad", "data set", required=True),
        "--genes": word("N", "how many of the most variable genes (default 2000)", type=int, default=2000),
        "--output": path("Y.h5ad", "a copy of the data set with them in obsm['X_hvg']", required=True),
    },
    Choices,
)
def run_prepare(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Choose the most variable genes of a data set."""
    from state_engine.data.variable_genes import HVG_KEY, add_hvgs

    free_output(options.output, options.data)
    dataset = open_dataset(data_set(options.data), request(Choices, options))
    found = add_hvgs(dataset, options.genes, options.output, on_progress)
    write(f"{options.output}: {HVG_KEY}, {found.method}")


@takes(
    {
        "--data": path("P.h5ad", "result of a prediction", required=True),
        "--output": path("G.csv", "the table; one for all conditions", required=True),
        "--perturbation": word("NAME", "default: all that were predicted; repeatable", action="append", default=[]),
        "--context": word("NAME", "default: all; repeatable", action="append", default=[]),
        "--reference": word(None, "cells to compare with (default: the same cells under the control)", choices=REFERENCES,
                            default=REFERENCES[0]),
        "--expression": word(None, "which cells are compared with them (default corrected)", choices=EXPRESSIONS,
                             default=EXPRESSIONS[0]),
    }
)  # fmt: skip
def run_de(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Test all genes of each condition of a prediction."""
    import pandas as pd

    from state_engine.analysis.differential import differential
    from state_engine.prediction.result import open_result

    free_output(options.output, options.data)
    result = open_result(Path(options.data))
    there = result.conditions("observed" if options.expression == "observed" else "predicted")
    for names, known in ((options.perturbation, {p for p, _ in there}), (options.context, {c for _, c in there})):
        if unknown := [name for name in names if name not in known]:
            raise RequestError(f"The result has no {listed(unknown)}.", f"It has: {listed(sorted(known), 12)}.")
    wanted = [(p, c) for p, c in there if p in (options.perturbation or (p,)) and c in (options.context or (c,))]
    if not wanted:
        raise RequestError("There is no such condition.", f"The result has: {listed([f'{p} in {c}' for p, c in there], 8)}.")
    tables = []
    for number, (perturbation, context) in enumerate(wanted):
        on_progress(Progress("Comparing genes", number, len(wanted)))
        table = differential(result, perturbation, context, options.reference, options.expression)
        tables.append(table.assign(perturbation=perturbation, context=context))
    with replacing(options.output) as beside:
        beside.write_text(csv_for_people(pd.concat(tables, ignore_index=True)), encoding="utf-8")
    write(f"{options.output}: {result.n_genes:,} genes of {len(wanted):,} conditions; {tables[0].attrs['method']}")
