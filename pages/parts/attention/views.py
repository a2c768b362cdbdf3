"""The views of a set's attention maps: all heads, one head, the cells that are attended to, groups, and how mixed the set is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts.attention import charts as chart
from pages.parts.attention import numbers
from pages.parts.attention.order import Sorting
from pages.parts.figures import csv_button, show_figure
from pages.parts.format import md, plural
from pages.parts.result import open_projection, stamp
from state_engine import keys
from state_engine.attention.maps import AttentionMaps, load_maps, maps_name
from state_engine.errors import RunError
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.prediction.result import Result

Under = Literal["perturbed", "control", "difference"]
TOP = 10
NEARLY_EQUAL = 1.5  # times an equal share, below which the most attended tenth does not stand out
CAUTION = (
    "Attention depends on how mixed the set is: the same cell gets other weights among other cells, and cells far from the rest can "
    "draw attention for that alone. It shows what the model used for this set, and is no evidence of a mechanism."
)


@dataclass(frozen=True)
class CellSet:
    """A set of a run: `number` counts from 0."""

    perturbation: str
    context: str
    number: int

    @property
    def file(self) -> str:
        return maps_name(self.perturbation, self.context, self.number)


@st.cache_resource(max_entries=4, show_spinner="Reading attention maps")
def load(path: str, written: int) -> AttentionMaps:
    """The maps of a file, read once for all sessions."""
    return read_file(load_maps, Path(path))


@st.cache_data(max_entries=8, show_spinner=False)
def _focus(path: str, written: int) -> dict[str, NDArray[np.float32]]:
    maps = load(path, written)
    return {"perturbed": numbers.focus(maps.perturbed), "control": numbers.focus(maps.control)}


def head_words(layer: int | None, head: int | None) -> str:
    """What a choice of layer and head is called."""
    if layer is None and head is None:
        return "Mean of all heads"
    where = "all layers" if layer is None else f"layer {layer + 1}"
    return f"Mean of the heads of {where}" if head is None else f"Head {head + 1} of {where}"


def weights_of(maps: AttentionMaps, under: Under, layer: int | None, head: int | None) -> NDArray[np.float32]:
    """(s, s) weights of a head or a mean of heads; a difference is perturbed minus control."""
    if under == "control":
        return numbers.chosen_map(maps.control, layer, head)
    perturbed = numbers.chosen_map(maps.perturbed, layer, head)
    return perturbed if under == "perturbed" else perturbed - numbers.chosen_map(maps.control, layer, head)


@st.cache_data(max_entries=12, show_spinner=False)
def _thumbnails(path: str, written: int, under: Under, order: tuple[int, ...]) -> NDArray[np.float32]:
    maps = load(path, written)
    if under == "difference":
        return _thumbnails(path, written, "perturbed", order) - _thumbnails(path, written, "control", order)
    return numbers.thumbnails(maps.control if under == "control" else maps.perturbed, np.array(order), chart.THUMBNAIL)


def overview(
    run: RunFolder, chosen: CellSet, maps: AttentionMaps, under: Under, sorting: Sorting, picked: tuple[int | None, int | None]
) -> None:
    """All heads, small; a click chooses one."""
    path = run.file(chosen.file)
    of = _focus(str(path), stamp(path))["control" if under == "control" else "perturbed"]
    small = _thumbnails(str(path), stamp(path), under, tuple(sorting.order.tolist()))
    k = small.shape[-1]
    layers, heads = maps.perturbed.shape[:2]
    frame = (picked[0], picked[1]) if picked[0] is not None and picked[1] is not None else None
    figure = chart.overview(small, of, maps.token_share, under == "difference", frame)
    round_ = st.session_state.get("att_round", 0)
    show_figure(
        figure,
        key="attention_heads",
        title=f"All {layers * heads} heads: click one to look closer",
        caption=f"{plural(layers, 'layer')} x {plural(heads, 'head')}, cells in the order chosen above, averaged to at most {k} x {k} "
        "squares. 1 is an equal share for every cell.",
        table=lambda: _head_table(of, maps),
        height=460,
        on_select=lambda: _choose_head(run, f"attention_heads_{round_}_plot"),
        modes=("points",),
        chart=str(round_),
    )


def _head_table(focus: NDArray[np.float32], maps: AttentionMaps) -> pd.DataFrame:
    layer, head = np.mgrid[0 : focus.shape[0], 0 : focus.shape[1]]
    change = np.abs(maps.perturbed - maps.control).sum(-1).mean(-1) / 2
    return pd.DataFrame(
        {
            "layer": layer.ravel() + 1,
            "head": head.ravel() + 1,
            "cells_attended_effective": focus.ravel(),
            "token_share": maps.token_share.ravel(),
            "weight_moved_by_perturbation": change.ravel(),
        }
    )


def _choose_head(run: RunFolder, key: str) -> None:
    """A click on a head goes to the pickers; a new key for the chart makes the browser forget the click."""
    found = head_of(st.session_state.get(key))
    if found is not None:
        st.session_state[f"att_layer_{run.id}"], st.session_state[f"att_head_{run.id}"] = found
        st.session_state["att_round"] = st.session_state.get("att_round", 0) + 1


def head_of(event: Any) -> tuple[int, int] | None:
    """Layer and head, from 1, of a click in the overview; None when nothing was hit."""
    points = event["selection"]["points"] if event else []
    if not points:
        return None
    facts = points[0]["customdata"]
    values = list(facts.values()) if isinstance(facts, dict) else list(facts)
    return int(values[2]), int(values[3])


def detail(maps: AttentionMaps, weights: NDArray[np.float32], sorting: Sorting, difference: bool, name: str) -> None:
    """One map of the set's cells, in full."""
    s = len(weights)
    ordered = weights[np.ix_(sorting.order, sorting.order)] * s
    share = float(maps.token_share.mean())
    sums = "Rows sum to 1 over the cells"
    if share > 0.001:
        sums = f"Rows sum to 1 over cells and tokens; on average {share:.0%} of the weight is on tokens, not on cells"
    shrunk = f" Averaged to {chart.MOST_SHOWN} x {chart.MOST_SHOWN} blocks for display." if s > chart.MOST_SHOWN else ""
    show_figure(
        chart.detail(ordered, sorting.strip, difference),
        key="attention_map",
        title=name,
        caption=f"{s:,} x {s:,} cells; a row shows what one cell attends to. {sums}. Colours are weights times {s:,}, so 1 is an equal "
        f"share.{' Red: more under the perturbation.' if difference else ''}{shrunk}",
        table=lambda: _weights_table(maps, weights, sorting),
        height=460,
    )


