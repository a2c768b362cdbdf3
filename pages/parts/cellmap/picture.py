"""A map as a picture that the server draws, for browsers without WebGL: every cell, high values on top, in a plotly figure that can be
drawn around."""

from __future__ import annotations

import base64
import io
from typing import Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from pages.parts import umap as umapchart
from pages.parts.cellmap.colours import Categories
from pages.parts.cellmap.packet import FADE, Arrows, CellMap, Frame, drawing_order
from pages.parts.format import drawn

SIDE: Final = 1000
"""Pixels of the picture's sides."""


def pixels(shown: CellMap, radius: int) -> NDArray[np.uint8]:
    """Return the cells as an image (SIDE, SIDE, 4), top row first; each is a square of 2 `radius` + 1 pixels."""
    codes = shown.colour.packed(shown.shown)
    header = shown.colour.header(codes)
    order = drawing_order(len(codes))
    if not isinstance(shown.colour, Categories):
        order = order[np.argsort(codes[order], kind="stable")]  # later ones lie on top
    order = order[codes[order] > 0]
    if shown.chosen is not None:
        order = order[np.argsort(shown.chosen[order], kind="stable")]
    colours = np.array([[int(hex[i : i + 2], 16) for i in (1, 3, 5)] for hex in header["colours"]], np.uint8)
    at = np.rint(Frame.around(shown.xy).steps(shown.xy[order]) / 65_535 * (SIDE - 1 - 2 * radius)).astype(np.int64) + radius
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    alpha = np.full(len(order), 255, np.uint8)
    if shown.chosen is not None:
        alpha[~shown.chosen[order]] = round(255 * FADE)
    # the last cell at each pixel wins
    last = np.full((SIDE, SIDE), -1, np.int64)
    steps = range(-radius, radius + 1)
    for dy in steps:
        for dx in steps:
            np.maximum.at(last, (SIDE - 1 - at[:, 1] + dy, at[:, 0] + dx), np.arange(len(order)))
    found = last >= 0
    image[found, :3] = colours[codes[order][last[found]].astype(np.int64) - 1]
    image[found, 3] = alpha[last[found]]
    return image


def picture_map(shown: CellMap, dark: bool) -> go.Figure:
    """Return a plotly figure with the cells as one image, arrows and outline as lines, and a legend."""
    style, frame = umapchart.look(shown.n_shown, dark), Frame.around(shown.xy)
    file = io.BytesIO()
    Image.fromarray(pixels(shown, 2 if shown.n_shown <= 20_000 else 1)).save(file, "PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    figure = go.Figure()
    figure.add_layout_image(source=source, xref="x", yref="y", x=frame.x, y=frame.y + frame.side, sizex=frame.side, sizey=frame.side,
                            sizing="stretch", layer="below")  # fmt: skip
    _add_legend(figure, shown)
    # points that are not seen make the figure one that can be drawn around
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * frame.side + [frame.x, frame.y]
    figure.add_scatter(x=corners[:, 0], y=corners[:, 1], mode="markers", opacity=0, showlegend=False, hoverinfo="skip")
    for group in shown.arrows:
        _add_arrows(figure, group, style.ink)
    if shown.outline is not None:
        umapchart.add_outline(figure, np.asarray(shown.outline, np.float32), style.ink)
    umapchart.framed(figure)
    umapchart.fix_ranges(figure, np.asarray(shown.xy, np.float32))
    return figure


def _add_arrows(figure: go.Figure, group: Arrows, ink: str) -> None:
    # one trace for all: a NaN after each pair of points lifts the pen, and only ends have a head, turned along the line
    gap = np.full((len(group.start), 1), np.nan)
    x, y = (np.hstack([group.start[:, [i]], group.end[:, [i]], gap]).ravel() for i in (0, 1))
    heads = np.tile([0, 8 if group.heads else 0, 0], len(group.start))
    line = {"color": group.colour or ink, "width": group.width, "dash": "dash" if group.dashed else "solid"}
    marker = {"symbol": "arrow", "angleref": "previous", "size": heads, "color": group.colour or ink, "opacity": 1}
    figure.add_scatter(
        x=x, y=y, mode="lines+markers", line=line, marker=marker, opacity=group.opacity, hoverinfo="skip", showlegend=False
    )


def _add_legend(figure: go.Figure, shown: CellMap) -> None:
    header = shown.colour.header(shown.colour.packed(shown.shown))
    if isinstance(shown.colour, Categories):
        for name, count, colour in zip(header["names"], header["counts"], header["colours"], strict=True):
            if count:
                marker = {"color": colour, "size": 9}
                figure.add_scatter(x=[None], y=[None], mode="markers", name=f"{drawn(name)} ({count:,})", marker=marker)
        return
    title = {"text": f"{drawn(header['title'])}, {header['unit']}", "side": "top"}
    scale = {"cmin": header["low"], "cmax": header["high"], "colorscale": shown.colour.scale}
    bar = {"title": title, "orientation": "h", "y": -0.02, "thickness": 10}
    marker = {"color": [header["low"]], "colorbar": bar, **scale}
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
