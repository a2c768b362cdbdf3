"""Figures of the page Evaluate: conditions (prediction against a baseline), and genes of one condition (predicted against measured).

No Streamlit here and no files. Text colours are left to the theme.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts.format import drawn
from pages.parts.genes.charts import FAINT, LEGEND, LINE, SVG_POINTS, placed_labels
from pages.parts.palette import DOWN, GREY, UP, VERMILION

SYMBOLS = ("circle", "diamond", "square")


def conditions(
    table: pd.DataFrame, method: str, other: str, title: str, more_is_better: bool, chosen: tuple[str, str]
) -> go.Figure:
    """Return a figure with a point for each condition: the score of the baseline and that of the prediction.

    Args:
        table: perturbation, context, own, other: a row a condition.
        method, other: names of the prediction and of the baseline.
        title: of the metric.
        more_is_better: its direction.
        chosen: the condition that is ringed.
    """
    own, guess = table["own"].to_numpy(float), table["other"].to_numpy(float)
    better = own > guess if more_is_better else own < guess
    method, other = drawn(method), drawn(other)
    words = [f"{drawn(p)} in {drawn(c)}" if c else drawn(p) for p, c in zip(table["perturbation"], table["context"], strict=True)]
    figure = go.Figure()
    for part, name, colour, symbol in (
        (better, "prediction better", VERMILION, "circle"),
        (~better, "not better", GREY, "diamond"),
    ):
        figure.add_scatter(
            x=guess[part],
            y=own[part],
            mode="markers",
            name=f"{name} ({int(part.sum()):,})",
            customdata=np.flatnonzero(part),
            text=[words[i] for i in np.flatnonzero(part)],
            marker={
                "size": 9,
                "color": colour,
                "symbol": symbol,
                "opacity": 0.8,
                "line": {"width": 1, "color": "rgba(255,255,255,0.6)"},
            },
            hovertemplate=f"<b>%{{text}}</b><br>{method} %{{y:.4f}}<br>{other} %{{x:.4f}}<extra></extra>",
        )
    low, high = _range(np.r_[own, guess])
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dash", "width": 1, "color": LINE})
    here = [pair == chosen for pair in zip(table["perturbation"], table["context"], strict=True)]
    if any(here):
        ring = {"size": 16, "color": "rgba(0,0,0,0)", "line": {"width": 2, "color": LINE}}
        figure.add_scatter(x=guess[here], y=own[here], mode="markers", marker=ring, showlegend=False, hoverinfo="skip")
    arrow = "higher" if more_is_better else "lower"
    axes: dict[str, Any] = {"range": [low, high], "showgrid": False, "zeroline": False}
    figure.update_xaxes(title_text=f"{other}: {title} ({arrow} is better)", **axes)
    figure.update_yaxes(title_text=f"{method}: {title}", scaleanchor="x", **axes)
    return figure.update_layout(legend=LEGEND, clickmode="event+select")


def effects(
    genes: tuple[str, ...], measured: NDArray[np.float32], predicted: NDArray[np.float32], method: str, names: int = 10
) -> go.Figure:
    """Predicted against measured effect of every gene, (g,) log1p; the largest measured ones are named."""
    figure = go.Figure()
    kind = go.Scatter if len(genes) <= SVG_POINTS else go.Scattergl
    labels = np.array(genes, str)
    top = np.argsort(-np.abs(measured), kind="stable")[:names]
    top = top[measured[top] != 0]
    largest = np.isin(np.arange(len(genes)), top)
    for part, name, colour, size in (
        (~largest, f"genes ({int((~largest).sum()):,})", GREY, 4),
        (largest & (measured > 0), "largest, up", UP, 7),
        (largest & (measured < 0), "largest, down", DOWN, 7),
    ):
        if part.any():
            figure.add_trace(
                kind(
                    x=measured[part],
                    y=predicted[part],
                    mode="markers",
                    name=name,
                    text=[drawn(label) for label in labels[part]],
                    marker={"size": size, "color": colour, "opacity": 0.75},
                    hovertemplate="<b>%{text}</b><br>measured %{x:.3f}<br>predicted %{y:.3f}<extra></extra>",
                )
            )
    low, high = _range(np.r_[measured, predicted])
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dash", "width": 1, "color": LINE})
    axes: dict[str, Any] = {"range": [low, high], "showgrid": False, "zeroline": True, "zerolinecolor": FAINT}
    figure.update_xaxes(title_text="measured effect (log1p)", **axes)
    figure.update_yaxes(title_text=f"effect by {drawn(method)} (log1p)", scaleanchor="x", **axes)
    notes = placed_labels(measured[top], predicted[top], labels[top], "", (high - low, high - low))
    return figure.update_layout(annotations=notes, legend=LEGEND)


def skill_bars(table: pd.DataFrame) -> go.Figure:
    """Return a figure with a bar from the baseline (0) to a replicate (1) for each metric, and a dot with its interval for each method.

    Args:
        table: metric, method, baseline, skill, low, high, tells: a row for each method and metric; grey where the metric cannot tell.
    """
    figure = go.Figure()
    metrics = list(dict.fromkeys(table["metric"]))
    places = {metric: number for number, metric in enumerate(metrics)}
    methods = table["method"].nunique()
    figure.add_bar(
        x=[1] * len(metrics),
        y=list(places.values()),
        orientation="h",
        width=0.6,
        marker_color=FAINT,
        name="baseline to replicate",
        hoverinfo="skip",
    )
    colours = (VERMILION, UP, DOWN)
    for number, (method, part) in enumerate(table.groupby("method", sort=False)):
        # far-off values are drawn at the edge; the table beside has the numbers
        x = part["skill"].clip(-1.5, 1.5)
        figure.add_scatter(
            x=x,
            # methods above each other, so that their intervals can be told apart
            y=part["metric"].map(places) + 0.24 * (number - (methods - 1) / 2),
            mode="markers",
            name=str(method),
            customdata=part[["skill", "low", "high", "baseline", "metric"]],
            marker={
                "size": 11,
                "color": [colours[number % 3] if tells else GREY for tells in part["tells"]],
                "symbol": SYMBOLS[number % 3],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (part["high"].clip(-1.5, 1.5) - x).clip(lower=0),
                "arrayminus": (x - part["low"].clip(-1.5, 1.5)).clip(lower=0),
                "thickness": 1.5,
                "color": LINE,
            },
            hovertemplate="<b>%{customdata[4]}</b><br>skill %{customdata[0]:.2f} (%{customdata[1]:.2f} to %{customdata[2]:.2f})<br>"
            "0 is: %{customdata[3]}<extra></extra>",
        )
    figure.add_vline(x=0, line={"width": 1, "color": LINE})
    figure.update_xaxes(title_text="skill (0: baseline, 1: replicate)", range=[-1.6, 1.6], showgrid=False, zeroline=False)
    figure.update_yaxes(
        range=[len(metrics) - 0.4, -0.6], tickvals=list(places.values()), ticktext=metrics, showgrid=False, zeroline=False
    )
    # above the plot, where it covers no axis title on a narrow screen
    return figure.update_layout(legend=LEGEND, barmode="overlay")


def agreement(measured: NDArray[np.float32], predicted: NDArray[np.float32]) -> float | None:
    """Pearson correlation of two effects (g,); None where one is the same for every gene."""
    if np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return None
    return float(np.corrcoef(measured.astype(np.float64), predicted.astype(np.float64))[0, 1])


def _range(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = 0.06 * (high - low) or 0.05
    return low - room, high + room
