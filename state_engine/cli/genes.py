"""The commands `enrich` (gene sets of a prediction) and `targets` (do perturbations move the gene they name?)."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.analysis import on_target
from state_engine.analysis.enrichment import SCORES, EnrichRequest, answer, questions, words
from state_engine.cli.options import Write, path, request, takes
from state_engine.files import free_output, write_bytes
from state_engine.gene_sets.collection import built_in
from state_engine.gene_sets.text import read_sets
from state_engine.plain import csv_for_people, part_of, visible
from state_engine.prediction.result import open_result
from state_engine.progress import OnProgress, Progress


@takes(EnrichRequest, {"--output": path("S.csv", "the table; one for all conditions", required=True)})
def run_enrich(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Test gene sets in each condition, or score them."""
    import pandas as pd

    asked = request(EnrichRequest, options)
    free_output(options.output, asked.data, asked.gene_sets)
    sets = read_sets(Path(asked.gene_sets)) if asked.gene_sets else built_in()
    result = open_result(Path(asked.data))
    wanted, tables = questions(asked, result), []
    for done, question in enumerate(wanted):
        on_progress(Progress("Testing gene sets", done, len(wanted)))
        table = answer(result, question, sets)
        if question.method not in SCORES:
            table = table.assign(perturbation=question.perturbation, context=question.context)
        tables.append(table)
    full = [table for table in tables if len(table)]
    write_bytes(options.output, csv_for_people(pd.concat(full or tables[:1], ignore_index=True)).encode())
    write(f"{options.output}: {len(sets):,} gene sets; {words(wanted[0])}")
    if len(full) < len(tables):
        empty = part_of(len(tables) - len(full), len(tables), "condition")
        write(f"  {empty} without a row: no gene of a set goes up or down there by {asked.fold:g} (--fold).")


@takes(on_target.TargetsRequest, {"--output": path("T.csv", "a row for each perturbation, context and gene", required=True)})
def run_targets(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Check perturbations against the genes they name, and name those that do nothing."""
    asked = request(on_target.TargetsRequest, options)
    free_output(options.output, asked.data)
    table = on_target.check_targets(asked, on_progress)
    write_bytes(options.output, csv_for_people(table).encode())
    write(f"{options.output}: {on_target.words(table)}")
    for name in on_target.dead(table):
        write(f"  {visible(name)} does not move its gene")
