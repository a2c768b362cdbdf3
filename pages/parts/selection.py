"""The selection on the map of cells: its outline, its composition, and its cells as CSV."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts.cellmap import CellMap, Pick, inside
from pages.parts.figures import csv_button
from pages.parts.format import plural
from pages.parts.result import open_projection
from pages.parts.widgets import go
from state_engine import keys
from state_engine.jobs.run_folder import RunFolder


def composition(labels: pd.DataFrame, chosen: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the composition of a selection beside that of all cells shown.

    Columns: label ("kind", "perturbation" or "context"); value; selected (cells); share (of the selection); expected (share of all
    cells shown); enrichment (share / expected).
    """
    parts = []
    for column in (keys.KIND, keys.PERTURBATION, keys.CONTEXT):
        values = labels[column].astype(str)
        if column == keys.KIND:
            values = values.map(keys.KIND_WORDS)
        every, some = values.value_counts(), values[chosen].value_counts()
        part = pd.DataFrame(
            {"label": column, "value": every.index, "selected": some.reindex(every.index, fill_value=0).to_numpy()}
        )
        part["share"] = part["selected"] / max(1, int(chosen.sum()))
        part["expected"] = every.to_numpy() / len(values)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    return table.assign(enrichment=table["share"] / table["expected"])


def polygon_of(run: RunFolder) -> NDArray[np.float32] | None:
    """Return the corners (k, 2) of the run's selection, UMAP units; None without one."""
    return st.session_state.get(f"map_polygon_{run.id}")


def chosen_of(run: RunFolder, xy: NDArray[np.floating]) -> NDArray[np.bool_] | None:
    """Return (n,) True for the cells at `xy` in the run's selection; None without one."""
    polygon = polygon_of(run)
    if polygon is None:
        return None
    found, left_out = inside(xy, polygon), st.session_state.get(f"map_left_out_{run.id}")
    return found if left_out is None or len(left_out) != len(found) else found & ~left_out


def selected_rows(run: RunFolder) -> NDArray[np.int64] | None:
    """Return the rows of the result in the run's selection; None without one."""
    if polygon_of(run) is None or not run.file("projection.npz").exists():
        return None
    projection = open_projection(run)
    chosen = chosen_of(run, projection.xy)
    return None if chosen is None or not chosen.any() else np.asarray(projection.rows[chosen], np.int64)


def keep(run: RunFolder, pick: Pick, shown: CellMap) -> None:
    """Keep a new selection: its outline, which stays right when colours or filters change, and the cells that the legend hid."""
    st.session_state[f"map_polygon_{run.id}"] = pick.outline
    st.session_state[f"map_left_out_{run.id}"] = pick.left_out(shown)


def show(run: RunFolder, labels: pd.DataFrame, chosen: NDArray[np.bool_], cells: Callable[[], pd.DataFrame]) -> None:
    """Show the selection's composition and its files.

    Args:
        labels: (m, ...) labels of the cells shown.
        chosen: (m,) True for the selected ones.
        cells: makes the table of the selected cells.
    """
    table = composition(labels, chosen)
    st.markdown(f"{plural(int(chosen.sum()), 'cell')} of {len(labels):,} shown")
    kinds_of_label = ["kind", "perturbation", "context"]
    by = st.segmented_control("Composition by", kinds_of_label, default="kind", key="map_by", required=True, wrap=True)
    part = table[table["label"] == by].drop(columns="label").sort_values("selected", ascending=False)
    part[["share", "expected"]] *= 100
    st.dataframe(
        part,
        hide_index=True,
        key="map_composition",
        height=min(38 + 35 * len(part), 260),
        column_config={
            "value": st.column_config.TextColumn(by.capitalize()),
            "selected": st.column_config.NumberColumn("Cells", format="%d"),
            "share": st.column_config.NumberColumn("Share", format="%.1f%%", help="Of the selected cells."),
            "expected": st.column_config.NumberColumn("Expected", format="%.1f%%", help="Its share of all cells shown."),
            "enrichment": st.column_config.NumberColumn(
                "Ratio", format="%.2f", help="Share over expected; 1 is as on the whole map."
            ),
        },
    )
    with st.container(horizontal=True):
        csv_button("Cells (CSV)", cells, "selected_cells.csv", "selection_csv")
        csv_button("Composition (CSV)", lambda: table, "composition.csv", "composition_csv")
        if st.button(
            "Genes of these cells", key="selection_genes", icon=":material/genetics:", help="Against all other cells of the run."
        ):
            st.session_state["gene_tabs"] = "Selected cells"
            go("genes")
        st.button("Clear selection", key="clear_selection", icon=":material/close:", on_click=forget, args=(run,))


def forget(run: RunFolder) -> None:
    """Take the selection back."""
    st.session_state.pop(f"map_polygon_{run.id}", None)
    st.session_state.pop(f"map_left_out_{run.id}", None)
