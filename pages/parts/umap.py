"""Draw cells with plotly, from arrays: no Streamlit, no files. Attention's map; maps that one moves on are `pages.parts.cellmap`.

Points are sent as float32 arrays without text, the highest values on top, so that the order of the file does not decide what is seen.
Notation: n points, in the order of the arrays that are given.
"""

from __future__ import annotations

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
TOP_QUANTILE: Final = 0.995
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


def value_map(
    xy: Points,
    values: NDArray[np.float32],
    name: str,
    unit: str,
    style: Look,
    low: float = 0.0,
) -> go.Figure:
    """Return the map with cells coloured by a number, the highest on top; cells without a value lie below in light grey.

    Args:
        xy: (n, 2) UMAP units.
        values: (n,), NaN where there is none.
        name, unit: of the number, for the colour bar.
        style: size and opacity.
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
        )
    )
    return framed(figure)


def top_of(values: NDArray[np.float32]) -> float:
    """Return the end of the colour scale: the 99.5th percentile, so that a few extreme cells do not take up the scale."""
    known = values[np.isfinite(values)]
    if not len(known) or not known.max() > 0:
        return 1.0
    top = float(np.quantile(known, TOP_QUANTILE))
    return top if top > 0 else float(known.max())


def _scatter(n: int) -> Any:
    return go.Scatter if n <= SVG_POINTS else go.Scattergl


def framed(figure: go.Figure) -> go.Figure:
    """Make a figure one of a map: square, its legend below, drawn around by dragging; return it."""
    figure.update_layout(dragmode="lasso", hovermode="closest", legend=_LEGEND)
    return square(figure)


def fix_ranges(figure: go.Figure, everything: Points) -> None:
    """Set the axes to show all cells of the projection, so that filters do not move the map."""
    low, high = everything.min(axis=0), everything.max(axis=0)
    pad = 0.04 * float((high - low).max())
    middle, half = (low + high) / 2, float((high - low).max()) / 2 + pad
    figure.update_xaxes(range=[float(middle[0]) - half, float(middle[0]) + half], constrain="domain")
    figure.update_yaxes(range=[float(middle[1]) - half, float(middle[1]) + half], constrain="domain")
