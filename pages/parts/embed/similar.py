"""Parts of the Embed page: the reference cells most like picked ones, and labels by their vote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.parts import selection, session
from pages.parts.cells import cell_names
from pages.parts.embed.map import colours_of, label_codes, over
from pages.parts.figures import csv_button, show_figure
from pages.parts.format import drawn, md, plural
from pages.parts.jobs import derived_run, start_job
from pages.parts.result import stamp, whole_projection
from state_engine.data.dataset import Dataset
from state_engine.embedding.jobs import MOST_ASKED, Embedding, EmbedJob, Pick, SimilarJob, reference_folder
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.plain import distinct
from state_engine.search import query as search

ALL, LABEL, LASSO = "All cells", "By label", "Selected on the map"
INK = "#5b7f8c"
MOST_PAIRS = 20_000


def similar_cells(run: RunFolder, made: Embedding, data: Dataset) -> None:
    """What there is to compare with, which cells to ask about, and the answer."""
    stored = next((t for t in search.tables(reference_folder(session.settings())) if _fits(t, made)), None)
    if stored is None or not stored.cells:
        _nothing_stored(made)
        return
    _reference(stored)
    _question(run, made, data, stored)
    asked = derived_run(run, SimilarJob)
    if asked is None:
        st.caption("Pick cells above to see which reference cells are most like them, and which labels those carry.")
        return
    if over(asked, "similar_job"):
        _answer(asked, data)


def _fits(table: search.TableFacts, made: Embedding) -> bool:
    return table.model == made.model and table.width == made.cell_width


def _nothing_stored(made: Embedding) -> None:
    with st.container(border=True, key="no_reference"):
        st.markdown("#### There are no reference cells yet")
        st.markdown(
            "Similar cells are looked for among cells that were embedded **with the same model** and kept as a reference: an atlas, an "
            f"earlier experiment, annotated cells. None of {md(made.model_name)} are kept here. Embed a data set with "
            "“Keep as reference cells” switched on, then come back."
        )


def _reference(stored: search.TableFacts) -> None:
    with st.expander(f"Compared with {plural(stored.cells, 'reference cell')} of {plural(len(stored.datasets), 'data set')}"):
        table = pd.DataFrame(
            {
                "Data set": [d.name for d in stored.datasets],
                "Cells": [d.cells for d in stored.datasets],
                "Labels": [", ".join(d.labels) for d in stored.datasets],
                "Added": [d.added[:16].replace("T", " ") for d in stored.datasets],
            }
        )
        st.dataframe(table, hide_index=True, key="reference_table")
        st.caption(f"All embedded with {md(stored.model_name)}. Embeddings of other models have nothing in common with these.")


def _question(run: RunFolder, made: Embedding, data: Dataset, stored: search.TableFacts) -> None:
    polygon = selection.polygon_of(run)
    columns = colours_of(data)
    ways = [*([LABEL] if columns else []), LASSO, ALL]
    way = st.segmented_control(
        "Which cells?", ways, default=LASSO if polygon is not None else ways[0], key="pick_way", required=True, wrap=True
    )
    pick: Pick | None = Pick()
    if way == LABEL:
        pick = _by_label(data, columns)
    elif way == LASSO:
        pick = _by_lasso(run, polygon)
        if pick is None:
            st.info("Draw around cells with the lasso in the view “Map”, then come back.", icon=":material/lasso_select:")
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    k = left.number_input("Similar cells of each", 1, 50, 5, key="similar_k", help="More make the vote on a label steadier.")
    others = len(stored.datasets) > 1
    only = right.checkbox(
        "Only cells of other data sets",
        value=others,
        key=f"others_only_{len(stored.datasets)}",
        disabled=not others,
        help="Otherwise cells of this data set count as well; a cell is never compared with itself.",
    )
    n = len(pick.of(data)) if pick else 0
    if st.button(
        f"Find cells like {'these ' if n != 1 else 'this '}{plural(n, 'cell')}",
        type="primary",
        key="find_similar",
        icon=":material/search:",
        disabled=not n,
    ):
        choices = run.request_as(EmbedJob).request.choices
        job = SimilarJob(made.path, made.key, pick or Pick(), int(k), bool(only and others), choices)
        start_job(job, f"Cells like {job.pick.words}", parent=run.id)
        st.rerun()
    if n == MOST_ASKED:
        st.caption(f"Of more cells, a random sample of {MOST_ASKED:,} is asked about (seed 0).")


def _by_label(data: Dataset, columns: list[str]) -> Pick:
    left, right = st.columns(2)
    column = left.selectbox("Column", columns, key="pick_column")
    value = right.selectbox("Label", sorted(str(c) for c in data.columns[column].categories), key=f"pick_value_{column}")
    return Pick(column=column, value=str(value), words=f"{column} {value}")


def _by_lasso(run: RunFolder, polygon: np.ndarray | None) -> Pick | None:
    if polygon is None:
        return None
    projection = whole_projection(run)
    rows = projection.rows[selection.chosen_of(run, projection.xy)]
    return Pick(rows=tuple(rows.tolist()), words=f"{plural(len(rows), 'cell')} selected on the map") if len(rows) else None


def _answer(asked: RunFolder, data: Dataset) -> None:
    job = asked.request_as(SimilarJob)
    found = _found(str(asked.file("similar.csv")), stamp(asked.file("similar.csv")))
    where = "other data sets" if job.others_only else "all reference cells"
    st.markdown(f"#### What are these cells like? :gray[{md(job.pick.words)}]")
    left_out = f" {found.left_out:,} have no embedding and were left out." if found.left_out else ""
    st.caption(
        f"The {found.k} most similar of {found.stored:,} reference cells ({where}) for each of {plural(len(found.asked), 'cell')}, "
        f"by the cosine of the angle between embeddings.{left_out}"
    )
    labels = [c for c in found.table.columns if c not in search.FIXED and 0 < found.table[c].nunique() <= 200]
    if labels:
        first = data.labels.context_key if data.labels.context_key in labels else labels[0]
        label = st.selectbox("Label to take over", labels, index=labels.index(str(first)), key="transfer_label")
        _votes(search.transfer(found, label), label, data, found.k)
    _pairs(found)


@st.cache_resource(max_entries=8, show_spinner="Reading the answer")
def _found(path: str, written: int) -> search.Neighbours:
    return read_file(search.load, Path(path), within=Path(path).parent)


def _votes(votes: pd.DataFrame, label: str, data: Dataset, k: int) -> None:
    summed = votes.groupby("label").agg(cells=("cell", "size"), support=("support", "mean")).reset_index()
    summed["label"] = summed["label"].replace("", "no label")
    summed = summed.sort_values("cells", ascending=False)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        shown = summed.head(15)[::-1]
        figure = go.Figure(
            go.Bar(
                x=shown["cells"].to_numpy(np.int32), y=[drawn(label, None) for label in shown["label"]], orientation="h", marker={"color": INK},
                customdata=shown["support"].to_numpy(np.float32), hovertemplate="%{x:,} cells, mean support %{customdata:.0%}<extra></extra>",
            )
        )  # fmt: skip
        figure.update_xaxes(title={"text": "cells"})
        figure.update_yaxes(automargin=True)
        agree = agreement(votes, label, data)
        same = (
            f" The data set's own '{label}' says the same for {agree:.0%} of the cells that have one."
            if agree is not None
            else ""
        )
        show_figure(
            figure,
            key="votes",
            title=f"{label}, by the vote of the {k} most similar reference cells",
            caption=f"n = {plural(len(votes), 'cell')}; mean support {votes['support'].mean():.0%}.{same}",
            table=lambda: summed,
            height=120 + 26 * len(shown),
        )
    with right:
        st.markdown("**Each cell**")
        st.dataframe(
            votes.drop(columns="labelled"),
            hide_index=True,
            key="votes_table",
            height=320,
            column_config={
                "cell": st.column_config.TextColumn("Cell", pinned=True),
                "label": st.column_config.TextColumn(label),
                "support": st.column_config.ProgressColumn("Support", format="percent", min_value=0, max_value=1,
                                                           help=f"Share of its {k} similar cells that carry the label."),
                "votes": st.column_config.NumberColumn("Votes", format="%d"),
                "similarity": st.column_config.NumberColumn("Similarity", format="%.3f", help="Mean cosine of those that voted for it."),
            },
        )  # fmt: skip
        csv_button("Labels (CSV)", lambda: votes, "labels.csv", "download_labels.csv")
    st.caption(
        "A low support means that similar cells disagree, or lack the label: such a cell may be of a kind the reference does not have."
    )


def agreement(votes: pd.DataFrame, label: str, data: Dataset) -> float | None:
    """Share of the cells whose own label equals the voted one; None when the data set has no such column."""
    if label not in data.columns:
        return None
    # votes name cells as they are stored for the search: a name that repeats has its row behind
    names_of_rows = distinct(cell_names(str(data.path), stamp(data.path), data.choices).tolist(), "row")
    rows = pd.Series(np.arange(data.n_cells), index=names_of_rows).reindex(votes["cell"])
    known = rows.notna().to_numpy()
    names, codes = label_codes(data, label, rows[known].to_numpy(np.int32))
    own = np.array(names, object)[codes]
    there = own != ""
    return float((own[there] == votes["label"].to_numpy()[known][there]).mean()) if there.any() else None


def _pairs(found: search.Neighbours) -> None:
    st.markdown("**Most similar reference cells**")
    often = found.table.groupby(["similar_cell", "data_set"], sort=False).size()
    st.dataframe(
        found.table.head(MOST_PAIRS),
        hide_index=True,
        key="pairs_table",
        height=320,
        column_config={
            "cell": st.column_config.TextColumn("Cell", pinned=True),
            "rank": st.column_config.NumberColumn("Rank", format="%d"),
            "similar_cell": st.column_config.TextColumn("Similar cell"),
            "data_set": st.column_config.TextColumn("Data set"),
            "similarity": st.column_config.NumberColumn("Similarity", format="%.3f", help="Cosine, -1 to 1."),
        },
    )
    more = (
        f" The first {MOST_PAIRS:,} of {len(found.table):,} are shown; the file has all." if len(found.table) > MOST_PAIRS else ""
    )
    st.caption(
        f"{len(often):,} different reference cells; the one named most often is similar to {int(often.max()):,} cells.{more}"
    )
    csv_button("Similar cells (CSV)", lambda: found.table, "similar_cells.csv", "download_similar_cells.csv")
