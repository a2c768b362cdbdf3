"""The one table of the Genes page: every gene with its predicted and measured change and its band, searchable and sortable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.figures import csv_button
from pages.parts.format import sentences
from pages.parts.genes import charts as genechart
from pages.parts.genes.sets import FDR, find_genes
from pages.parts.genes.table import pick
from state_engine.analysis.differential import in_order
from state_engine.effects.bands import NOT_CALIBRATED, SENTENCES
from state_engine.metrics.rules import FOLD

_BAND_HELP = " ".join(f"{name}: {text}" for name, text in SENTENCES.items())
_BAND = st.column_config.TextColumn(
    "Would hold?", width=90, help=f"Whether the direction would hold in a replicate. {_BAND_HELP}"
)


def columns_of(table: pd.DataFrame, group: str = "perturbed", reference: str = "reference") -> dict[str, Any]:
    """Return the columns of a table of genes in the order in which they are read, those that it has.

    Args:
        table: of `differential`; its attrs say how many cells were compared.
        group, reference: what the two groups of cells are called.
    """
    n, m = table.attrs["n_perturbed"], table.attrs["n_reference"]
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    test = f"Two-sided Mann-Whitney U test of {n:,} against {m:,} cells; p falls with the number of cells."
    mean, share = "Natural scale: counts per 10,000.", "Share of the cells that express the gene."
    columns = {
        "gene": text("Gene", pinned=True, width=84),
        "log2_fold_change": number("log2FC", format="%.2f", width=66, help=f"log2 fold change, {group} over {reference}."),
        "measured": number("Measured log2FC", format="%.2f", width=116, help="Of measured cells, where there are any."),
        "band": _BAND,
        "p_value": number("p", format="%.1e", width=72, help=test),
        "fdr": number("FDR", format="%.1e", width=72, help="Benjamini-Hochberg over all genes of the table."),
        "mean_perturbed": number(f"Mean, {group}", format="%.2f", help=mean),
        "mean_reference": number(f"Mean, {reference}", format="%.2f", help=mean),
        "fraction_perturbed": number(f"Detected, {group}", format="%.0f %%", help=share),
        "fraction_reference": number(f"Detected, {reference}", format="%.0f %%", help=share),
    }
    return {name: column for name, column in columns.items() if name in table}


def in_columns(table: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table of genes as its columns (`columns_of`) show it: shares in percent."""
    return table[list(columns)].assign(**{name: 100 * table[name] for name in ("fraction_perturbed", "fraction_reference")})


def with_measured(table: pd.DataFrame, genes: pd.DataFrame | None) -> pd.DataFrame:
    """Return a table of predicted genes with the measured log2 fold change beside, where a comparison has it.

    Args:
        table: of predicted cells, or of measured ones, which stays as it is.
        genes: of an `EffectComparison`; None without measured cells.
    """
    if genes is None or not genechart.is_predicted(table):
        return table
    measured = genes.set_index("gene")["observed_log2_fold_change"]
    made = table.assign(measured=measured.reindex(table["gene"]).to_numpy(float))
    made.attrs = table.attrs
    return made


def gene_table(table: pd.DataFrame, marked: Sequence[str]) -> None:
    """All genes; a click on a row chooses the gene."""
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    session.recall_text("gene_search", "find")
    search = left.text_input("Find genes", key="gene_search", placeholder="IFI6, or several separated by commas")
    parts = ["All", "Up", "Down"] + (["Gene set"] if marked else [])
    session.recall("gene_show", parts, "All", "show")
    show = right.segmented_control("Show", parts, key="gene_show", required=True, wrap=True)
    shown = find_genes(table, search)
    if show in ("Up", "Down"):
        calls = genechart.directions(shown, FDR, st.session_state.get("fold", FOLD))
        shown = shown[calls == show.lower()]
    elif show == "Gene set":
        shown = shown[shown["gene"].isin(marked)]
    if genechart.is_predicted(table):
        shown = shown.iloc[np.argsort(-genechart.prominence(shown), kind="stable")]
    else:
        shown = in_order(shown, measured=True)
    genes = shown["gene"].tolist()
    columns = columns_of(table)
    st.dataframe(
        in_columns(shown, columns),
        hide_index=True,
        key="gene_table",
        height=440,
        column_config=columns,
        on_select=partial(_picked_row, "gene_table", genes),
        selection_mode="single-cell",
        placeholder="n/a",
    )
    calibrated = "" if table.attrs.get("band", NOT_CALIBRATED) == NOT_CALIBRATED else f" {table.attrs['bands']}"
    st.caption(
        f"{len(shown):,} of {len(table):,} genes.{calibrated} {sentences(table.attrs['method'])}; {sentences(table.attrs['scale'])}."
    )
    csv_button("All genes (CSV)", lambda: table, f"{file_name(table)}.csv", "genes_csv")


def _picked_row(event_key: str, genes: Sequence[str]) -> None:
    cells = st.session_state[event_key]["selection"]["cells"]
    if cells:
        pick(genes[cells[0][0]])


def file_name(table: pd.DataFrame) -> str:
    """A name for the file of a table."""
    words = [str(table.attrs.get(name, "")) for name in ("perturbation", "context", "expression")]
    return re.sub(r"[^A-Za-z0-9]+", "_", "_".join(["genes", *words])).strip("_")