def _weights_table(maps: AttentionMaps, weights: NDArray[np.float32], sorting: Sorting) -> pd.DataFrame:
    """The map in full: attending cells are rows, attended cells columns, both in the order shown."""
    names = maps.cells[sorting.order]
    table = pd.DataFrame(weights[np.ix_(sorting.order, sorting.order)], columns=names)
    table.insert(0, "attending_cell", names, allow_duplicates=True)
    return table


def cell_facts(maps: AttentionMaps, layer: int | None, head: int | None) -> pd.DataFrame:
    """A row a different basal cell of the set, the most attended first.

    Columns: row (of the data set; where it is not known, the name again), cell, batch, perturbed and control (attention received,
    times an equal share; the mean where a cell was drawn several times), change, distance (to the set's mean), times (how often it
    was drawn).
    """
    drawn = pd.DataFrame(
        {
            "row": maps.identities,
            "cell": maps.cells,
            "batch": maps.batches,
            "perturbed": numbers.received(numbers.chosen_map(maps.perturbed, layer, head)),
            "control": numbers.received(numbers.chosen_map(maps.control, layer, head)),
            "distance": numbers.distance_to_mean(maps.basal),
        }
    )
    grouped = drawn.groupby("row", sort=False)
    facts = grouped.agg({"cell": "first", "batch": "first", "perturbed": "mean", "control": "mean", "distance": "mean"})
    facts.insert(4, "change", facts["perturbed"] - facts["control"])
    return facts.assign(times=grouped.size()).reset_index().sort_values("perturbed", ascending=False, kind="stable")


