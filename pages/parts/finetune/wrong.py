"""Part of the Fine-tune page: the test cells that a head gets wrong, on a map of all test cells and as a table to take home."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from pages.parts import palette
from pages.parts.figures import csv_button, show_figure, square
from pages.parts.format import drawn, md, plural
from pages.parts.result import stamp
from state_engine.heads.report import CELLS, HeadReport, read_test_cells
from state_engine.library.foreign import read_file

MOST_COLOURS = 20  # labels that have a colour each; of more, right cells are grey and wrong ones red
MOST_POINTS = 20_000  # cells that are called rightly and drawn; those called wrongly are all drawn


@st.cache_data(max_entries=16, show_spinner=False)
def _read(folder: str, written: int) -> pd.DataFrame:
    return read_file(read_test_cells, Path(folder))


def show_wrong(report: HeadReport, folder: Path) -> None:
    """The cells that a head gets wrong: where they lie, and which they are."""
    title = "Which numbers is it farthest off?" if report.task == "regression" else "Which cells does it get wrong?"
    st.markdown(f"#### {title}")
    cells = _read(str(folder), stamp(folder / CELLS)) if (folder / CELLS).exists() else pd.DataFrame()
    if "map_1" in cells:
        _map(report, cells)
    wrong_cells(report, cells)


def error_of(cells: pd.DataFrame) -> pd.Series:
    """Return how far off each test cell of a regression is."""
    return (pd.to_numeric(cells["called"], errors="coerce") - pd.to_numeric(cells["truth"], errors="coerce")).abs()


def all_wrong(report: HeadReport, cells: pd.DataFrame) -> pd.DataFrame:
    """Return every test cell that is called wrongly, the surest first; of a regression all, the farthest off first."""
    if report.task == "regression":
        return cells.assign(error=error_of(cells)).sort_values("error", ascending=False, kind="stable")
    wrong = cells[cells["truth"] != cells["called"]]
    return wrong.sort_values("probability", ascending=False, kind="stable") if "probability" in wrong else wrong


def _map(report: HeadReport, cells: pd.DataFrame) -> None:
    figure = number_map(cells) if report.task == "regression" else wrong_map(cells)
    wrong = "colour is how far off" if report.task == "regression" else "crosses are called wrongly"
    show_figure(
        figure,
        key="head_wrong_map",
        title="Where do they lie?",
        caption=f"{plural(len(cells), 'test cell')}; {wrong}. The first two principal components of what the head reads.",
        table=lambda: cells,
        height=480,
    )


def wrong_map(cells: pd.DataFrame) -> go.Figure:
    """Return the map of test cells: the colour is the true label, a cross a cell that is called something else."""
    wrong = cells["truth"] != cells["called"]
    right = cells[~wrong]
    right = right.sample(MOST_POINTS, random_state=0) if len(right) > MOST_POINTS else right
    labels = sorted(set(cells["truth"]))
    colours = palette.categories(labels) if len(labels) <= MOST_COLOURS else {}
    figure = go.Figure()
    groups = [(name, right[right["truth"] == name], colours[name]) for name in labels] if colours else []
    for name, part, colour in groups or [("called rightly", right, palette.GREY)]:
        figure.add_trace(
            go.Scattergl(
                x=part["map_1"], y=part["map_2"], mode="markers", name=f"{drawn(name)} ({len(part):,})", hoverinfo="skip",
                marker={"size": 5, "color": colour, "opacity": 0.35},
            )
        )  # fmt: skip
    part = cells[wrong]
    inks = [colours.get(name, palette.VERMILION) for name in part["truth"]]
    figure.add_trace(
        go.Scattergl(
            x=part["map_1"], y=part["map_2"], mode="markers", name=f"called wrongly ({len(part):,})", text=_hover(part),
            hovertemplate="%{text}<extra></extra>", marker={"size": 9, "symbol": "x", "color": inks},
        )
    )  # fmt: skip
    return _framed(figure)


def number_map(cells: pd.DataFrame) -> go.Figure:
    """Return the map of test cells coloured by how far off the called number is, the farthest on top."""
    part = cells.assign(error=error_of(cells)).sort_values("error", kind="stable")
    figure = go.Figure(
        go.Scattergl(
            x=part["map_1"], y=part["map_2"], mode="markers", text=_hover(part), hovertemplate="%{text}<extra></extra>",
            marker={"size": 6, "color": part["error"], "colorscale": palette.SEQUENTIAL, "colorbar": {"title": {"text": "off by"}}},
        )
    )  # fmt: skip
    return _framed(figure)


def _hover(cells: pd.DataFrame) -> list[str]:
    lines = zip(cells["cell"], cells["truth"], cells["called"], strict=True)
    return [f"<b>{drawn(cell)}</b><br>label {drawn(truth)}, called {drawn(called)}" for cell, truth, called in lines]


def _framed(figure: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.085, "yanchor": "top"}
    figure.update_layout(legend=legend, hovermode="closest")
    return square(figure, "component 1", "component 2")


def wrong_table(report: HeadReport) -> pd.DataFrame:
    """Return the cells that are called wrongly, those called with most confidence first."""
    rows = [(w.cell, w.row, w.group, w.truth, w.called, w.probability) for w in report.wrong]
    table = pd.DataFrame(rows, columns=["cell", "row", "group", "truth", "called", "probability"])
    empty = [name for name in ("group", "probability") if not (table[name].notna() & (table[name] != "")).any()]
    return table.drop(columns=empty)


def wrong_cells(report: HeadReport, cells: pd.DataFrame) -> None:
    """The cells it gets wrong, as a table, and all of them as a file."""
    if not report.wrong:
        st.caption("None of the test cells.")
        return
    table = wrong_table(report)
    st.dataframe(
        table,
        hide_index=True,
        key="head_wrong",
        height=min(38 + 35 * len(table), 320),
        column_config={
            "cell": st.column_config.TextColumn("Cell", pinned=True),
            "row": st.column_config.NumberColumn("Row", format="%d", help="In the data set, counted from 0."),
            "group": st.column_config.TextColumn(md(report.split.column) or "Group"),
            "truth": st.column_config.TextColumn("Label"),
            "called": st.column_config.TextColumn("Called"),
            "probability": st.column_config.ProgressColumn("Probability", format="%.2f", min_value=0.0, max_value=1.0),
        },
    )
    of = f" of {report.n_wrong:,}" if report.n_wrong > len(table) else ""
    more = "farthest off" if report.task == "regression" else "called wrongly with most confidence: some may be labelled wrongly"
    st.caption(f"{plural(len(table), 'test cell')}{of}, {more}.")
    if len(cells):
        csv_button(
            "Cells it gets wrong (CSV)" if report.task != "regression" else "Cells, the farthest off first (CSV)",
            lambda: all_wrong(report, cells),
            "wrong_cells.csv",
            "head_wrong_csv",
        )
