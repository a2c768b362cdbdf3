"""Parts of the Explore page: the map of cells with its controls, the selection, and the table of effect sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts import palette, selection, session
from pages.parts.cellmap import Arrows, Categories, CellMap, Values, show_map
from pages.parts.explore.conditions import OF_ADDRESS, leading_gene
from pages.parts.format import plural, sentences
from pages.parts.genes.table import gene_values
from pages.parts.labelling import BY_HAND, NOT_LABELLED, entry_of, given, labelling
from pages.parts.result import raw_or_corrected, stamp
from state_engine import keys
from state_engine.analysis.arrows import LEAST_CELLS, LEAST_SHARE, arrows, condition_arrows, measured_shifts
from state_engine.analysis.projection import Projection
from state_engine.data.dataset import Dataset
from state_engine.errors import StateError, listed
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import LAYERS, Layer, Result

COLOURS = ("Kind", "Perturbation", "Context", "Batch", "By hand", "Gene")
COLUMNS = {
    "Kind": keys.KIND, "Perturbation": keys.PERTURBATION, "Context": keys.CONTEXT, "Batch": keys.BATCH, "By hand": BY_HAND,
}  # fmt: skip
DETAILS = {"Kind": keys.KIND, "Perturbation": keys.PERTURBATION, "Context": keys.CONTEXT}
ARROWS = ("None", "Averaged", "Each cell")
MOST_ARROWS = 3000
HEIGHT = 560  # of the map, in pixels
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
    cells = _cells_of(run)
    result = _labelled(result, cells)
    with st.container(key="map_halves"):
        left, right = st.columns([3, 2], gap="medium")
    with right:
        view = _controls(run, result, projection)
    with left:
        if not len(view.rows):
            st.info(
                "The filters leave no cell. Choose at least one kind, context and perturbation.", icon=":material/filter_alt:"
            )
            return
        everywhere = selection.chosen_of(run, projection.xy)
        chosen = None if everywhere is None else everywhere[view.shown]
        if chosen is not None and not chosen.any():
            everywhere = chosen = None
        drawn, said = _arrows_of(result, projection, view)
        shown = the_map(result, projection, view, drawn, everywhere, selection.polygon_of(run))
        show_map(
            "map",
            shown,
            title=map_title(result, view),
            caption=_caption(projection, view, said),
            table=lambda: cell_table(result, projection, view),
            height=HEIGHT,
            on_pick=lambda pick: selection.keep(run, pick, shown),
        )
    with right:
        st.markdown("**Selection**")
        if chosen is None:
            st.caption("Draw around cells with the lasso on the map to see what they are.")
        else:
            selection.show(run, result.obs.iloc[view.rows], chosen, lambda: cell_table(result, projection, view, chosen))
        if cells is not None and keys.BASAL_ROW in result.obs and not session.by_link():
            rows = None if chosen is None else measured_rows(result, view.rows[chosen])
            labelling(*cells, rows, f"lasso on the map of {run.manifest.title}", "explore")


def _cells_of(run: RunFolder) -> tuple[DataEntry, Dataset] | None:
    """Return the data set of a prediction, to label its cells; None when it is not there any more, or cannot be read as it was."""
    request = run.request_as(PredictionRequest)
    entry = entry_of(request.data)
    if entry is None or not Path(entry.path).exists():
        return None
    try:
        return entry, session.opened(Path(entry.path), entry.name, request.choices)
    except StateError:
        return None


def measured_rows(result: Result, rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the measured cells among rows of a result, as rows of the data set."""
    measured = result.obs[keys.KIND].iloc[rows].isin([keys.OBSERVED, keys.OBSERVED_CONTROL]).to_numpy()
    return result.obs[keys.BASAL_ROW].to_numpy()[rows[measured]].astype(np.int64)


