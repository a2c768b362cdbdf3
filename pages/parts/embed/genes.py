"""Parts of the Embed page: which genes the model reads most, averaged over groups of cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from pages.parts.embed.map import colours_of, over
from pages.parts.embed.similar import INK
from pages.parts.figures import show_figure
from pages.parts.format import drawn, plural
from pages.parts.jobs import derived_run, start_job
from pages.parts.result import stamp
from state_engine.data.dataset import Dataset
from state_engine.embedding.gene_attention_table import ClsAttention, load_cls_attention
from state_engine.embedding.jobs import Embedding, EmbedJob, GenesReadJob
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file

TOGETHER = "all cells together"
MEAN = "mean of all"


def genes_read(run: RunFolder, made: Embedding, data: Dataset) -> None:
    """Asks for the average attention of groups, and shows it."""
    st.markdown(
        "#### Which genes does the model read?\n"
        "A cell's place comes from one token (CLS) that attends to the cell's genes. Here is where it attends, averaged over the cells of a group."
    )
    _question(run, made, data)
    asked = derived_run(run, GenesReadJob)
    if asked is None:
        st.caption("Choose groups above; a table and a chart of their genes appear here.")
        return
    if over(asked, "genes_read_job"):
        _answer(asked)


def _question(run: RunFolder, made: Embedding, data: Dataset) -> None:
    left, middle, right = st.columns([2, 1, 1], vertical_alignment="bottom")
    column = left.selectbox("Groups", [*colours_of(data), TOGETHER], key="genes_read_column")
    cells = middle.number_input(
        "Cells a group, at most", 8, 4096, 128, key="genes_read_cells", help="Drawn at random by the embedding's seed."
    )
    if right.button("Read attention", type="primary", key="genes_read_go", icon=":material/visibility:"):
        request = run.request_as(EmbedJob).request
        if not Path(request.model).exists():
            st.error("**The model that made this embedding is not here any more.** Add it again.", icon=":material/error:")
            return
        # the copy has the same cells, and stays when the original is moved
        asked = GenesReadJob(replace(request, data=made.path), "" if column == TOGETHER else column, int(cells))
        start_job(asked, f"Genes read, by {column}", parent=run.id)
        st.rerun()


def _answer(asked: RunFolder) -> None:
    path = asked.file("genes_read.npz")
    seen = _loaded(str(path), stamp(path))
    left, middle, right = st.columns(3)
    groups = {str(name): int(n) for name, n in zip(seen.groups, seen.cells, strict=True)}
    group = left.selectbox(
        "Group", list(groups), format_func=lambda g: f"{g} · {groups[g]:,} cells", key=f"read_group_{asked.id}"
    )
    layer = middle.selectbox("Layer", [MEAN, *range(1, seen.layers + 1)], key=f"read_layer_{asked.id}")
    head = right.selectbox("Head", [MEAN, *range(1, seen.heads + 1)], key=f"read_head_{asked.id}")
    at = (None if layer == MEAN else int(layer) - 1, None if head == MEAN else int(head) - 1)
    table = seen.top(group, *at, n=20)
    chart, numbers = st.columns([3, 2], gap="medium")
    with chart:
        shown = table[::-1]
        names = [drawn(gene, None) for gene in shown["gene"]]
        figure = go.Figure(
            go.Bar(
                x=(100 * shown["attention"]).to_numpy(np.float32), y=names, orientation="h", marker={"color": INK},
                customdata=shown["cells_with_gene"].to_numpy(np.float32),
                hovertemplate="<b>%{y}</b> %{x:.2f} % of attention<br>in the sentence of %{customdata:.0%} of the cells<extra></extra>",
            )
        )  # fmt: skip
        figure.update_xaxes(title={"text": "% of attention"}, rangemode="tozero")
        figure.update_yaxes(automargin=True, dtick=1)
        where = f"layer {layer}, head {head}".replace(MEAN, "mean")
        show_figure(
            figure,
            key="genes_read",
            title=f"Genes that CLS attends to in {group}",
            caption=f"Mean over {plural(groups[group], 'cell')}, {where}. {_rest(seen, group, at)}",
            table=lambda: seen.table(),
            height=520,
        )
    with numbers:
        st.dataframe(
            table.assign(attention=100 * table["attention"], cells_with_gene=100 * table["cells_with_gene"])[
                ["gene", "attention", "cells_with_gene"]
            ],
            hide_index=True,
            key="genes_read_table",
            height=520,
            column_config={
                "gene": st.column_config.TextColumn("Gene", pinned=True),
                "attention": st.column_config.NumberColumn("Attention", format="%.2f%%", help="Share of CLS's attention, mean."),
                "cells_with_gene": st.column_config.NumberColumn("In cells", format="%.0f%%", help="Cells that express it."),
            },
        )
        st.caption(
            "The CSV has the top genes of every group, layer and head. Attention says what was read, not why: highly expressed "
            "genes get more of it by the model's design, and it is no mechanism."
        )


def _rest(seen: ClsAttention, group: str, at: tuple[int | None, int | None]) -> str:
    """Where the rest of the attention goes."""
    row = seen.groups.tolist().index(group)
    layers = slice(None) if at[0] is None else slice(at[0], at[0] + 1)
    heads = slice(None) if at[1] is None else slice(at[1], at[1] + 1)
    own, data, none = (100 * float(part[row, layers, heads].mean()) for part in (seen.cls, seen.dataset, seen.unexpressed))
    return f"CLS itself gets {own:.1f} %, the data set token {data:.1f} %, genes that are not expressed {none:.1f} %."


@st.cache_resource(max_entries=8, show_spinner=False)
def _loaded(path: str, written: int) -> ClsAttention:
    return read_file(load_cls_attention, Path(path))
