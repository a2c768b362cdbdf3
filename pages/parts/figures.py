"""Show a figure with its title, a caption with method and n, and buttons that save it as SVG or PNG and its data as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.parts.format import md, sentences
from state_engine.plain import csv_file_for_people, csv_for_people

PLAIN_AXES = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}


def show_figure(
    figure: go.Figure,
    *,
    key: str,
    title: str,
    caption: str,
    table: Callable[[], pd.DataFrame] | None = None,
    height: int = 460,
    selectable: bool = False,
    on_select: Callable[[], None] | None = None,
    modes: Sequence[Literal["points", "box", "lasso"]] = ("lasso", "box"),
    chart: str = "",
) -> Any:
    """Show a figure with title, caption and buttons; return the selection, or None where points cannot be selected.

    Args:
        figure: what is drawn; its size and fonts come from here and from the theme.
        key: unique on the page; also the name of saved files.
        title: what the figure shows, in a biologist's words.
        caption: method and n.
        table: returns the data of the figure; called when the user downloads them.
        height: in pixels.
        selectable: points can be selected; the page then runs again.
        on_select: called before the page runs again (implies `selectable`); the event is in the session under KEY[_CHART]_plot.
        modes: the ways to select points.
        chart: a new value makes the browser forget selection and zoom of the figure.
    """
    selectable = selectable or on_select is not None
    figure = sized(figure, key, height)
    with st.container(key=f"figure_{key}"):
        st.markdown(f"**{md(title, most=200)}**")
        form = st.session_state.get(f"{key}_format", "SVG")
        config, alt = _config(key, form or "SVG", selectable), f"{title}. {caption}"
        plot_key = f"{key}_{chart}_plot" if chart else f"{key}_plot"
        if selectable:
            event: Any = st.plotly_chart(
                figure, key=plot_key, on_select=on_select or "rerun", selection_mode=modes, config=config, alt=alt
            )
        else:
            event = None
            st.plotly_chart(figure, key=plot_key, config=config, alt=alt)
        st.caption(sentences(caption))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.segmented_control(
                "Camera saves",
                ["SVG", "PNG"],
                default="SVG",
                key=f"{key}_format",
                label_visibility="collapsed",
                help="What the camera button above the figure saves.",
                wrap=True,
            )
            if table is not None:
                csv_button("Data (CSV)", table, f"{key}.csv", f"{key}_csv")
    return event


def csv_button(label: str, table: Callable[[], pd.DataFrame] | Path, name: str, key: str, disabled: bool = False) -> None:
    """Offer a table as a CSV for people: `table` is called, or its file is read, when the reader asks for it."""

    def content() -> bytes:
        return csv_file_for_people(table) if isinstance(table, Path) else csv_for_people(table()).encode()

    st.download_button(
        label,
        data=content,
        file_name=name,
        mime="text/csv",
        key=key,
        icon=":material/download:",
        on_click="ignore",
        disabled=disabled,
    )


def sized(figure: go.Figure, key: str, height: int = 460) -> go.Figure:
    """Give a figure its size and the name under which the browser keeps its zoom; return it.

    A figure that has them stays untouched, so that sessions can share one that a cache holds.
    """
    if (figure.layout.height, figure.layout.uirevision) != (height, key):
        # the axis titles and legend carry the words, so a figure without a title fits a paper as it is; the buttons lie above the plot
        figure.update_layout(height=height, margin={"l": 48, "r": 12, "t": 34, "b": 44}, uirevision=key)
    return figure


def _config(key: str, form: str, selectable: bool) -> dict[str, Any]:
    drop = ["autoScale2d", "zoomIn2d", "zoomOut2d"] + ([] if selectable else ["lasso2d", "select2d"])
    return {
        "displaylogo": False,
        "displayModeBar": True,
        "scrollZoom": False,
        "modeBarButtonsToRemove": drop,
        "toImageButtonOptions": {"format": form.lower(), "filename": key, "scale": 1 if form == "SVG" else 3},
    }


def square(figure: go.Figure, x: str = "UMAP 1", y: str = "UMAP 2") -> go.Figure:
    """Make a plot square, without grid and ticks, as is usual for embeddings; return it."""
    figure.update_xaxes(title={"text": x, "font": {"size": 11}}, **PLAIN_AXES)
    figure.update_yaxes(title={"text": y, "font": {"size": 11}}, scaleanchor="x", scaleratio=1, **PLAIN_AXES)
    figure.update_layout(legend={"itemsizing": "constant", "title": {"text": ""}})
    return figure
