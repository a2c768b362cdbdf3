"""Figures of the page Compare: effects of two sides gene by gene, and cells of both on one map. No Streamlit and no files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts.figures import square
from pages.parts.format import drawn
from pages.parts.palette import BLUE, GREY, NOT_SIGNIFICANT, VERMILION
from state_engine.comparison.report import CellsMap, PairEffects
from state_engine.effects.scores import largest

SVG_POINTS = 3000
NAMED = 10
_GREEN = "#009E73"


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
        "both": (_GREEN, 0.9),
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
    figure.update_layout(legend={"title": {"text": "among the leading genes of"}, "orientation": "h", "y": -0.2})
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
    place: CellsMap, side: int, chosen: NDArray[np.bool_], selected: NDArray[np.bool_] | None, colour: str, dark: bool
) -> go.Figure:
    """Return one side's cells on the common map: control grey, its own coloured, the other side's as a pale ground.

    Args:
        chosen: (n,) cells of the pairs that are shown. selected: (n,) what is drawn around; None for nothing.
    """
    figure = go.Figure()
    own = (place.side == side) & chosen
    layers = [
        ("other side", chosen & (place.side != side), "#3a4245" if dark else "#e6e8e9", 4, 0.6),
        ("control", own & place.control, GREY, 5, 0.6), ("perturbed", own & ~place.control, colour, 5, 0.75),
    ]  # fmt: skip
    for name, part, ink, size, opacity in layers:
        faint = opacity if selected is None else np.where(selected[part], 0.95, 0.12)
        figure.add_trace(
            go.Scattergl(
                x=place.xy[part, 0], y=place.xy[part, 1], mode="markers", name=f"{name} ({int(part.sum()):,})", hoverinfo="skip",
                marker={"color": ink, "size": size, "opacity": faint},
            )
        )  # fmt: skip
    square(figure)
    every = place.xy[chosen]
    if len(every):  # the same section on both maps
        (x0, y0), (x1, y1) = every.min(axis=0), every.max(axis=0)
        margin = 0.05 * max(x1 - x0, y1 - y0, 1e-3)
        figure.update_xaxes(range=[x0 - margin, x1 + margin])
        figure.update_yaxes(range=[y0 - margin, y1 + margin])
    figure.update_layout(legend={"orientation": "h", "y": -0.08})
    return figure
