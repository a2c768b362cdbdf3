"""Parts of the Explore page: the map of cells with its controls, the selection, and the table of effect sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from pages.ui import palette, umapchart
from pages.ui.figures import show_figure
from pages.ui.runview import open_run, stamp
from pages.ui.widgets import go as go_to
from pages.ui.words import plural
from state_engine import keys
from state_engine.analysis.effects import effect_sizes
from state_engine.analysis.projection import Projection, arrows, grid_arrows
from state_engine.analysis.result import Layer, Result
from state_engine.errors import RequestError
from state_engine.runs import RunFolder

COLOURS = ("Kind", "Perturbation", "Context", "Batch", "Gene")
COLUMNS = {"Kind": keys.KIND, "Perturbation": keys.PERTURBATION, "Context": keys.CONTEXT, "Batch": keys.BATCH}
ARROWS = ("None", "Averaged", "Each cell")
MOST_ARROWS = 3000
CORRECTED: Layer = "corrected"


@dataclass(frozen=True)
class View:
    """What is shown of a projection.

    Args:
        colour: one of `COLOURS`.
        gene: when the colour is a gene.
        layer: whose expression, for a gene.
        arrows: one of `ARROWS`.
        shown: (n,) True for points of the projection that pass the filters.
        rows: (m,) rows of the result that are shown.
        xy: (m, 2) their places.
    """

    colour: str
    gene: str
    layer: Layer
    arrows: str
    shown: NDArray[np.bool_]
    rows: NDArray[np.int32]
    xy: NDArray[np.float32]


@st.fragment
def cell_map(run: RunFolder, result: Result, projection: Projection) -> None:
    """The map with its controls and what is selected on it. A fragment: a new colour does not run the page again."""
    left, right = st.columns([3, 2], gap="medium")
    with right:
        view = _controls(run, result, projection)
    with left:
        if not len(view.rows):
            st.info(
                "The filters leave no cell. Choose at least one kind, context and perturbation.", icon=":material/filter_alt:"
            )
            return
        polygon = _polygon(run)
        chosen = None if polygon is None else umapchart.inside(view.xy, polygon)
        if chosen is not None and not chosen.any():
            polygon, chosen = None, None
        figure = draw(result, projection, view, chosen, st.context.theme.type == "dark")
        if polygon is not None:
            umapchart.add_outline(figure, polygon, umapchart.look(1, st.context.theme.type == "dark").ink)
        round_ = st.session_state.get(f"map_round_{run.id}", 0)
        chart = f"{run.id}_{round_}"
        show_figure(
            figure,
            key="map",
            title=map_title(result, view),
            caption=_caption(result, projection, view),
            table=lambda: cell_table(result, projection, view),
            height=580,
            chart=chart,
            on_select=lambda: _remember(run, f"map_{chart}_plot"),
        )
    with right:
        _selection(run, result, projection, view, chosen)


def _controls(run: RunFolder, result: Result, projection: Projection) -> View:
    labels = result.obs.iloc[projection.rows]
    choices = [c for c in COLOURS if c == "Kind" or (c == "Gene" and result.has_expression) or _several(labels, c)]
    colour = st.pills("Colour by", choices, default="Kind", key="map_colour", required=True) or "Kind"
    gene, layer = "", CORRECTED
    if colour == "Gene":
        gene, layer = _pick_gene(run, result)
    elif not result.has_expression:
        st.caption("The model predicts an embedding and has no gene decoder, so cells cannot be coloured by a gene.")
    arrow = (
        st.segmented_control(
            "Arrows from basal cell to prediction",
            ARROWS,
            default="Averaged",
            key="map_arrows",
            required=True,
            help="Averaged: one arrow for each place on the map with at least 3 of the cells shown. "
            "Distances on a UMAP are qualitative: arrows show where cells go, not how far.",
        )
        or "None"
    )
    shown = _filters(labels, result)
    return View(colour, gene, layer, arrow, shown, projection.rows[shown], projection.xy[shown])


def _several(labels: pd.DataFrame, colour: str) -> bool:
    column = COLUMNS.get(colour)
    return column is not None and column in labels and labels[column].nunique() > 1


def _pick_gene(run: RunFolder, result: Result) -> tuple[str, Layer]:
    first = _top_gene(run, result)
    gene = st.selectbox(
        "Gene",
        result.genes,
        index=result.column(first),
        key=f"map_gene_{run.id}",
        help="Type to search. First shown is the gene with the largest predicted effect.",
    )
    layer: Layer = "corrected"
    if keys.PREDICTED in result.obs[keys.KIND].cat.categories:
        picked = st.segmented_control(
            "Prediction",
            ["corrected", "raw"],
            default="corrected",
            key="map_layer",
            required=True,
            help="Corrected: the basal cell plus its own predicted effect. Raw: the model's output as it is. Measured cells are the same.",
        )
        layer = "raw" if picked == "raw" else "corrected"
    return str(gene), layer


def _top_gene(run: RunFolder, result: Result) -> str:
    """The gene that the largest effect changes most; the first gene when there is no pairing."""
    try:
        top = str(effects_of(str(run.path), stamp(run.result))["top_genes"].iloc[0])
    except (RequestError, IndexError):
        return result.genes[0]
    name = top.split(", ")[0].rpartition(" ")[0]
    return name if name in result.genes else result.genes[0]


def _filters(labels: pd.DataFrame, result: Result) -> NDArray[np.bool_]:
    """(n,) points that pass; controls pass any choice of perturbations, as they are what perturbed cells are compared with."""
    present = [k for k in keys.KINDS if (labels[keys.KIND] == k).any()]
    kinds = st.pills("Show", present, selection_mode="multi", default=present, key="map_kinds")
    shown = labels[keys.KIND].isin(kinds).to_numpy()
    contexts = sorted(labels[keys.CONTEXT].astype(str).unique())
    control = labels[keys.KIND].isin([keys.OBSERVED_CONTROL, keys.PREDICTED_CONTROL]).to_numpy()
    perturbations = sorted(labels.loc[~control, keys.PERTURBATION].astype(str).unique())
    if len(contexts) > 1:
        wanted = st.multiselect("Contexts", contexts, key="map_contexts", placeholder=f"All {len(contexts)}")
        shown &= labels[keys.CONTEXT].isin(wanted or contexts).to_numpy()
    if len(perturbations) > 1:
        wanted = st.multiselect("Perturbations", perturbations, key="map_perturbations", placeholder=f"All {len(perturbations)}")
        shown &= control | labels[keys.PERTURBATION].isin(wanted or perturbations).to_numpy()
    return shown


def draw(result: Result, projection: Projection, view: View, chosen: NDArray[np.bool_] | None, dark: bool) -> go.Figure:
    """The figure of a view; `chosen` (m,) are the points within the selection."""
    style = umapchart.look(len(view.rows), dark)
    if view.colour == "Gene":
        values = result.gene(view.gene, view.layer)[view.rows]
        figure = umapchart.value_map(view.xy, values, view.gene, "log1p", style, chosen)
    else:
        names, codes = _codes(result, COLUMNS[view.colour], view.rows)
        colours = palette.KIND if view.colour == "Kind" else palette.categories(_all_names(result, COLUMNS[view.colour]))
        if view.colour == "Perturbation":
            colours = colours | dict.fromkeys(control_labels(result), palette.GREY)
        second, second_codes = _codes(result, keys.CONTEXT if view.colour == "Kind" else keys.KIND, view.rows)
        figure = umapchart.category_map(view.xy, names, codes, second, second_codes, colours, style, chosen)
    if view.arrows != "None":
        _draw_arrows(figure, result, projection, view, style.ink)
    umapchart.fix_ranges(figure, projection.xy)
    return figure


def _draw_arrows(figure: go.Figure, result: Result, projection: Projection, view: View, ink: str) -> None:
    table = shown_arrows(result, projection, view)
    if view.arrows == "Averaged":
        grid = grid_arrows(table, projection)
        umapchart.add_arrows(figure, _ends(grid, 0), _ends(grid, 1), ink, grid["n"].to_numpy())
    else:
        some = table.sample(min(MOST_ARROWS, len(table)), random_state=0)
        umapchart.add_arrows(figure, _ends(some, 0), _ends(some, 1), ink)


def shown_arrows(result: Result, projection: Projection, view: View) -> pd.DataFrame:
    """Arrows of the predicted cells that are shown."""
    table = arrows(result, projection)
    return table[table["row"].isin(view.rows)]


def _ends(table: pd.DataFrame, end: int) -> NDArray[np.float32]:
    return table[[f"x{end}", f"y{end}"]].to_numpy(np.float32)


def _codes(result: Result, column: str, rows: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int16]]:
    """Names in a stable order (kinds in their own, others alphabetical) and the code of each row."""
    names = list(keys.KINDS) if column == keys.KIND else _all_names(result, column)
    found = pd.Categorical(result.obs[column].iloc[rows].astype(str), categories=names).codes
    return names, found.astype(np.int16)


def _all_names(result: Result, column: str) -> list[str]:
    return sorted(result.obs[column].astype(str).unique())


def control_labels(result: Result) -> list[str]:
    """The labels that control cells carry."""
    control = result.obs[keys.KIND].isin([keys.OBSERVED_CONTROL, keys.PREDICTED_CONTROL])
    return sorted(result.obs.loc[control, keys.PERTURBATION].astype(str).unique())


def map_title(result: Result, view: View) -> str:
    """What a biologist calls the figure."""
    kinds = set(result.obs[keys.KIND].iloc[view.rows].astype(str))
    words = {keys.OBSERVED_CONTROL: "control", keys.PREDICTED: "predicted", keys.OBSERVED: "observed"}
    named = [word for kind, word in words.items() if kind in kinds]
    cells = f"{' and '.join([', '.join(named[:-1]), named[-1]] if len(named) > 1 else named)} cells".capitalize()
    return f"{cells}, coloured by {view.gene if view.colour == 'Gene' else view.colour.lower()}"


def _caption(result: Result, projection: Projection, view: View) -> str:
    parts = [f"{projection.settings.note}."]
    if projection.settings.subsampled:
        parts.append("Subsampled: the same share of every kind, context and perturbation.")
    if len(view.rows) < len(projection.rows):
        parts.append(f"Filters show {len(view.rows):,}.")
    if view.colour == "Gene":
        parts.append(
            f"{view.layer.capitalize()} expression (log1p); colours end at the 99.5th percentile, highest values on top."
        )
    if view.arrows == "Averaged":
        parts.append("An arrow is the mean of at least 3 cells, from basal cell to prediction.")
    elif view.arrows == "Each cell":
        n = len(shown_arrows(result, projection, view))
        parts.append(f"{min(n, MOST_ARROWS):,} of {n:,} arrows, from basal cell to prediction.")
    return " ".join([*parts, "Distances on a UMAP are qualitative."])


def cell_table(result: Result, projection: Projection, view: View, chosen: NDArray[np.bool_] | None = None) -> pd.DataFrame:
    """The shown (or chosen) cells: name, place, labels, and the gene's expression when one is shown."""
    keep = slice(None) if chosen is None else np.flatnonzero(chosen)
    rows, xy = view.rows[keep], view.xy[keep]
    columns = [c for c in (keys.KIND, keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.BASAL_CELL) if c in result.obs]
    table = result.obs.iloc[rows][columns].astype(str).reset_index(names="cell").assign(umap_1=xy[:, 0], umap_2=xy[:, 1])
    if view.colour == "Gene":
        table[f"{view.gene} ({view.layer}, log1p)"] = result.gene(view.gene, view.layer)[rows]
    return table


