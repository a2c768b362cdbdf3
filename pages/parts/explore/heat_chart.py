"""Figure of all conditions of a run, perturbations down and contexts across, each a cell that can be clicked. No Streamlit here and no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from pages.parts.format import drawn
from pages.parts.genes.maps import LIMIT, likeness_order
from pages.parts.palette import BAND_COLOURS, DIVERGING, MISSING, SEQUENTIAL
from state_engine.effects.bands import BANDS, NOT_CALIBRATED

MOST_ROWS, MOST_COLUMNS = 60, 40
GAP: Final = 0.4  # between conditions and their means, in cells
Condition = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Sheet:
    """What the map of conditions shows.

    Args:
        values: (r, c) effect size or log2 fold change, perturbations by contexts in the order drawn; NaN where nothing was predicted.
        bands: (r, c) band of doubt of each condition.
        marks: (r, c) how a condition stands, see `standing.mark_of`.
        words: (r, c) what the pointer says.
    """

    values: pd.DataFrame
    bands: pd.DataFrame
    marks: pd.DataFrame
    words: pd.DataFrame


def sheet_of(table: pd.DataFrame) -> Sheet:
    """Return a sheet of a table with the columns perturbation, context, value, band, mark and words; its largest rows, alike ones together."""
    grids = {
        name: table.pivot(index="perturbation", columns="context", values=name) for name in ("value", "band", "mark", "words")
    }
    values = grids["value"].astype(float)
    size = np.nan_to_num(values.abs().to_numpy())
    rows = np.sort(np.argsort(-size.max(axis=1, initial=0), kind="stable")[:MOST_ROWS])
    columns = np.sort(np.argsort(-size.max(axis=0, initial=0), kind="stable")[:MOST_COLUMNS])
    rows = rows[likeness_order(np.nan_to_num(values.to_numpy())[rows])]
    return Sheet(*(grid.iloc[rows, columns] for grid in (values, grids["band"], grids["mark"], grids["words"])))


def condition_map(sheet: Sheet, by: str, title: str, chosen: Condition) -> go.Figure:
    """Return the figure; customdata of a cell is its perturbation and context.

    Args:
        by: "size", "gene" or "band".
        title: of the colours.
        chosen: the condition that has a frame.
    """
    figure = go.Figure()
    values = sheet.values.to_numpy(float)
    colours, light = _colours(sheet, by, values)
    rows, columns = list(map(str, sheet.values.index)), list(map(str, sheet.values.columns))
    for j, context in enumerate(columns):
        there = np.flatnonzero(np.isfinite(values[:, j]))
        _add_cells(figure, sheet, j, there, [colours[i][j] for i in there], [bool(light[i, j]) for i in there], rows, context)
    _add_marks(figure, sheet, light, rows, columns)
    if by == "band":
        _add_bands(figure, sheet)
    else:
        _add_means(figure, values, _scale(by, values), rows, columns)
        _add_bar(figure, title, _scale(by, values))
    if chosen[0] in rows and chosen[1] in columns:
        i, j = rows.index(chosen[0]), columns.index(chosen[1])
        box = {"x0": j - 0.5, "x1": j + 0.5, "y0": i - 0.5, "y1": i + 0.5}
        for colour, width in (("#1c2321", 5), ("#ffffff", 2)):  # seen on every colour below
            figure.add_shape(type="rect", line={"color": colour, "width": width}, **box)
    end = 0 if by == "band" else 1 + GAP
    _set_axes(figure, rows, columns, end)
    return figure


def _scale(by: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the ends of the colours and the colours."""
    known = np.abs(values[np.isfinite(values)])
    top = float(known.max(initial=0.0)) or 1.0
    if by == "gene":
        reach = float(min(LIMIT, max(top, 0.25)))
        return {"cmin": -reach, "cmax": reach, "colorscale": DIVERGING}
    return {"cmin": 0.0, "cmax": top, "colorscale": SEQUENTIAL}


def _painted(values: Sequence[float], scale: Mapping[str, Any]) -> list[str]:
    share = (np.nan_to_num(np.asarray(values, float)) - scale["cmin"]) / (scale["cmax"] - scale["cmin"])
    return list(sample_colorscale(scale["colorscale"], np.clip(share, 0, 1).tolist()))


def _colours(sheet: Sheet, by: str, values: NDArray[np.float64]) -> tuple[list[list[str]], NDArray[np.bool_]]:
    """Return the colour of each cell, and whether marks on it have to be dark."""
    if by == "band":
        colours = [[BAND_COLOURS.get(str(band), MISSING) for band in row] for row in sheet.bands.to_numpy(object)]
        return colours, np.ones(values.shape, bool)
    scale = _scale(by, values)
    light = values > 0.6 * scale["cmax"] if by == "size" else np.abs(np.nan_to_num(values)) < 0.7 * scale["cmax"]
    return [_painted(row, scale) for row in values.tolist()], light


def _ink(light: bool) -> str:
    return "#1c2321" if light else "#ffffff"


