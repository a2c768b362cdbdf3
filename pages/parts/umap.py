"""Draw the map of cells with plotly, from arrays: no Streamlit, no files.

Points are sent as float32 arrays without text. Categories are drawn in random order (in slices: each slice holds some of every
category), expression with the highest values on top, so that neither the order of the file nor the size of a group decides what
is seen. Notation: n points, in the order of the arrays that are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts import palette
from pages.parts.figures import square
from pages.parts.format import drawn

SVG_POINTS: Final = 3000
"""Up to this many points are drawn as vector graphics, more by WebGL."""
MOST_TRACES: Final = 48
TOP_QUANTILE: Final = 0.995
SHORT: Final = 0.12
"""Averaged arrows shorter than this share of the longest get no head: it would be larger than the arrow."""
# below the plot: beside it they would take a third of a narrow screen
_BAR: Final = {"orientation": "h", "thickness": 10, "len": 0.6, "x": 0, "xanchor": "left", "y": -0.085, "yanchor": "top"}
_LEGEND: Final = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.085, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"}
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """The look of points: `size` in pixels, `opacity` from 0 to 1, `ink` for the colour of arrows and outlines."""

    size: float
    opacity: float
    ink: str


def look(n: int, dark: bool) -> Look:
    """Return the look for n points: the more points, the smaller and the more transparent."""
    return Look(
        size=float(np.clip(9.5 - 1.55 * np.log10(max(n, 10)), 2.5, 7)),
        opacity=float(np.clip(1.45 - 0.22 * np.log10(max(n, 10)), 0.45, 0.9)),
        ink="#e8eceb" if dark else "#1c2321",
    )


def category_map(
    xy: Points,
    groups: Sequence[str],
    codes: NDArray[np.integer],
    detail: Sequence[str],
    detail_codes: NDArray[np.integer],
    colours: Mapping[str, str],
    style: Look,
    chosen: NDArray[np.bool_] | None = None,
) -> go.Figure:
    """Return the map with cells coloured by a category.

    Args:
        xy: (n, 2) UMAP units.
        groups, codes: names of the categories and (n,) the category of each point.
        detail, detail_codes: a second category, shown on hover.
        colours: category -> colour.
        style: size and opacity.
        chosen: (n,) True for points in the selection; the others fade. None: no selection.
    """
    figure = go.Figure()
    kind = _scatter(len(xy))
    counts = np.bincount(codes, minlength=len(groups))
    for i, name in enumerate(groups):  # the legend comes first, in the order of the names and with counts
        if counts[i]:
            figure.add_trace(
                go.Scatter(
                    x=[None], y=[None], mode="markers", name=f"{drawn(name)} ({counts[i]:,})", legendgroup=name, hoverinfo="skip",
                    marker={"color": colours[name], "size": 9},
                )
            )  # fmt: skip
    for piece in _slices(codes, detail_codes):
        group, second = groups[codes[piece[0]]], detail[detail_codes[piece[0]]]
        figure.add_trace(
            kind(
                x=xy[piece, 0],
                y=xy[piece, 1],
                mode="markers",
                name=drawn(group),
                legendgroup=group,
                showlegend=False,
                hovertemplate=f"<b>{drawn(group)}</b><br>{drawn(second)}<extra></extra>",
                marker={"color": colours[group], "size": style.size, "opacity": style.opacity, "line": {"width": 0}},
                **_selected(None if chosen is None else chosen[piece], style),
            )
        )
    return _framed(figure)


def value_map(
    xy: Points,
    values: NDArray[np.float32],
    name: str,
    unit: str,
    style: Look,
    chosen: NDArray[np.bool_] | None = None,
    low: float = 0.0,
) -> go.Figure:
    """Return the map with cells coloured by a number, the highest on top; cells without a value lie below in light grey.

    Args:
        xy: (n, 2) UMAP units.
        values: (n,), NaN where there is none.
        name, unit: of the number, for the colour bar.
        style: size and opacity.
        chosen: (n,) True for points in the selection.
        low: where the colours start.
    """
    figure = go.Figure()
    name = drawn(name)
    kind = _scatter(len(xy))
    known = np.flatnonzero(np.isfinite(values))
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        figure.add_trace(
            kind(
                x=xy[missing, 0], y=xy[missing, 1], mode="markers", name=f"no value ({len(missing):,})",
                hovertemplate="no value<extra></extra>",
                marker={"color": palette.MISSING, "size": style.size, "opacity": style.opacity},
                **_selected(None if chosen is None else chosen[missing], style),
            )
        )  # fmt: skip
    order = known[np.argsort(values[known], kind="stable")]  # plotly draws later points on top
    figure.add_trace(
        kind(
            x=xy[order, 0],
            y=xy[order, 1],
            mode="markers",
            name=name,
            showlegend=False,
            hovertemplate=f"<b>{name}</b> %{{marker.color:.2f}} {unit}<extra></extra>",
            marker={
                "color": values[order],
                "colorscale": palette.SEQUENTIAL,
                "cmin": low,
                "cmax": top_of(values),
                "size": style.size,
                "opacity": max(style.opacity, 0.8),
                "line": {"width": 0},
                "colorbar": _BAR | {"title": {"text": f"{name}, {unit}", "side": "top", "font": {"size": 12}}},
            },
            **_selected(None if chosen is None else chosen[order], style),
        )
    )
    return _framed(figure)


def top_of(values: NDArray[np.float32]) -> float:
    """Return the end of the colour scale: the 99.5th percentile, so that a few extreme cells do not take up the scale."""
    known = values[np.isfinite(values)]
    if not len(known) or not known.max() > 0:
        return 1.0
    top = float(np.quantile(known, TOP_QUANTILE))
    return top if top > 0 else float(known.max())


def add_arrows(figure: go.Figure, start: Points, end: Points, ink: str, weight: NDArray[np.integer] | None = None) -> None:
    """Add a line from each row of `start` to that of `end`, both (m, 2) in UMAP units.

    With `weight`, the number of cells that each arrow averages, the lines get heads and show it on hover.
    """
    if not len(start):
        return
    # one trace for all lines: a NaN after each pair of points lifts the pen
    gap = np.full(len(start), np.nan, np.float32)
    x = np.column_stack([start[:, 0], end[:, 0], gap]).ravel().astype(np.float32)
    y = np.column_stack([start[:, 1], end[:, 1], gap]).ravel().astype(np.float32)
    averaged = weight is not None
    line: dict[str, Any] = {"color": ink, "width": 1.2 if averaged else 0.5}
    figure.add_trace(
        _scatter(len(start))(
            x=x, y=y, mode="lines", line=line, opacity=0.95 if averaged else 0.16, hoverinfo="skip", showlegend=False
        )
    )
    if weight is None:
        return
    delta = end - start
    reach = float(np.hypot(*delta.T).max())
    heads = np.hypot(*delta.T) > SHORT * max(reach, 1e-9)
    end, delta, weight = end[heads], delta[heads], weight[heads]
    figure.add_trace(
        go.Scatter(
            x=end[:, 0],
            y=end[:, 1],
            mode="markers",
            customdata=weight.astype(np.int16),
            hovertemplate="mean of %{customdata:,} cells<extra></extra>",
            showlegend=False,
            # degrees clockwise from up; the axes have one scale, so the angle on screen is the angle in the data
            marker={
                "symbol": "arrow",
                "size": 7,
                "angle": np.degrees(np.arctan2(delta[:, 0], delta[:, 1])),
                "color": ink,
                "line": {"width": 0},
            },
        )
    )


def add_outline(figure: go.Figure, polygon: Points, ink: str) -> None:
    """Add the line around a selection, given by (k, 2) corners in UMAP units."""
    path = "M" + "L".join(f"{x:.4g},{y:.4g}" for x, y in polygon) + "Z"
    figure.add_shape(type="path", path=path, line={"color": ink, "width": 1.2, "dash": "dot"}, fillcolor="rgba(0,0,0,0)")


def inside(xy: Points, polygon: Points) -> NDArray[np.bool_]:
    """Return (n,) True for points inside a closed polygon of (k, 2) corners; where the polygon crosses itself, loops are holes."""
    found = np.zeros(len(xy), bool)
    if len(polygon) < 3:
        return found
    x, y = xy[:, 0].astype(np.float64), xy[:, 1].astype(np.float64)
    previous = polygon[-1].astype(np.float64)
    # a point is inside when a ray to its left crosses an odd number of edges
    for corner in polygon.astype(np.float64):
        crosses = (corner[1] > y) != (previous[1] > y)
        if crosses.any():
            rise = previous[1] - corner[1]
            where = corner[0] + (y[crosses] - corner[1]) * (previous[0] - corner[0]) / rise
            found[crosses] ^= x[crosses] < where
        previous = corner
    return found


def _slices(codes: NDArray[np.integer], second: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Return positions in random order, cut into slices, and each slice into pieces of one category and one second category."""
    rng = np.random.default_rng(0)  # the same picture each time the page runs
    both = codes.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
    n_pairs = max(1, len(np.unique(both)))
    pieces = []
    for part in np.array_split(rng.permutation(len(codes)), int(np.clip(MOST_TRACES // n_pairs, 1, 6))):
        order = part[np.argsort(both[part], kind="stable")]
        cuts = np.flatnonzero(np.diff(both[order])) + 1  # where the pair of categories changes
        found = [piece for piece in np.split(order, cuts) if len(piece)]
        pieces += [found[i] for i in rng.permutation(len(found))]
    return pieces


def _selected(chosen: NDArray[np.bool_] | None, style: Look) -> dict[str, Any]:
    if chosen is None:
        return {}
    return {
        "selectedpoints": np.flatnonzero(chosen).astype(np.int32),
        "selected": {"marker": {"opacity": max(style.opacity, 0.85)}},
        "unselected": {"marker": {"opacity": 0.08}},
    }


def _scatter(n: int) -> Any:
    return go.Scatter if n <= SVG_POINTS else go.Scattergl


def _framed(figure: go.Figure) -> go.Figure:
    figure.update_layout(dragmode="lasso", hovermode="closest", legend=_LEGEND)
    return square(figure)


def fix_ranges(figure: go.Figure, everything: Points) -> None:
    """Set the axes to show all cells of the projection, so that filters do not move the map."""
    low, high = everything.min(axis=0), everything.max(axis=0)
    pad = 0.04 * float((high - low).max())
    middle, half = (low + high) / 2, float((high - low).max()) / 2 + pad
    figure.update_xaxes(range=[float(middle[0]) - half, float(middle[0]) + half], constrain="domain")
    figure.update_yaxes(range=[float(middle[1]) - half, float(middle[1]) + half], constrain="domain")