def composition(labels: pd.DataFrame, chosen: NDArray[np.bool_]) -> pd.DataFrame:
    """What a selection is made of beside what is shown.

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


def _polygon(run: RunFolder) -> NDArray[np.float32] | None:
    return st.session_state.get(f"map_polygon_{run.id}")


def _remember(run: RunFolder, key: str) -> None:
    """Keeps the outline of a new lasso or box, and has the map drawn anew.

    The browser would send every selected point again with each later click; the outline is a few numbers, stays right when colours or
    filters change, and a new key for the chart makes the browser forget its points.
    """
    found = outline(st.session_state.get(key))
    if found is not None:
        st.session_state[f"map_polygon_{run.id}"] = found
        st.session_state[f"map_round_{run.id}"] = st.session_state.get(f"map_round_{run.id}", 0) + 1


def outline(event: Any) -> NDArray[np.float32] | None:
    """Corners of the lasso or box in a chart's selection event, (k, 2) data units; None without one."""
    selection = event["selection"] if event else {}
    for shape in selection.get("lasso") or []:
        return np.column_stack([shape["x"], shape["y"]]).astype(np.float32)
    for shape in selection.get("box") or []:
        (x0, x1), (y0, y1) = shape["x"], shape["y"]
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    return None


def _selection(run: RunFolder, result: Result, projection: Projection, view: View, chosen: NDArray[np.bool_] | None) -> None:
    st.markdown("**Selection**")
    if chosen is None:
        st.caption("Draw around cells with the lasso on the map to see what they are.")
        return
    table = composition(result.obs.iloc[view.rows], chosen)
    st.markdown(f"{plural(int(chosen.sum()), 'cell')} of {len(view.rows):,} shown")
    labels = ["kind", "perturbation", "context"]
    by = st.segmented_control("Composition by", labels, default="kind", key="map_by", required=True)
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
            data=lambda: cell_table(result, projection, view, chosen).to_csv(index=False).encode(),
            file_name="selected_cells.csv",
            mime="text/csv",
            key="selection_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Composition (CSV)",
            data=lambda: table.to_csv(index=False).encode(),
            file_name="composition.csv",
            mime="text/csv",
            key="composition_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        if st.button("Clear selection", key="clear_selection", icon=":material/close:"):
            del st.session_state[f"map_polygon_{run.id}"]
            st.rerun(scope="fragment")


