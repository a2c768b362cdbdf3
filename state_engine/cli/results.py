"""What the pages Data, Genes, Attention and Submit make: `prepare` (variable genes), `de` (genes that change), `attention`, `tables`."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.cli.options import (
    CHECKPOINT,
    EXECUTOR,
    Write,
    data_set,
    h5ad_of,
    named_checkpoint,
    number,
    path,
    request,
    takes,
    word,
)
from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import RequestError, listed
from state_engine.files import free_output, write_bytes
from state_engine.plain import csv_for_people, plural
from state_engine.prediction.request import PredictionRequest
from state_engine.progress import OnProgress, Progress

REFERENCES = ("predicted control", "observed control")
EXPRESSIONS = ("corrected", "raw", "calibrated", "observed")


@takes(
    {
        "--data": path("X.h5ad", "data set", required=True),
        "--genes": number("N", "how many of the most variable genes (default 2000)", default=2000),
        "--output": path("Y", "a copy of the data set (.h5ad or .zarr) with them in obsm['X_hvg']", required=True),
    },
    Choices,
)
def run_prepare(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Choose the most variable genes of a data set."""
    from state_engine.data.variable_genes import HVG_KEY, add_hvgs

    with h5ad_of(options.output, on_progress) as place:
        free_output(place, options.data)
        dataset = open_dataset(data_set(options.data), request(Choices, options))
        found = add_hvgs(dataset, options.genes, place, on_progress)
    write(f"{options.output}: {HVG_KEY}, {found.method}")


@takes(
    {
        "--data": path("P.h5ad", "result of a prediction (.h5ad or .zarr)", required=True),
        "--output": path("G.csv", "the table; one for all conditions", required=True),
        "--perturbation": word("NAME", "default: all that were predicted; repeatable", action="append", default=[]),
        "--context": word("NAME", "default: all; repeatable", action="append", default=[]),
        "--cells": path("C.csv", "names of cells, one a line, which are compared with all others; no condition then"),
        "--reference": word(None, "cells to compare with (default: the same cells under the control)", choices=REFERENCES,
                            default=REFERENCES[0]),
        "--expression": word(None, "which cells are compared with them (default corrected)", choices=EXPRESSIONS,
                             default=EXPRESSIONS[0]),
    }
)  # fmt: skip
def run_de(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Test all genes of each condition of a prediction."""
    import pandas as pd

    from state_engine.analysis.differential import conditions_among, differential, in_order, layer_of
    from state_engine.analysis.selected import cells_of, compare_selected, rows_named
    from state_engine.prediction.result import open_result

    free_output(options.output, options.data, *filter(None, [options.cells]))
    result = open_result(Path(data_set(options.data)))
    if options.cells:
        rows = rows_named(result, cells_of(options.cells))
        table = compare_selected(result, rows, layer_of(options.expression), on_progress)
        write_bytes(options.output, csv_for_people(table).encode())
        write(f"{options.output}: {len(rows):,} cells against all others; {table.attrs['method']}")
        return
    there = result.conditions("observed" if options.expression == "observed" else "predicted")
    wanted = conditions_among(there, options.perturbation, options.context)
    tables = []
    for done, (perturbation, context) in enumerate(wanted):
        on_progress(Progress("Comparing genes", done, len(wanted)))
        table = differential(result, perturbation, context, options.reference, options.expression)
        tables.append(in_order(table, options.expression == "observed").assign(perturbation=perturbation, context=context))
    write_bytes(options.output, csv_for_people(pd.concat(tables, ignore_index=True)).encode())
    write(f"{options.output}: {result.n_genes:,} genes of {plural(len(wanted), 'condition')}; {tables[0].attrs['method']}")
    if options.expression != "observed":
        write(
            "Genes of each condition by |log2_fold_change|: p of predicted cells falls with their number and says nothing about being right."
        )


@takes(
    PredictionRequest,
    CHECKPOINT,
    {
        "--set": number("N", "which set of cells, from 1 (default 1)", default=1),
        "--output": path("A.npz", "weights of all layers and heads, under the perturbation and under the control", required=True),
    },
)
def run_attention(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Compute the attention maps of one set of a prediction; the options are those of `predict`, with one perturbation and context."""
    from state_engine.attention.cell_set import AttentionRequest, attention_of_set

    options.model = str(named_checkpoint(Path(options.model), options.checkpoint))
    asked = request(PredictionRequest, options)
    if len(asked.perturbations) != 1 or len(asked.contexts) != 1:
        raise RequestError("Attention is that of one set.", "", "Give one --perturbation and one --context.")
    free_output(options.output, asked.data, asked.model)
    attention_of_set(
        AttentionRequest(asked, asked.perturbations[0], asked.contexts[0], options.set - 1), options.output, on_progress
    )
    write(f"{options.output}: set {options.set} of {asked.perturbations[0]} in {asked.contexts[0]}")


@takes({"--run": path("RUN", "folder of a prediction of the app, with result.h5ad and manifest.json", required=True)}, EXECUTOR)
def run_tables(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Write all tables of a run as one zip into its folder."""
    from state_engine.analysis.export import write_tables
    from state_engine.shards.run import in_run

    missing = [name for name in ("result.h5ad", "manifest.json") if not (options.run / name).is_file()]
    if missing:
        raise RequestError(
            f"{options.run} is no finished prediction.", f"It has no {listed(missing)}.", "Give the folder of a run."
        )
    executor = in_run(options.run, options.executor).executor
    write(f"{write_tables(options.run, on_progress, executor)}")


@takes(
    {
        "--run": word(
            "ID|DIR", "a run of the app by its id, or what predict, evaluate, test, train, screen or compare wrote", required=True
        ),
        "--output": path("FILE.html", "the report, one file that opens offline", required=True),
    }
)
def run_report(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Write the report of a run as one HTML file."""
    from state_engine.config import load_settings
    from state_engine.jobs.reporting import report_of_folder, report_of_run
    from state_engine.jobs.run_folder import RunFolder

    settings, folder = load_settings(), Path(options.run)
    run = None if folder.exists() else RunFolder.open(settings, options.run)
    free_output(options.output, *_not_reports(folder if run is None else run.path))
    if run is None:
        report_of_folder(settings, folder, options.output, on_progress)
    else:
        report_of_run(settings, run, options.output, on_progress)
    write(f"{options.output}: {options.output.stat().st_size:,} bytes")


def _not_reports(place: Path) -> list[Path]:
    """Return what a run is made of, so that no report is written over it; another report may be."""
    return [part for part in place.iterdir() if part.suffix != ".html"] if place.is_dir() else [place]
