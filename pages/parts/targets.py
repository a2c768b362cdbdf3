"""On target? The check of perturbations against the genes they name, on Data (measured) and Genes (predicted or measured)."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.parts.figures import csv_button
from pages.parts.format import sentences
from pages.parts.genes.table import read_table
from pages.parts.result import stamp
from state_engine.analysis import on_target
from state_engine.errors import listed
from state_engine.jobs.run_folder import RunFolder

_COLUMNS = {
    "perturbation": st.column_config.TextColumn("Perturbation", pinned=True),
    "context": st.column_config.TextColumn("Context"),
    "gene": st.column_config.TextColumn("Its gene"),
    "verdict": st.column_config.TextColumn("Verdict", help="See docs/genes.md."),
    "log2_fold_change": st.column_config.NumberColumn("log2 fold change", format="%+.2f"),
    "expected": st.column_config.TextColumn("Expected", help="By the label, or by a column that says how cells were perturbed."),
    "fdr": st.column_config.NumberColumn("FDR", format="%.1e", help="Over all rows; of predicted cells it decides nothing."),
    "n_perturbed": st.column_config.NumberColumn("Cells", format="%d"),
    "n_reference": st.column_config.NumberColumn("Control cells", format="%d"),
    "fraction_perturbed": st.column_config.NumberColumn("Detected", format="percent"),
    "fraction_reference": st.column_config.NumberColumn("Detected, control", format="percent"),
}


def stored_check(run: RunFolder) -> pd.DataFrame | None:
    """Return the table of a job that checked targets; None where it is not there."""
    path = run.file(on_target.TARGETS)
    return read_table(str(path), stamp(path)) if path.exists() else None


def show_targets(table: pd.DataFrame, key: str) -> None:
    """Show what a check found: a sentence, the dead perturbations by name, the table.

    Args:
        table: of `analysis.on_target`.
        key: unique on the page.
    """
    st.markdown(f"**{on_target.words(table)}**")
    if table.empty:
        return
    gone = on_target.dead(table)
    if gone:
        st.warning(f"**Dead perturbations:** {sentences(listed(gone, 12))}", icon=":material/warning:")
    st.dataframe(
        table[list(_COLUMNS)], hide_index=True, key=f"{key}_table", height=min(38 + 35 * len(table), 420), column_config=_COLUMNS
    )
    csv_button("Targets (CSV)", lambda: table, "targets.csv", f"{key}_csv")