def _add_cells(
    figure: go.Figure,
    sheet: Sheet,
    j: int,
    there: NDArray[np.intp],
    colours: list[str],
    light: list[bool],
    rows: list[str],
    context: str,
) -> None:
    marks = sheet.marks.iloc[:, j].tolist()
    pattern = {
        "shape": ["/" if marks[i] == "hatch" else "" for i in there], "fgcolor": [_ink(one) for one in light],
        "bgcolor": colours, "fillmode": "overlay", "size": 7, "solidity": 0.22,
    }  # fmt: skip
    seen = {"marker": {"opacity": 1}}  # a click selects a cell; the others must not fade
    figure.add_trace(
        go.Bar(
            x=np.full(len(there), 0.96), base=np.full(len(there), j - 0.48), y=there.astype(float), orientation="h", width=0.94,
            marker={"color": colours, "pattern": pattern, "line": {"width": 0}}, selected=seen, unselected=seen, showlegend=False,
            customdata=[[rows[i], context] for i in there], text=[sheet.words.iat[int(i), j] for i in there], textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip


def _add_marks(figure: go.Figure, sheet: Sheet, light: NDArray[np.bool_], rows: list[str], columns: list[str]) -> None:
    marks = sheet.marks.to_numpy(object)
    for name, symbol, size in (("ring", "circle-open", 12), ("dot", "circle", 5)):
        at = np.argwhere(marks == name)
        if not len(at):
            continue
        seen = {"marker": {"opacity": 1}}
        figure.add_trace(
            go.Scatter(
                x=at[:, 1].astype(float), y=at[:, 0].astype(float), mode="markers", showlegend=False, selected=seen, unselected=seen,
                marker={"symbol": symbol, "size": size, "color": [_ink(bool(light[i, j])) for i, j in at], "line": {"width": 2}},
                customdata=[[rows[i], columns[j]] for i, j in at], text=[sheet.words.iat[int(i), int(j)] for i, j in at],
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip


def _add_means(
    figure: go.Figure, values: NDArray[np.float64], scale: Mapping[str, Any], rows: list[str], columns: list[str]
) -> None:
    """Add the mean of each row and of each column, apart from the conditions; they cannot be chosen."""
    across, down = pd.DataFrame(values).mean(axis=1).to_numpy(), pd.DataFrame(values).mean(axis=0).to_numpy()
    edge = {
        "orientation": "h",
        "width": 0.94,
        "showlegend": False,
        "hovertemplate": "%{text}<extra></extra>",
        "textposition": "none",
    }
    ends = (
        (across, np.full(len(rows), len(columns) + GAP - 0.48), np.arange(len(rows), dtype=float), rows),
        (down, np.arange(len(columns)) - 0.48, np.full(len(columns), len(rows) + GAP), columns),
    )
    for means, base, y, names in ends:
        words = [f"<b>{drawn(name)}</b><br>mean {mean:.2f}" for name, mean in zip(names, means, strict=True)]
        figure.add_trace(
            go.Bar(
                x=np.full(len(means), 0.96), base=base, y=y, marker={"color": _painted(means.tolist(), scale)}, text=words, **edge
            )
        )


def _add_bar(figure: go.Figure, title: str, scale: Mapping[str, Any]) -> None:
    bar = {"title": {"text": title, "side": "top", "font": {"size": 12}}, "orientation": "h", "thickness": 10, "len": 0.5, "x": 0,
           "xanchor": "left", "y": -0.02, "yanchor": "top"}  # fmt: skip
    marker = {"color": [scale["cmin"]], "colorbar": bar, **scale}
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False, hoverinfo="skip"))


def _add_bands(figure: go.Figure, sheet: Sheet) -> None:
    unknown = [(NOT_CALIBRATED, MISSING)] if (sheet.bands == NOT_CALIBRATED).any(axis=None) else []
    for band, colour in [*((band, BAND_COLOURS[band]) for band in BANDS), *unknown]:
        marker = {"symbol": "square", "size": 11, "color": colour}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=band, marker=marker))
    figure.update_layout(legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -0.02, "yanchor": "top"})


def _set_axes(figure: go.Figure, rows: list[str], columns: list[str], end: float) -> None:
    more = ["<i>mean</i>"] if end else []
    plain = {"showgrid": False, "zeroline": False, "automargin": True, "fixedrange": True, "ticks": ""}
    at = [*range(len(columns)), *([len(columns) + GAP] if end else [])]
    figure.update_xaxes(
        tickvals=at, ticktext=[*map(drawn, columns), *more], side="top", tickangle=-40 if len(columns) > 3 else 0,
        title={"text": " ", "font": {"size": 12}, "standoff": 12},  # room for the buttons above the last name
        range=[-0.6, len(columns) - 0.4 + end], **plain,
    )  # fmt: skip
    at = [*range(len(rows)), *([len(rows) + GAP] if end else [])]
    figure.update_yaxes(
        tickvals=at, ticktext=[*(drawn(row, 24) for row in rows), *more], range=[len(rows) - 0.4 + end, -0.6], **plain
    )
    figure.update_layout(barmode="overlay", bargap=0, dragmode=False, hovermode="closest")
