"""The selection on the map of cells: its outline, its composition, and its cells as CSV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts.format import plural
from state_engine import keys
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import csv_for_people


def composition(labels: pd.DataFrame, chosen: NDArray[np.bool_]) -> pd.DataFrame:
    """Return the composition of a selection beside that of all cells shown.

    Columns: label ("kind", "perturbation" or "context"); value; selected (cells); share (of the selection); expected (share of all
    cells shown); enrichment (share / expected).
    """
    parts = []
    for column in (keys.KIND, keys.PERTURBATION, keys.CONTEXT):
        values = labels[column].astype(str)
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


def remember(run: RunFolder, key: str) -> None:
    """Keep the outline of a new lasso or box, and have the map drawn again.

    The browser would send every selected point again with each later click; the outline is a few numbers, stays right when colours or
    filters change, and a new key for the chart makes the browser forget its points.
    """
    found = outline(st.session_state.get(key))
    if found is not None:
        st.session_state[f"map_polygon_{run.id}"] = found
        st.session_state[f"map_round_{run.id}"] = st.session_state.get(f"map_round_{run.id}", 0) + 1


def outline(event: Any) -> NDArray[np.float32] | None:
    """Return the corners of the lasso or box in a chart's selection event, (k, 2) data units; None without one."""
    selection = event["selection"] if event else {}
    for shape in selection.get("lasso") or []:
        return np.column_stack([shape["x"], shape["y"]]).astype(np.float32)
    for shape in selection.get("box") or []:
        (x0, x1), (y0, y1) = shape["x"], shape["y"]
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    return None


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
    by = st.segmented_control("Composition by", kinds_of_label, default="kind", key="map_by", required=True)
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
        st.download_button(
            "Cells (CSV)",
            data=lambda: csv_for_people(cells()).encode(),
            file_name="selected_cells.csv",
            mime="text/csv",
            key="selection_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Composition (CSV)",
            data=lambda: csv_for_people(table).encode(),
            file_name="composition.csv",
            mime="text/csv",
            key="composition_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.button("Clear selection", key="clear_selection", icon=":material/close:", on_click=forget, args=(run,))


def forget(run: RunFolder) -> None:
    """Take the selection back."""
    st.session_state.pop(f"map_polygon_{run.id}", None)
