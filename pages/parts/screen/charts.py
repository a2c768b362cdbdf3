"""Figures of the page Screen: how alike effects are, and how large they are in each context. No Streamlit and no files.

Notation: k perturbations, c contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.parts.format import drawn
from pages.parts.genes.maps import heat_map
from pages.parts.palette import DIVERGING, MISSING, SEQUENTIAL
from state_engine.screening.report import Similarity

MOST_ALIKE: Final = 60
MOST_ROWS: Final = 40
MOST_NUMBERS: Final = 16  # genes whose changes are written into the cells
MOST_BELOW: Final = 20  # names that have room below half a page


def alike_figure(similarity: Similarity, names: list[str]) -> tuple[go.Figure, pd.DataFrame]:
    """Return the clustered correlations of some perturbations, in the order of the clustering of all, and their table."""
    taken = [i for i, name in enumerate(similarity.perturbations) if name in set(names)]
    labels = [similarity.perturbations[i] for i in taken]
    r = similarity.r[np.ix_(taken, taken)]
    shown = [drawn(name, 24) for name in labels]
    figure = go.Figure(
        go.Heatmap(
            z=r, x=list(range(len(labels))), y=list(range(len(labels))), colorscale=DIVERGING, zmin=-1, zmax=1,
            colorbar={"title": {"text": "r"}, "thickness": 12}, customdata=[[f"{a} and {b}" for b in shown] for a in shown],
            hovertemplate="%{customdata}<br>r %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    _axes(figure, shown, shown)
    if len(shown) > MOST_BELOW:
        figure.update_xaxes(
            showticklabels=False, title={"text": "the same perturbations, in the order of the rows", "font": {"size": 12}}
        )
    else:
        figure.update_xaxes(tickangle=-90)
    return figure, pd.DataFrame(r, index=labels, columns=labels).rename_axis("perturbation").reset_index()


def goal_figure(changes: pd.DataFrame, up: Sequence[str]) -> go.Figure:
    """Return log2 fold changes (k, u) of the genes of a goal in ranked conditions, with the way that each gene is to go; few have their numbers.

    Args:
        changes: conditions down (perturbation and context), in the order of the ranking. up: genes that are to go up; all others down.
    """
    named = changes.rename(columns={gene: f"{gene} {'↑' if gene in set(up) else '↓'}" for gene in changes.columns})
    figure = heat_map(named, ("", ""))
    if changes.shape[1] <= MOST_NUMBERS:
        figure.update_traces(texttemplate="%{z:.2f}", textfont={"size": 12})
        figure.update_xaxes(tickangle=0 if changes.shape[1] <= MOST_NUMBERS // 2 else -60)
    return figure


def size_figure(table: pd.DataFrame, names: list[str]) -> tuple[go.Figure, pd.DataFrame]:
    """Return effect sizes of some perturbations by context, and their table; what was not predicted is grey."""
    part = table[table["perturbation"].isin(names) & (table["made"] == "predicted")]
    sizes = part.pivot(index="perturbation", columns="context", values="effect_size").loc[
        [n for n in names if n in set(part["perturbation"])]
    ]
    rows, columns = ([drawn(name, 24) for name in axis] for axis in (sizes.index, sizes.columns))
    figure = go.Figure(
        go.Heatmap(
            z=sizes.to_numpy(np.float32), x=list(range(len(columns))), y=list(range(len(rows))), colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "effect size"}, "thickness": 12}, customdata=[[f"{p} in {c}" for c in columns] for p in rows],
            hovertemplate="%{customdata}<br>effect size %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    _axes(figure, columns, rows)
    return figure, sizes.reset_index()


def _axes(figure: go.Figure, columns: list[str], rows: list[str]) -> None:
    # numbers with words as ticks: names that are drawn the same would share a row
    every = max(1, len(rows) // 60)
    figure.update_layout(
        plot_bgcolor=MISSING, margin_pad=0
    )  # without room around it, which would be in the colour of what is missing
    figure.update_xaxes(
        tickvals=list(range(len(columns)))[::every], ticktext=columns[::every], showgrid=False, automargin=True,
        range=[-0.5, len(columns) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(rows)))[::every],
        ticktext=rows[::every],
        showgrid=False,
        automargin=True,
        range=[len(rows) - 0.5, -0.5],
    )