def _labelled(result: Result, cells: tuple[DataEntry, Dataset] | None) -> Result:
    """Return a result with the labels given by hand as a column of its measured cells, where there are any."""
    column = given(*cells) if cells is not None else None
    if column is None or keys.BASAL_ROW not in result.obs:
        return result
    every = np.arange(result.n_cells)
    measured = result.obs[keys.KIND].isin([keys.OBSERVED, keys.OBSERVED_CONTROL]).to_numpy()
    names = [*map(str, column.categories), NOT_LABELLED]
    codes = np.full(result.n_cells, len(names) - 1, np.int32)
    found = column.codes[measured_rows(result, every)]
    codes[measured] = np.where(found < 0, len(names) - 1, found)
    return replace(result, obs=result.obs.assign(**{BY_HAND: pd.Categorical.from_codes(codes, names)}))


def _controls(run: RunFolder, result: Result, projection: Projection) -> View:
    labels = result.obs.iloc[projection.rows]
    choices = [c for c in COLOURS if c == "Kind" or (c == "Gene" and result.has_expression) or _several(labels, c)]
    wanted = st.session_state.pop("explore_gene", "")  # the page Genes asks for a gene
    if wanted in result.genes:
        st.session_state["map_colour"], st.session_state[f"map_gene_{run.id}"] = "Gene", wanted
    session.recall("map_colour", choices, "Kind", "colour")
    colour = st.pills("Colour by", choices, key="map_colour", required=True, wrap=True) or "Kind"
    gene, layer = "", CORRECTED
    if colour == "Gene":
        gene, layer = _pick_gene(run, result)
    elif not result.has_expression:
        st.caption("The model predicts an embedding and has no gene decoder, so cells cannot be coloured by a gene.")
    session.recall("map_arrows", ARROWS, "None", "arrows")
    arrow = (
        st.segmented_control(
            "Arrows from basal cell to prediction",
            ARROWS,
            key="map_arrows",
            required=True,
            help="Averaged: within a perturbation and context, one arrow for each place on the map that holds 5 % of its cells. "
            "Distances on a UMAP are qualitative: arrows show where cells go, not how far.",
            wrap=True,
        )
        or "None"
    )
    shown = _filters(labels, result)
    usual: dict[str, object] = {"colour": "Kind", "arrows": "None", "kinds": _present(labels)}
    if colour == "Gene":
        usual["layer"] = result.layers()[0]
    else:  # what was chosen for a gene is not shown
        usual |= {"gene": st.session_state.get(f"map_gene_{run.id}"), "layer": st.session_state.get("map_layer")}
    session.show_in_address("explore", usual, tuple(name for name in session.SHOWN["explore"] if name not in OF_ADDRESS))
    return View(colour, gene, layer, arrow, shown, projection.rows[shown], projection.xy[shown])


def _several(labels: pd.DataFrame, colour: str) -> bool:
    column = COLUMNS.get(colour)
    return column is not None and column in labels and labels[column].nunique() > 1


_LAYER_HELP = (
    "Corrected: the basal cell plus its own predicted effect. Calibrated: as much of that, and of the mean effect in other contexts of "
    "the training, as held-out cells said to believe. Raw: the model's output as it is. Measured cells are the same."
)


def _pick_gene(run: RunFolder, result: Result) -> tuple[str, Layer]:
    key = f"map_gene_{run.id}"
    session.recall(key, result.genes, leading_gene(run, result), "gene")
    gene = st.selectbox(
        "Gene",
        result.genes,
        key=key,
        help="Type to search. First shown is the gene with the largest predicted effect.",
    )
    layer: Layer = "corrected"
    if keys.PREDICTED in result.obs[keys.KIND].cat.categories:
        layers = [layer for layer in LAYERS if layer in result.layers()]
        session.recall("map_layer", layers, result.layers()[0], "layer")  # what the model's card recommends
        layer = (
            st.segmented_control("Prediction", layers, key="map_layer", required=True, help=_LAYER_HELP, wrap=True) or CORRECTED
        )
        raw_or_corrected(run, layers)
        if layer == "calibrated" and (missing := (result.manifest.get("calibration") or {}).get("without")):
            names = listed([" in ".join(pair) for pair in missing], 4)
            st.caption(f"Without a calibrated prediction, so in grey: {sentences(names)}. No other context was trained on there.")
    return str(gene), layer


