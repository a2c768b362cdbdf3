"""Figures of many genes at once: effects of all conditions as a clustered heat map, and a dot plot of groups of cells by genes. No Streamlit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts.format import drawn
from pages.parts.palette import BAND_COLOURS, DIVERGING
from state_engine.effects.bands import BANDS

MOST_ROWS, MOST_GENES = 80, 60
WOULD_HOLD: Final = "<b>would hold?</b>"
_BAR: Final = {"lenmode": "pixels", "len": 130, "y": 1, "yanchor": "top", "nticks": 5}  # as long in a map of few rows as of many
LIMIT: Final = 3.0  # log2 fold change at which colours end, where some gene goes further


def chosen_changes(changes: pd.DataFrame, genes: Sequence[str], rows: int = MOST_ROWS, columns: int = MOST_GENES) -> pd.DataFrame:
    """Return the part of the changes that is drawn, rows and genes in the order of their likeness.

    Args:
        changes: (k, g) log2 fold changes; perturbation and context are the index.
        genes: a gene set; without any, the genes that change most somewhere.
        rows, columns: drawn at most: the conditions and genes that change most.
    """
    there = [gene for gene in genes if gene in changes.columns]
    part = changes[there] if there else changes
    values = np.nan_to_num(np.abs(part.to_numpy(float)))
    top = np.sort(np.argsort(-values.max(axis=0, initial=0), kind="stable")[:columns])
    part = part.iloc[:, top]
    size = np.linalg.norm(np.nan_to_num(part.to_numpy(float)), axis=1)
    part = part.iloc[np.sort(np.argsort(-size, kind="stable")[:rows])]
    values = np.nan_to_num(part.to_numpy(float))
    return part.iloc[likeness_order(values), likeness_order(values.T)]


def likeness_order(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return rows so that alike ones lie together (average linkage, Euclidean, leaves in the best order)."""
    if len(values) < 3:
        return np.arange(len(values))
    from scipy.cluster.hierarchy import leaves_list, linkage

    return np.asarray(leaves_list(linkage(values, "average", optimal_ordering=len(values) <= 300)), np.int64)


def heat_map(part: pd.DataFrame, current: tuple[str, str], bands: Mapping[tuple[str, str], str] | None = None) -> go.Figure:
    """Log2 fold changes of genes (across) in conditions (down); the current condition in bold.

    Args:
        part: of `chosen_changes`.
        current: the condition that is looked at.
        bands: of conditions, drawn as squares in a last column; none: not calibrated.
    """
    values = part.to_numpy(float)
    reach = float(min(LIMIT, max(np.nanmax(np.abs(values), initial=0.0), 0.25)))
    names = [f"<b>{drawn(p)} · {drawn(c)}</b>" if (p, c) == current else f"{drawn(p)} · {drawn(c)}" for p, c in part.index]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=[drawn(gene) for gene in part.columns], y=names, zmin=-reach, zmax=reach, colorscale=DIVERGING, xgap=0.5, ygap=0.5,
            colorbar={"title": {"text": "log2FC"}, "thickness": 10, **_BAR},
            hovertemplate="%{y}<br><b>%{x}</b><br>log2 fold change %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    known = [(name, bands.get(pair, "")) for name, pair in zip(names, part.index, strict=True)] if bands else []
    for band in BANDS:
        rows = [name for name, one in known if one == band]
        if rows:
            figure.add_trace(
                go.Scatter(
                    x=[WOULD_HOLD] * len(rows), y=rows, mode="markers", name=band, hovertemplate=f"%{{y}}<br>{band}<extra></extra>",
                    marker={"symbol": "square", "size": 11, "color": BAND_COLOURS[band]},
                )
            )  # fmt: skip
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "title": {"text": ""}}
    )
    size = 9 if len(part.columns) > 40 else 12  # so that every gene has its name
    figure.update_xaxes(tickangle=-90, showgrid=False, automargin=True, type="category", dtick=1, tickfont={"size": size})
    figure.update_yaxes(showgrid=False, automargin=True, autorange="reversed", type="category")
    return figure


def dot_plot(means: pd.DataFrame, fractions: pd.DataFrame) -> go.Figure:
    """Mean expression (colour) and share of cells that detect it (size) of genes (across) in groups of cells (down).

    Args:
        means, fractions: (groups, genes) mean log1p expression, and 0 to 1.
    """
    groups, genes = list(means.index), list(means.columns)
    rows, columns = np.meshgrid(np.arange(len(groups)), np.arange(len(genes)), indexing="ij")
    shares = fractions.to_numpy(float).ravel()
    figure = go.Figure(
        go.Scatter(
            x=columns.ravel(), y=rows.ravel(), mode="markers", showlegend=False,
            marker={
                "size": 4 + 16 * np.sqrt(shares), "color": means.to_numpy(float).ravel(), "colorscale": "Viridis", "showscale": True,
                "colorbar": {"title": {"text": "mean"}, "thickness": 10, "len": 0.6}, "line": {"width": 0},
            },
            customdata=np.stack([np.repeat(groups, len(genes)), np.tile([drawn(g) for g in genes], len(groups)), (100 * shares).round(1)], axis=1),
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><br>mean %{marker.color:.2f}, %{customdata[2]} % detect<extra></extra>",
        )
    )  # fmt: skip
    ticks = {"showgrid": False, "zeroline": False, "automargin": True}
    figure.update_xaxes(
        tickvals=list(range(len(genes))),
        ticktext=[drawn(g) for g in genes],
        tickangle=-60,
        range=[-0.6, len(genes) - 0.4],
        **ticks,
    )
    figure.update_yaxes(tickvals=list(range(len(groups))), ticktext=groups, range=[len(groups) - 0.4, -0.6], **ticks)
    return figure