def _shown_columns(facts: pd.DataFrame) -> list[str]:
    """Without what is the same for all cells."""
    same = {"row"} | {name for name, column in (("batch", facts["batch"]), ("times", facts["times"])) if column.nunique() == 1}
    return [name for name in facts.columns if name not in same]


def answer(maps: AttentionMaps, chosen: CellSet, layer: int | None, head: int | None) -> None:
    """Say how unevenly the set's cells are attended to, and what attention does not show: the answer of the page, before its figures."""
    facts = cell_facts(maps, layer, head)
    n_top = max(1, len(facts) // 10)
    weight = facts["perturbed"] * facts["times"]
    share = float(weight.head(n_top).sum() / max(float(weight.sum()), 1e-9))
    equal = float(facts["times"].head(n_top).sum() / facts["times"].sum())
    lead = "Hardly any cell stands out." if share < NEARLY_EQUAL * equal else "Some cells stand out."
    st.markdown(
        f"**{lead}** The most attended tenth ({n_top:,} of {plural(len(facts), 'cell')}) gets **{share:.0%}** of the attention under "
        f"{md(chosen.perturbation)}; equal shares would give {equal:.0%} ({head_words(layer, head).lower()})."
    )
    st.warning(CAUTION, icon=":material/warning:")


def most_attended(
    run: RunFolder, result: Result, chosen: CellSet, maps: AttentionMaps, layer: int | None, head: int | None
) -> None:
    """The set's cells on the run's map, and a table of what each receives."""
    facts = cell_facts(maps, layer, head)
    left, right = st.columns([1, 1], gap="large")
    with left:
        _map(run, result, chosen, facts)
    with right:
        st.markdown(f"**Most attended cells** under {md(chosen.perturbation)}, {head_words(layer, head).lower()}")
        st.dataframe(
            facts[_shown_columns(facts)],
            hide_index=True,
            key="attended_cells",
            height=400,
            column_config={
                "cell": st.column_config.TextColumn("Basal cell", pinned=True),
                "batch": st.column_config.TextColumn("Batch", width="small"),
                "perturbed": st.column_config.NumberColumn(
                    "Received", format="%.2f", help="Under the perturbation; 1 is an equal share."
                ),
                "control": st.column_config.NumberColumn("Under control", format="%.2f"),
                "change": st.column_config.NumberColumn("Change", format="%+.2f"),
                "distance": st.column_config.NumberColumn(
                    "Distance", format="%.2f", help="To the mean of the set, in the model's input."
                ),
                "times": st.column_config.NumberColumn("Times", format="%d", help="How often the cell was drawn into the set."),
            },
        )
        csv_button("Cells (CSV)", lambda: facts, "attended_cells.csv", "attended_csv")


def places_of(result: Result, rows: NDArray[np.int32], context: str, cells: Sequence[str | int]) -> NDArray[np.int64]:
    """Return the position of each cell among the rows of a projection, -1 where the observed control cell is not shown.

    Args:
        rows: of the result, that the projection shows.
        context: of the cells.
        cells: rows of the data set; barcodes, of which the first is taken, where the maps or the result know no rows.
    """
    obs = result.obs.iloc[rows]
    control = np.flatnonzero(((obs[keys.KIND] == keys.OBSERVED_CONTROL) & (obs[keys.CONTEXT] == context)).to_numpy())
    by_row = keys.BASAL_ROW in obs and all(isinstance(cell, int) for cell in cells)
    own = obs[keys.BASAL_ROW].tolist() if by_row else obs[keys.BASAL_CELL].astype(str).tolist()
    lookup = {own[place]: int(place) for place in reversed(control.tolist())}
    return np.array([lookup.get(cell, -1) for cell in cells], np.int64)


def _map(run: RunFolder, result: Result, chosen: CellSet, facts: pd.DataFrame) -> None:
    try:
        projection = open_projection(run)
    except RunError:
        st.caption("The run has no UMAP to show these cells on.")
        return
    places = places_of(result, projection.rows, chosen.context, facts["row" if keys.BASAL_ROW in result.obs else "cell"].tolist())
    found = places >= 0
    if not found.any():
        st.caption("The set's cells are not among those on the run's UMAP.")
        return
    values = facts["perturbed"].to_numpy(np.float32)[found]
    top = np.argsort(-values, kind="stable")[:TOP]
    missing = "" if found.all() else f" {plural(int((~found).sum()), 'cell')} of the set are not on the map, which is subsampled."
    show_figure(
        chart.on_the_map(projection.xy, projection.xy[places[found]], values, top, st.context.theme.type == "dark"),
        key="attention_umap",
        title="Where these cells lie",
        caption=f"{plural(int(found.sum()), 'basal cell')} of the set on the run's UMAP, coloured by attention received under the "
        f"perturbation; the {len(top)} most attended are ringed, other cells of the run grey.{missing} {projection.settings.note}.",
        table=lambda: facts[found].assign(umap_1=projection.xy[places[found], 0], umap_2=projection.xy[places[found], 1]),
        height=440,
    )


def groups(weights: NDArray[np.float32], sorting: Sorting, difference: bool, name: str) -> None:
    """Mean attention between groups of cells."""
    means = numbers.between_groups(weights, sorting.codes, len(sorting.groups))
    show_figure(
        chart.groups(means, sorting.groups, difference),
        key="attention_groups",
        title="From group to group",
        caption=f"{name}: mean weight from a cell of one group to a cell of another, times an equal share, {len(weights):,} cells. {sorting.about}",
        table=lambda: pd.DataFrame(means, columns=list(sorting.groups)).assign(attending_group=list(sorting.groups)),
        height=400,
    )


def downloads(run: RunFolder, chosen: CellSet) -> None:
    """The maps as they are."""
    path = run.file(chosen.file)
    st.markdown("**Take the maps home**")
    st.caption("All layers and heads under perturbation and control, the cells' names, batches and input: one NumPy archive.")
    st.download_button(
        "All maps (.npz)",
        data=path.read_bytes,
        file_name=f"attention {chosen.perturbation} {chosen.context} set {chosen.number + 1}.npz",
        mime="application/octet-stream",
        key="maps_npz",
        icon=":material/download:",
        on_click="ignore",
    )
    st.caption(
        "`numpy.load(file)` gives perturbed and control, each (layers, heads, cells, cells); a row sums to 1 with its tokens."
    )


def mixed(maps: AttentionMaps, layer: int | None, head: int | None) -> None:
    """The figures that let one judge the caution."""
    facts = cell_facts(maps, layer, head)
    distance, received = facts["distance"].to_numpy(np.float32), facts["perturbed"].to_numpy(np.float32)
    pairs = numbers.random_pairs(maps.basal[np.unique(maps.cells, return_index=True)[1]])
    rho = numbers.rank_correlation(distance, received)
    said = "not defined, as one of them does not vary" if np.isnan(rho) else f"{rho:+.2f}"
    left, right = st.columns(2, gap="large")
    with left:
        show_figure(
            chart.distances(distance, pairs),
            key="attention_mixed",
            title="How far the cells are from each other",
            caption=f"Euclidean distances in the model's input ({maps.basal.shape[1]:,} features) of {len(distance):,} different basal "
            f"cells; median {np.median(distance):.1f} to the set's mean, {np.median(pairs) if len(pairs) else 0:.1f} between random pairs "
            "(seed 0).",
            table=lambda: facts[["cell", "distance"]],
            height=340,
        )
    with right:
        show_figure(
            chart.attention_by_distance(distance, received, np.arange(min(TOP, len(facts)))),
            key="attention_distance",
            title="Do outlying cells draw the attention?",
            caption=f"{head_words(layer, head)}, under the perturbation. Spearman correlation of distance and attention received: {said} "
            f"({len(distance):,} cells).",
            table=lambda: facts[["cell", "distance", "perturbed"]],
            height=340,
        )