@st.cache_data(max_entries=32, show_spinner="Measuring effects")
def effects_of(run_path: str, written: int) -> pd.DataFrame:
    """`effect_sizes` of a run, computed once for its result file."""
    run = RunFolder(Path(run_path))
    return effect_sizes(open_run(run), run_dir=run.path)


def effect_table(run: RunFolder, result: Result) -> None:
    """How large each predicted effect is."""
    st.markdown("#### How large is each effect?")
    if not result.has_expression:
        st.info(
            "The model predicts an embedding and has no gene decoder, so effects on genes cannot be measured.",
            icon=":material/info:",
        )
        return
    table = effects_of(str(run.path), stamp(run.result))
    st.dataframe(
        table,
        hide_index=True,
        key="effect_table",
        height=min(38 + 35 * len(table), 400),
        column_config={
            "perturbation": st.column_config.TextColumn("Perturbation", pinned=True),
            "context": st.column_config.TextColumn("Context"),
            "n_cells": st.column_config.NumberColumn("Predicted cells", format="%d"),
            "effect_size": st.column_config.ProgressColumn(
                "Effect size",
                format="%.2f",
                min_value=0.0,
                max_value=float(table["effect_size"].max()) or 1.0,
                help="Euclidean length of the mean effect over all genes, in log1p units. It grows with the number of genes, "
                "so compare it within this run.",
            ),
            "n_up": st.column_config.NumberColumn(
                "Genes up", format="%d", help="FDR < 0.05 against the paired predicted control."
            ),
            "n_down": st.column_config.NumberColumn(
                "Genes down", format="%d", help="FDR < 0.05 against the paired predicted control."
            ),
            "top_genes": st.column_config.TextColumn(
                "Largest effects", width="large", help="Largest mean change, with its direction."
            ),
        },
    )
    st.caption(
        f"Mean corrected prediction minus mean paired predicted control over {result.n_genes:,} genes, log1p. Effects are predicted, "
        "not measured; the Genes page compares them with measurements where there are any."
    )
    if st.button("See the genes", key="to_genes", icon=":material/genetics:"):
        go_to("genes")
