"""The tabs below the answer of the Genes page, by their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from pages.parts.figures import csv_button
from pages.parts.format import sentences
from pages.parts.genes.compare import against_measured, which_perturbation
from pages.parts.genes.gene_list import columns_of, in_columns
from pages.parts.genes.many import all_conditions, groups_by_genes, set_tests
from pages.parts.genes.table import Question, made, read_table
from pages.parts.jobs import derived_run
from pages.parts.result import stamp
from pages.parts.selection import selected_rows
from pages.parts.targets import show_targets, stored_check
from pages.parts.widgets import go
from state_engine.analysis import selected
from state_engine.analysis.on_target import TargetsRequest
from state_engine.jobs.requests import SelectedCellsRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.prediction.result import Result


@dataclass(frozen=True, eq=False)
class View:
    """What the page shows above the tabs."""

    run: RunFolder
    result: Result
    question: Question
    table: pd.DataFrame
    gene: str
    fold: float
    marked: tuple[str, ...]


def _measurement(view: View) -> None:
    against_measured(view.run, view.result, view.question, view.gene)


def _conditions(view: View) -> None:
    which_perturbation(view.run, view.question, view.gene)
    all_conditions(view.run, view.question, view.marked)


def _groups(view: View) -> None:
    groups_by_genes(view.run, view.question, view.table, view.gene, view.marked)


def _sets(view: View) -> None:
    set_tests(view.run, view.question, view.fold)


def _selection(view: View) -> None:
    """Compare the cells selected on Explore's map with all others of the run."""
    rows = selected_rows(view.run)
    if rows is None:
        st.info("No cells are selected. Draw a lasso on Explore's map, and come back.", icon=":material/lasso_select:")
        if st.button("To the map", key="selection_to_explore"):
            go("explore")
        return
    name = selected.keep_cells(view.run.path, rows)
    layer = view.question.layer
    path = selected.selected_path(view.run.path, name, layer)
    if not path.exists() and not made(
        view.run, SelectedCellsRequest(view.run.id, name, layer), "Comparing cells", key="selection"
    ):
        return
    table = read_table(str(path), stamp(path)).sort_values("p_value", kind="stable")
    st.markdown(f"**{len(rows):,} selected cells** against the other {table.attrs['n_reference']:,} of this run.")
    columns = columns_of(table, "selected", "other")
    st.dataframe(in_columns(table, columns), hide_index=True, key="selection_table", height=420, column_config=columns)
    st.caption(f"{sentences(table.attrs['method'])}; {sentences(table.attrs['scale'])}.")
    csv_button("Genes (CSV)", lambda: table, "genes_of_selection.csv", "selection_genes_csv")


def _targets(view: View) -> None:
    """Check all conditions of the run, predicted or measured as the page is."""
    request = TargetsRequest(str(view.run.result), cells=view.question.expression)
    done = derived_run(view.run, request)
    table = stored_check(done) if done is not None else None
    if table is None and made(view.run, request, "Checking targets", key="targets"):
        done = derived_run(view.run, request)
        table = stored_check(done) if done is not None else None
    if table is not None:
        show_targets(table, "targets")


TABS: Mapping[str, Callable[[View], None]] = {
    "Against the measurement": _measurement,
    "All perturbations": _conditions,
    "Groups of cells": _groups,
    "Gene sets": _sets,
    "On target": _targets,
    "Selected cells": _selection,
}
