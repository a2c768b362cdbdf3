"""Part of the Train page: the loss while it falls, and what validation cells say, read from the files that a training writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.parts import palette
from pages.parts.figures import show_figure
from pages.parts.format import drawn
from pages.parts.genes.charts import LEGEND
from state_engine.train.curves import LOG, VALIDATION, read_curve

MOST_POINTS = 1500  # of a line; more cannot be told apart on a screen
WINDOW = 0.02  # of the steps, for the running mean
ERROR_WORDS = {
    "mae": ("predicted", palette.VERMILION, "solid"),
    "mae_raw": ("raw", "#E69F00", "solid"),
    "mae_corrected": ("corrected", palette.VERMILION, "solid"),
    "mae_mean": ("mean of other contexts", palette.BLUE, "dot"),
    "mae_none": ("no change", palette.GREY, "dot"),
}


def curves(folder: Path, key: str) -> bool:
    """Both figures; False while nothing was written yet."""
    log, validation = read_table(folder / LOG), read_table(folder / VALIDATION)
    if log.empty:
        return False
    window = max(1, round(WINDOW * len(log)))
    left, right = st.columns(2)
    with left:
        show_figure(
            loss_figure(log, validation, window),
            key=f"{key}_loss",
            title="Loss",
            caption=f"{int(log['step'].iloc[-1]):,} steps{_smoothed(window)}. {_validated(validation)}",
            table=lambda: log,
            height=320,
        )
    errors = error_columns(validation)
    with right:
        if errors:
            show_figure(
                error_figure(validation, errors),
                key=f"{key}_error",
                title="Error on validation cells",
                caption="Mean absolute error of the mean cell of a set, lower is better. Corrected: control cells plus their predicted effect.",
                table=lambda: validation,
                height=320,
            )
        else:
            st.markdown("**Error on validation cells**")
            # the file begins with its column names when the training begins, and only where there is something to validate on
            st.caption("The first validation is still to come." if len(validation.columns) else "Nothing is kept for validation.")
    return True


def read_table(path: Path) -> pd.DataFrame:
    """A curve as a table; empty while it is not there."""
    return pd.DataFrame(read_curve(path))


def loss_figure(log: pd.DataFrame, validation: pd.DataFrame, window: int) -> go.Figure:
    """Training loss, pale and smoothed, and validation loss."""
    figure = go.Figure()
    every = thinned(log)
    figure.add_scatter(
        x=every["step"], y=every["loss"], mode="lines", line={"color": palette.GREY, "width": 1}, opacity=0.35,
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    mean = thinned(log.assign(loss=log["loss"].rolling(window, min_periods=1).mean()))
    figure.add_scatter(x=mean["step"], y=mean["loss"], mode="lines", name="training", line={"color": palette.GREY, "width": 2})
    if "loss" in validation and len(validation):
        figure.add_scatter(
            x=validation["step"], y=validation["loss"], mode="lines+markers", name="validation",
            line={"color": palette.VERMILION, "width": 2}, marker={"size": 6},
        )  # fmt: skip
    top = float(np.nanpercentile(log["loss"], 98)) if len(log) > 50 else float(log["loss"].max())
    lowest = float(min(log["loss"].min(), *validation.get("loss", pd.Series([np.inf]))))
    figure.update_yaxes(title="loss", range=[lowest - 0.05 * (top - lowest), top + 0.05 * (top - lowest) + 1e-9])
    figure.update_xaxes(title="step")
    return _framed(figure)


def error_columns(validation: pd.DataFrame) -> list[str]:
    """Columns of errors that the validation has, in the order of the legend."""
    known = [name for name in ERROR_WORDS if name in validation and len(validation)]
    return known + [name for name in validation if name.startswith("mae") and name not in known]


def error_figure(validation: pd.DataFrame, columns: list[str]) -> go.Figure:
    """Mean absolute errors over the steps."""
    figure = go.Figure()
    for name in columns:
        words, colour, dash = ERROR_WORDS.get(name, (drawn(name.removeprefix("mae_").replace("_", " ")), "#6b6b6b", "solid"))
        figure.add_scatter(
            x=validation["step"], y=validation[name], mode="lines" if dash == "dot" and len(validation) > 1 else "lines+markers", name=words,
            line={"color": colour, "width": 2, "dash": dash}, marker={"size": 6},
        )  # fmt: skip
    figure.update_yaxes(title="MAE")
    figure.update_xaxes(title="step")
    return _framed(figure)


def thinned(table: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_POINTS` rows, evenly, the last one among them."""
    if len(table) <= MOST_POINTS:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, MOST_POINTS).round().astype(int))]


def _framed(figure: go.Figure) -> go.Figure:
    figure.update_layout(legend=LEGEND)
    return figure


def _smoothed(window: int) -> str:
    return f": mean of {window:,} steps, and every step (pale)" if window > 1 else ""


def _validated(validation: pd.DataFrame) -> str:
    return "" if validation.empty else f"Validation at {len(validation):,} {'step' if len(validation) == 1 else 'steps'}."
