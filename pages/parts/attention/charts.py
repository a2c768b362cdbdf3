"""Figures of attention maps. Pure functions of arrays: no Streamlit, no files. Notation as in `attentionnumbers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts import palette
from pages.parts import umap as umapchart
from pages.parts.attention.numbers import Floats, shrink
from pages.parts.format import drawn

MOST_SHOWN: Final = 256
"""Cells a side of the detailed map; larger sets are averaged in blocks."""
THUMBNAIL: Final = 24
_GAP: Final = 2
_BAR: Final = {
    "thickness": 10,
    "len": 0.75,
    "outlinewidth": 0,
    "tickformat": ".2~g",
    "title": {"text": "x equal<br>share", "font": {"size": 11}},
}


@dataclass(frozen=True)
class Strip:
    """What cells are sorted by, drawn above the map: (s,) values in the order of the map, a name, and whether they are categories
    (then `names` says what code i is called)."""

    values: Floats
    name: str
    names: tuple[str, ...] = ()


def overview(small: Floats, focus: Floats, token_share: Floats, difference: bool, chosen: tuple[int, int] | None) -> go.Figure:
    """All heads side by side, layers from top to bottom; a click on a head chooses it (its customdata are layer and head, from 0).

    Args:
        small: (l, h, k, k) thumbnails, times an equal share (or a difference of two).
        focus: (l, h) effective number of cells attended to.
        token_share: (l, h) weight that does not go to cells.
        difference: colours diverge from 0.
        chosen: layer and head with a frame around.
    """
    layers, heads, k, _ = small.shape
    step = k + _GAP
    canvas = np.full((layers * step - _GAP, heads * step - _GAP), np.nan, np.float32)
    for i, j in np.ndindex(layers, heads):
        canvas[i * step : i * step + k, j * step : j * step + k] = small[i, j]
    figure = go.Figure(go.Heatmap(z=canvas, hoverinfo="skip", **colours(small, difference)))
    x, y = np.meshgrid(np.arange(heads) * step + (k - 1) / 2, np.arange(layers) * step + (k - 1) / 2)
    layer, head = np.mgrid[0:layers, 0:heads]
    facts = np.column_stack(
        [layer.ravel(), head.ravel(), layer.ravel() + 1, head.ravel() + 1, focus.ravel(), token_share.ravel()]
    )
    figure.add_trace(
        go.Scatter(
            x=x.ravel().astype(np.float32),
            y=y.ravel().astype(np.float32),
            mode="markers",
            customdata=facts.astype(np.float32),
            marker={"symbol": "square", "size": 34, "color": "rgba(0,0,0,0)", "line": {"width": 0}},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            hovertemplate="<b>Layer %{customdata[2]:d}, head %{customdata[3]:d}</b><br>a cell looks at %{customdata[4]:.1f} cells"
            "<br>%{customdata[5]:.0%} of the weight on tokens<extra></extra>",
            showlegend=False,
        )
    )
    if chosen is not None:
        left, top = chosen[1] * step - 1.3, chosen[0] * step - 1.3
        figure.add_shape(
            type="rect", x0=left, x1=left + k + 1.6, y0=top, y1=top + k + 1.6, line={"color": palette.VERMILION, "width": 2.5}
        )
    figure.update_layout(dragmode=False, hovermode="closest", clickmode="event+select")
    ticks: dict[str, Any] = {"tickmode": "array", "showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(title="Head", tickvals=x[0], ticktext=[str(j + 1) for j in range(heads)], side="top", **ticks)
    figure.update_yaxes(
        title="Layer", tickvals=y[:, 0], ticktext=[str(i + 1) for i in range(layers)], autorange="reversed", **ticks
    )
    return figure


def detail(weights: Floats, strip: Strip | None, difference: bool) -> go.Figure:
    """One map: rows attend to columns.

    Args:
        weights: (s, s) times an equal share (or a difference of two), in the order shown; averaged in blocks above `MOST_SHOWN`.
        strip: what the cells are sorted by.
        difference: colours diverge from 0.
    """
    s = len(weights)
    shown = shrink(weights, MOST_SHOWN)
    place = (np.arange(len(shown), dtype=np.float32) + 0.5) * s / len(shown) + 0.5
    figure = go.Figure(
        go.Heatmap(
            x=place,
            y=place,
            z=shown,
            hovertemplate="cell %{y:.0f} to cell %{x:.0f}: %{z:.3~g} x equal share<extra></extra>",
            **colours(shown[None], difference),
        )
    )
    plain: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "constrain": "domain"}
    figure.update_xaxes(title="attended cell", range=[0.5, s + 0.5], **plain)
    figure.update_yaxes(title="attending cell", range=[s + 0.5, 0.5], scaleanchor="x", **plain)
    if strip is not None:
        _add_strip(figure, strip)
    return figure


def _add_strip(figure: go.Figure, strip: Strip) -> None:
    s = len(strip.values)
    look: dict[str, Any] = {"colorscale": "Cividis", "hovertemplate": f"{drawn(strip.name)} %{{z:.2f}}<extra></extra>"}
    if strip.names:
        wheel = palette.categories(strip.names)
        n = len(strip.names)
        scale = [[edge / n, wheel[name]] for i, name in enumerate(strip.names) for edge in (i, i + 1)]
        look = {"colorscale": scale, "zmin": -0.5, "zmax": n - 0.5, "hoverinfo": "skip"}
    figure.add_trace(
        go.Heatmap(x=np.arange(1, s + 1, dtype=np.float32), y=[0], z=strip.values[None], yaxis="y2", showscale=False, **look)
    )
    figure.update_layout(
        yaxis={"domain": [0, 0.93]},
        yaxis2={
            "domain": [0.95, 0.985],
            "showticklabels": False,
            "ticks": "",
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )


def groups(means: Floats, names: Sequence[str], difference: bool) -> go.Figure:
    """(n, n) mean attention from group to group with its numbers written in."""
    places = [drawn(name, None) for name in names]
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=places,
            z=means,
            texttemplate="%{z:+.2~g}" if difference else "%{z:.2f}",
            hovertemplate="%{y} to %{x}: %{z:.3~g} x equal share<extra></extra>",
            **colours(means[None], difference),
        )
    )
    plain: dict[str, Any] = {"showgrid": False, "zeroline": False, "ticks": "", "type": "category", "constrain": "domain"}
    figure.update_xaxes(title="attended group", **plain)
    figure.update_yaxes(title="attending group", autorange="reversed", scaleanchor="x", **plain)
    return figure


def distances(to_mean: Floats, pairs: Floats) -> go.Figure:
    """How mixed a set is: distances of its cells to their mean, beside distances of random pairs."""
    everything = np.concatenate([to_mean, pairs])
    low, high = float(everything.min()), float(everything.max())
    bins = {"start": low, "end": high + 1e-6, "size": max((high - low) / 40, 1e-6)}
    figure = go.Figure()
    for values, name, colour in (
        (to_mean, "cell to mean of the set", palette.BLUE),
        (pairs, "random pair of cells", palette.GREY),
    ):
        figure.add_trace(
            go.Histogram(
                x=values, xbins=bins, histnorm="percent", name=f"{name} ({len(values):,})", opacity=0.65, marker={"color": colour},
                hovertemplate="%{x}: %{y:.1f}%<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="overlay", legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    figure.update_xaxes(title="distance in the model's input", showgrid=False)
    figure.update_yaxes(title="cells or pairs (%)")
    return figure


def attention_by_distance(to_mean: Floats, received: Floats, top: NDArray[np.int64]) -> go.Figure:
    """Attention that cells receive against how far they are from the set's mean; the most attended are marked."""
    figure = go.Figure()
    rest = np.setdiff1d(np.arange(len(to_mean)), top)
    for members, name, colour in ((rest, "cells", palette.GREY), (top, f"{len(top)} most attended", palette.VERMILION)):
        figure.add_trace(
            go.Scatter(
                x=to_mean[members], y=received[members], mode="markers", name=name,
                marker={"color": colour, "size": 7, "opacity": 0.8, "line": {"width": 0}},
                hovertemplate="distance %{x:.2f}<br>%{y:.2f} x equal share<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0})
    figure.update_xaxes(title="distance to the mean of the set", showgrid=False)
    figure.update_yaxes(title="attention received (x equal share)")
    return figure


def on_the_map(everything: Floats, places: Floats, values: Floats, top: NDArray[np.int64], dark: bool) -> go.Figure:
    """The set's cells on the run's UMAP, coloured by attention received; all other cells grey, the most attended ringed.

    Args:
        everything: (n, 2) places of all cells of the run.
        places, values: (m, 2) and (m,) of the set's cells.
        top: positions among them.
        dark: of the theme.
    """
    ink = umapchart.look(1, dark).ink
    figure = umapchart.value_map(
        places, values, "attention received", "x equal share", umapchart.Look(7, 0.95, ink), low=float(values.min(initial=1.0))
    )
    kind = go.Scatter if len(everything) <= umapchart.SVG_POINTS else go.Scattergl
    background = kind(
        x=everything[:, 0], y=everything[:, 1], mode="markers", hoverinfo="skip", showlegend=False,
        marker={"color": "#4a5255" if dark else palette.MISSING, "size": 3, "opacity": 0.6},
    )  # fmt: skip
    ring = go.Scatter(
        x=places[top, 0], y=places[top, 1], mode="markers", hoverinfo="skip", showlegend=False,
        marker={"size": 13, "color": "rgba(0,0,0,0)", "line": {"color": ink, "width": 1.4}},
    )  # fmt: skip
    framed = go.Figure([background, *figure.data, ring], figure.layout)
    framed.update_layout(dragmode="pan", showlegend=False)
    umapchart.fix_ranges(framed, everything)
    return framed


def colours(values: Floats, difference: bool) -> dict[str, Any]:
    """Colour scale for weights (0 to the 99th percentile) or for differences (centred on 0)."""
    known = values[np.isfinite(values)]
    if difference:
        top = float(np.quantile(np.abs(known), 0.99)) if len(known) else 0.0
        top = top or 1e-6
        return {"colorscale": palette.DIVERGING, "zmin": -top, "zmax": top, "colorbar": _BAR}
    top = float(np.quantile(known, 0.99)) if len(known) else 1.0
    return {"colorscale": palette.SEQUENTIAL, "zmin": 0.0, "zmax": max(top, 1.2), "colorbar": _BAR}