def _present(labels: pd.DataFrame) -> list[str]:
    return [k for k in keys.KINDS if (labels[keys.KIND] == k).any()]


def _filters(labels: pd.DataFrame, result: Result) -> NDArray[np.bool_]:
    """(n,) points that pass; controls pass any choice of perturbations, as they are what perturbed cells are compared with."""
    present = _present(labels)
    session.recall_several("map_kinds", present, present, "kinds")
    kinds = st.pills("Show", present, selection_mode="multi", key="map_kinds", format_func=keys.KIND_WORDS.__getitem__, wrap=True)
    shown = labels[keys.KIND].isin(kinds).to_numpy()
    contexts = sorted(labels[keys.CONTEXT].astype(str).unique())
    control = labels[keys.KIND].isin([keys.OBSERVED_CONTROL, keys.PREDICTED_CONTROL]).to_numpy()
    perturbations = sorted(labels.loc[~control, keys.PERTURBATION].astype(str).unique())
    if len(contexts) > 1:
        session.recall_several("map_contexts", contexts, (), "contexts")
        wanted = st.multiselect("Contexts", contexts, key="map_contexts", placeholder=f"All {len(contexts)}", select_all=False)
        shown &= labels[keys.CONTEXT].isin(wanted or contexts).to_numpy()
    if len(perturbations) > 1:
        session.recall_several("map_perturbations", perturbations, (), "perturbations")
        wanted = st.multiselect(
            "Perturbations", perturbations, key="map_perturbations", placeholder=f"All {len(perturbations)}", select_all=False
        )
        shown &= control | labels[keys.PERTURBATION].isin(wanted or perturbations).to_numpy()
    return shown


def the_map(
    result: Result,
    projection: Projection,
    view: View,
    drawn: Sequence[Arrows] = (),
    chosen: NDArray[np.bool_] | None = None,
    outline: NDArray[np.float32] | None = None,
) -> CellMap:
    """Return what is drawn of a view; `chosen` (n,) are the points within the selection, whose corners are `outline`."""
    labels = result.obs.iloc[projection.rows]
    return CellMap(
        projection.xy,
        _colour_of(result, projection.rows, view),
        None if view.shown.all() else view.shown,
        chosen,
        outline if chosen is not None else None,
        drawn,
        {name: _detail(labels[column]) for name, column in DETAILS.items() if column in labels},
        link="run",
    )


def _detail(column: pd.Series) -> pd.Categorical:
    """Return the labels of cells as the pointer names them."""
    return pd.Categorical(column.astype("category").cat.rename_categories(lambda name: keys.KIND_WORDS.get(name, name)))


def _colour_of(result: Result, rows: NDArray[np.int32], view: View) -> Categories | Values:
    if view.colour == "Gene":
        return Values(view.gene, "log1p", gene_values(str(result.path), stamp(result.path), view.gene, view.layer)[rows])
    column = COLUMNS[view.colour]
    names, codes = _codes(result, column, rows)
    colours = palette.KIND_BY_WORDS if view.colour == "Kind" else palette.categories(_all_names(result, column))
    if view.colour == "By hand":
        colours = colours | {NOT_LABELLED: palette.MISSING}
    if view.colour == "Perturbation":
        colours = colours | dict.fromkeys(control_labels(result), palette.GREY)
    return Categories(view.colour, names, codes, colours)


