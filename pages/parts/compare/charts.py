"""Figures of the page Compare: effects of two sides gene by gene, and cells of both on one map. No Streamlit and no files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts.cellmap import Categories, CellMap
from pages.parts.format import drawn
from pages.parts.genes.charts import LEGEND, SVG_POINTS
from pages.parts.palette import BLUE, GREEN, GREY, NOT_SIGNIFICANT, VERMILION
from state_engine.comparison.report import CellsMap, PairEffects
from state_engine.effects.scores import largest

NAMED = 10


def effect_table(found: PairEffects, top: int) -> pd.DataFrame:
    """Return gene, both effects, and which of them has the gene among its `top` largest; the largest sum of both first."""
    table = pd.DataFrame({"gene": found.genes, "first": found.first, "second": found.second})
    leads = {name: np.isin(np.arange(len(table)), largest(table[name].to_numpy(float), top)) for name in ("first", "second")}
    table["leads_in"] = np.select(
        [leads["first"] & leads["second"], leads["first"], leads["second"]], ["both", "first alone", "second alone"], "neither"
    )
    order = np.argsort(-(table["first"].abs() + table["second"].abs()).to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def effect_scatter(table: pd.DataFrame, names: tuple[str, str], slope: float | None, marked: str = "") -> go.Figure:
    """Return the effects of the first side against those of the second; leading genes are coloured, the first few named."""
    figure, kind = go.Figure(), go.Scatter if len(table) <= SVG_POINTS else go.Scattergl
    looks = {
        "neither": (NOT_SIGNIFICANT, 0.45),
        "second alone": (BLUE, 0.8),
        "first alone": (VERMILION, 0.8),
        "both": (GREEN, 0.9),
    }
    for word, (colour, opacity) in looks.items():
        part = table[table["leads_in"] == word]
        figure.add_trace(
            kind(
                x=part["first"], y=part["second"], mode="markers", name=f"{word} ({len(part):,})", customdata=part["gene"],
                text=[drawn(g) for g in part["gene"]], marker={"color": colour, "opacity": opacity, "size": 6},
                hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    _guides(figure, table, slope)
    named = table[(table["leads_in"] == "both") | (table["gene"] == marked)].head(NAMED)
    for row in named.itertuples():
        figure.add_annotation(
            x=row.first, y=row.second, text=drawn(row.gene), showarrow=False, xshift=4, yshift=9, font={"size": 10}
        )
    figure.update_xaxes(title_text=f"effect, {drawn(names[0], 60)} (log1p)", zeroline=True, showgrid=False)
    figure.update_yaxes(title_text=f"effect, {drawn(names[1], 60)} (log1p)", zeroline=True, showgrid=False)
    figure.update_layout(legend={**LEGEND, "title": {"text": "among the leading genes of"}})
    return figure


def _guides(figure: go.Figure, table: pd.DataFrame, slope: float | None) -> None:
    """Draw where both are equal, dotted, and the slope through the origin."""
    both = table[["first", "second"]].to_numpy(float)
    if not len(both):
        return
    low, high = float(both.min()), float(both.max())
    line = {"color": "rgba(128,128,128,0.7)", "width": 1}
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={**line, "dash": "dot"}, layer="below")
    if slope is not None:
        start, stop = float(both[:, 0].min()), float(both[:, 0].max())
        figure.add_shape(type="line", x0=start, y0=slope * start, x1=stop, y1=slope * stop, line=line, layer="below")


def side_map(
    place: CellsMap,
    side: int,
    pair: NDArray[np.bool_],
    selected: NDArray[np.bool_] | None,
    outline: NDArray[np.float32] | None,
    colour: str,
) -> CellMap:
    """Return one side's cells of a pair on the common map, control grey and its own coloured; both sides have the same section.

    Args:
        pair: (n,) cells of the pair that is looked at, of both sides.
        selected: (n,) what is drawn around, whose corners are `outline`; None for nothing.
        colour: of the side's perturbed cells.
    """
    names = ("control", "perturbed")
    look = Categories("Cells", names, np.where(place.control[pair], 0, 1), dict(zip(names, (GREY, colour), strict=True)))
    chosen, corners = (None, None) if selected is None else (selected[pair], outline)
    return CellMap(place.xy[pair], look, place.side[pair] == side, chosen, corners, link="compare")