def _arrows_of(result: Result, projection: Projection, view: View) -> tuple[tuple[Arrows, ...], str]:
    """Return the arrows of a view, and what is said of them below the map."""
    if view.arrows == "None":
        return (), ""
    table = shown_arrows(result, projection, view)
    if view.arrows == "Each cell":
        some = table.sample(min(MOST_ARROWS, len(table)), random_state=0)
        words = f"{len(some):,} of {len(table):,} arrows, from basal cell to prediction."
        return (Arrows(_ends(some, 0), _ends(some, 1), width=0.5, opacity=0.16, heads=False),), words
    found = condition_arrows(table, projection)
    predicted = Arrows(_ends(found.table, 0), _ends(found.table, 1), _words(found.table, "{n:,} of {of:,} predicted cells"))
    words = (
        f"An arrow stands for at least {LEAST_CELLS} cells and {LEAST_SHARE:.0%} of the cells of one perturbation in one context, "
        "from the middle of its basal cells to the middle of their predictions."
    )
    if found.few:
        words += f" {plural(found.few, 'arrow')} of fewer are left out, {plural(found.few_cells, 'cell')} in all."
    shifts = _shown_shifts(result, projection, view)
    if shifts.empty:
        return (predicted,), words
    measured = Arrows(
        _ends(shifts, 0), _ends(shifts, 1), _words(shifts, "measured, {n:,} cells"), palette.BLUE, width=1.6, dashed=True
    )
    return (
        predicted,
        measured,
    ), f"{words} Dashed blue: the measured shift of a condition, from its controls to its measured cells."


def _words(table: pd.DataFrame, form: str) -> list[str]:
    return [f"{row['perturbation']} in {row['context']}: {form.format(**row)}" for row in table.to_dict("records")]


def _shown_shifts(result: Result, projection: Projection, view: View) -> pd.DataFrame:
    """Return the measured shifts of the conditions whose measured cells are shown."""
    labels = result.obs.iloc[view.rows]
    labels = labels[labels[keys.KIND] == keys.OBSERVED]
    shown = set(zip(labels[keys.PERTURBATION].astype(str), labels[keys.CONTEXT].astype(str), strict=True))
    table = measured_shifts(result, projection)
    return table[[pair in shown for pair in zip(table["perturbation"], table["context"], strict=True)]]


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
    return [keys.KIND_WORDS[name] for name in names] if column == keys.KIND else names, found.astype(np.int16)


def _all_names(result: Result, column: str) -> list[str]:
    return sorted(result.obs[column].astype(str).unique())


def control_labels(result: Result) -> list[str]:
    """The labels that control cells carry."""
    control = result.obs[keys.KIND].isin([keys.OBSERVED_CONTROL, keys.PREDICTED_CONTROL])
    return sorted(result.obs.loc[control, keys.PERTURBATION].astype(str).unique())


def map_title(result: Result, view: View) -> str:
    """What a biologist calls the figure."""
    kinds = set(result.obs[keys.KIND].iloc[view.rows].astype(str))
    words = {keys.OBSERVED_CONTROL: "control", keys.PREDICTED: "predicted", keys.OBSERVED: "measured"}
    named = [word for kind, word in words.items() if kind in kinds]
    cells = f"{' and '.join([', '.join(named[:-1]), named[-1]] if len(named) > 1 else named)} cells".capitalize()
    return f"{cells}, coloured by {view.gene if view.colour == 'Gene' else view.colour.lower()}"


def _caption(projection: Projection, view: View, arrows: str) -> str:
    parts = [f"{projection.settings.note}."]
    if len(view.rows) < len(projection.rows):
        parts.append(f"Filters show {len(view.rows):,}.")
    if view.colour == "Gene":
        parts.append(
            f"{view.layer.capitalize()} expression (log1p); colours end at the 99.5th percentile, highest values on top."
        )
    return " ".join(part for part in [*parts, arrows, "Distances on a UMAP are qualitative."] if part)


def cell_table(result: Result, projection: Projection, view: View, chosen: NDArray[np.bool_] | None = None) -> pd.DataFrame:
    """The shown (or chosen) cells: name, place, labels, and the gene's expression when one is shown."""
    keep = slice(None) if chosen is None else np.flatnonzero(chosen)
    rows, xy = view.rows[keep], view.xy[keep]
    columns = [c for c in (keys.KIND, keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.BASAL_CELL) if c in result.obs]
    table = result.obs.iloc[rows][columns].astype(str).reset_index(names="cell").assign(umap_1=xy[:, 0], umap_2=xy[:, 1])
    if view.colour == "Gene":
        table[f"{view.gene} ({view.layer}, log1p)"] = gene_values(str(result.path), stamp(result.path), view.gene, view.layer)[
            rows
        ]
    return table
