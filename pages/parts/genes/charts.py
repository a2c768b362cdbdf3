"""Figures of the page Genes, from tables and arrays: volcano, one gene's cells, predicted against measured, one gene's conditions.

No Streamlit here and no files. Text colours are left to the theme, so that a figure is readable on light and on dark.
Notation: g genes; log2 fold changes and p-values as `state_engine.analysis.differential` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from pages.parts.format import drawn
from pages.parts.palette import BAND_COLOURS, DOWN, GREEN, NOT_SIGNIFICANT, UP
from state_engine.analysis import differential as de
from state_engine.effects.bands import BANDS, NOT_CALIBRATED
from state_engine.metrics.rules import detected
from state_engine.plain import first_places

SVG_POINTS: Final = 3000
"""Up to this many points are vector graphics; more are drawn by WebGL."""
LINE: Final = "rgba(128,128,128,0.75)"
FAINT: Final = "rgba(128,128,128,0.35)"
SMALLEST_P: Final = 308.0
"""-log10 of the smallest p-value that a float can hold."""
PLOT: Final = (370, 300)
"""Width and height in pixels that names are laid out for: those of a volcano in a window of 1440."""
_LETTER, _AWAY = 7.0, 12  # pixels: width of a letter, and from a point to its name
_WORDS = {"up": "up", "down": "down", "same": "no change"}


@dataclass(frozen=True)
class Volcano:
    """A volcano plot and what its caption needs.

    Args:
        figure: customdata of each point is its gene, as it is written.
        n_up, n_down: genes called.
        n_capped: genes whose p-value is 0 in floating point; they lie on the upper edge.
        named: genes with a label.
    """

    figure: go.Figure
    n_up: int
    n_down: int
    n_capped: int
    named: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CellGroup:
    """Cells of one kind: (n,) log1p expression of a gene, and their colour."""

    name: str
    values: NDArray[np.float32]
    colour: str


def directions(table: pd.DataFrame, fdr: float, fold: float) -> NDArray[np.str_]:
    """(g,) "up", "down" or "same", by `differential.directions`."""
    calls = de.directions(table, fold, fdr)
    return np.where(calls > 0, "up", np.where(calls < 0, "down", "same"))


def is_predicted(table: pd.DataFrame) -> bool:
    """Whether the cells of a table are predicted: then the effect orders its genes, not p."""
    return table.attrs.get("expression", "observed") != "observed"


def prominence(table: pd.DataFrame) -> NDArray[np.float64]:
    """(g,) how much each gene stands out: |log2 fold change|, in measured cells x -log10 p; genes that hardly a cell detects come last."""
    change = table["log2_fold_change"].abs().to_numpy(float)
    if not is_predicted(table):
        return change * heights(table["p_value"])[0]
    there = detected(table["fraction_perturbed"].to_numpy(float), table["fraction_reference"].to_numpy(float))
    return np.where(there, change, 0)


def leading_gene(table: pd.DataFrame) -> str:
    """The gene that stands out most, called or not; the one with the largest fold change when none does."""
    score = prominence(table)
    return str(table["gene"].iloc[int(np.argmax(score if score.max() > 0 else table["log2_fold_change"].abs().to_numpy(float)))])


def top_genes(table: pd.DataFrame, calls: NDArray[np.str_], direction: str, n: int) -> tuple[str, ...]:
    """The first n called genes of one direction, the most prominent first."""
    part = table[calls == direction]
    return tuple(part["gene"].iloc[np.argsort(-prominence(part), kind="stable")[:n]])


def heights(p: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """-log10 p, zeros set just above the highest other value, and which those are."""
    values = p.to_numpy(float)
    capped = values == 0
    with np.errstate(divide="ignore"):
        up = -np.log10(values)
    highest = float(up[~capped].max(initial=0.0))
    return np.where(capped, min(max(highest * 1.04, 1.0), SMALLEST_P) if (~capped).any() else SMALLEST_P, up), capped


def volcano(
    table: pd.DataFrame,
    *,
    fdr: float = 0.05,
    fold: float = 0.0,
    marked: Sequence[str] = (),
    chosen: str = "",
    names: int = 8,
) -> Volcano:
    """log2 fold change against -log10 p of all genes.

    Args:
        table: gene, log2_fold_change, p_value, fdr.
        fdr, fold: what is called, see `directions`.
        marked: a gene set; ringed, and named instead of the top genes.
        chosen: one gene, ringed and named.
        names: top genes to name in each direction.
    """
    x = table["log2_fold_change"].to_numpy(np.float32)
    y, capped = heights(table["p_value"])
    calls = directions(table, fdr, fold)
    genes = table["gene"].to_numpy(str)
    figure = go.Figure()
    for part, label, colour, behind in _groups(table, calls):
        label = f"{label} ({int(part.sum()):,})"
        figure.add_trace(_points(x[part], y[part].astype(np.float32), genes[part], label, colour, behind))
    _guides(figure, table, fdr, fold)
    shown = tuple(marked) or (*top_genes(table, calls, "up", names), *top_genes(table, calls, "down", names))
    named = tuple(dict.fromkeys([*([chosen] if chosen else []), *shown[:40]]))
    place = first_places(genes)
    rows = [place[gene] for gene in named if gene in place]
    ringed = [place[gene] for gene in (*marked, chosen) if gene in place]
    if ringed:
        figure.add_trace(_rings(x[ringed], y[ringed].astype(np.float32), "gene set" if marked else ""))
    top = max(float(y.max(initial=0)) * 1.08, 1.5)
    low, high = _sides_with_names(x, x[rows], genes[rows])
    figure.update_xaxes(title_text="log2 fold change", range=[low, high], zeroline=True, zerolinecolor=FAINT, showgrid=False)
    figure.update_yaxes(title_text="−log10 p", range=[-0.03 * top, top], showgrid=False, zeroline=False)
    labels = placed_labels(x[rows], y[rows], genes[rows], chosen, (high - low, 1.03 * top), -0.03 * top)
    figure.update_layout(annotations=labels, legend=LEGEND, dragmode="zoom")
    return Volcano(figure, int((calls == "up").sum()), int((calls == "down").sum()), int(capped.sum()), named)


def _groups(table: pd.DataFrame, calls: NDArray[np.str_]) -> list[tuple[NDArray[np.bool_], str, str, bool]]:
    """Return the genes of each colour, its name, the colour, and whether they lie behind: by band where there are any, else by direction."""
    same = calls == "same"
    if not has_bands(table):
        others = ((calls == call, _WORDS[call], colour, False) for call, colour in (("down", DOWN), ("up", UP)))
        return [(same, _WORDS["same"], NOT_SIGNIFICANT, True), *others]
    bands = table["band"].to_numpy(str)
    each = [
        (~same & (bands == band), f"{band} to hold" if "likely" in band else band, BAND_COLOURS[band], False)
        for band in reversed(BANDS)
    ]
    return [(same, _WORDS["same"], NOT_SIGNIFICANT, True), *each]


def has_bands(table: pd.DataFrame) -> bool:
    """Return whether a table says of each gene how sure its direction is."""
    return "band" in table and bool((table["band"] != NOT_CALIBRATED).any())


def _sides(x: NDArray[np.float32]) -> tuple[float, float]:
    """The range of fold changes with room for names; neither side of 0 gets less than a third of the other."""
    left, right = float(-x.min(initial=0)), float(x.max(initial=0))
    room = 0.2 * (left + right)
    left, right = left + room, right + room
    return -max(left, right / 3, 0.5), max(right, left / 3, 0.5)


def _width(name: str) -> float:
    """Return how many pixels a name takes."""
    return _LETTER * len(name) + 4


def _sides_with_names(x: NDArray[np.float32], at: NDArray[np.float32], names: NDArray[np.str_]) -> tuple[float, float]:
    """Return `_sides`, wide enough for the names of the points `at`, which stand outwards of them."""
    low, high = _sides(x)
    for _ in range(12):  # a wider range makes a pixel worth more
        unit = (high - low) / PLOT[0]
        ends = [
            float(a) + (1 if a >= 0 else -1) * unit * (min(_AWAY + _width(str(name)), 0.4 * PLOT[0]))
            for a, name in zip(at, names, strict=True)
        ]
        low, high = min([low, *ends]), max([high, *ends])
    return low, high


# at the lower edge of the figure, which leaves room for it: a share of a plot that a narrow page makes low would lie on the axis title
LEGEND: dict[str, Any] = {
    "orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "itemsizing": "constant", "title": {"text": ""},
}  # fmt: skip


def _points(
    x: NDArray[np.float32], y: NDArray[np.float32], genes: NDArray[np.str_], name: str, colour: str, behind: bool
) -> go.Scatter | go.Scattergl:
    kind = go.Scattergl if len(x) > SVG_POINTS else go.Scatter
    style = {"color": colour, "size": 5 if behind else 6.5, "opacity": 0.45 if behind else 0.8, "line": {"width": 0}}
    return kind(
        x=x,
        y=y,
        customdata=genes.astype(object),
        text=[drawn(gene) for gene in genes],
        mode="markers",
        name=name,
        marker=style,
        # a click selects a point; the others must not fade
        selected={"marker": {"opacity": style["opacity"]}},
        unselected={"marker": {"opacity": style["opacity"]}},
        hovertemplate="<b>%{text}</b><br>log2 fold change %{x:.2f}<br>−log10 p %{y:.1f}<extra></extra>",
    )


def _rings(x: NDArray[np.float32], y: NDArray[np.float32], name: str) -> go.Scatter:
    marker = {"size": 11, "color": "rgba(0,0,0,0)", "line": {"width": 1.6, "color": GREEN}}
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, hoverinfo="skip", name=name, showlegend=bool(name))


def _guides(figure: go.Figure, table: pd.DataFrame, fdr: float, fold: float) -> None:
    """Dotted lines at the smallest fold change and, in measured cells, at the largest p that is still called."""
    called = table.loc[table["fdr"] < fdr, "p_value"]
    if not is_predicted(table) and len(called) and called.max() > 0:
        figure.add_hline(y=-np.log10(called.max()), line={"dash": "dot", "width": 1, "color": LINE})
    for edge in (-fold, fold) if fold else ():
        figure.add_vline(x=edge, line={"dash": "dot", "width": 1, "color": LINE})


def placed_labels(
    x: NDArray[Any],
    y: NDArray[Any],
    genes: NDArray[np.str_],
    chosen: str,
    extent: tuple[float, float],
    lowest: float | None = None,
) -> list[dict[str, Any]]:
    """Names beside their points, outwards, moved up or down until they do not lie on one another.

    Args:
        extent: width and height of the axes, in their units.
        lowest: where the upright axis begins; no name lies below.
    """
    ground = -np.inf if lowest is None else lowest / extent[1] * PLOT[1]
    across, up = x / extent[0] * PLOT[0], y / extent[1] * PLOT[1]
    taken = [(a - 5, a + 5, b - 5, b + 5) for a, b in zip(across.tolist(), up.tolist(), strict=True)]  # no name on a named point
    out = []
    for i in np.lexsort((-np.abs(x), -y)):
        side = 1 if x[i] >= 0 else -1
        width, start = _width(str(genes[i])), across[i] + side * _AWAY
        left, right = sorted((start, start + side * width))
        for step in range(40):
            shift = (step + 1) // 2 * 7 * (-1 if step % 2 else 1)
            box = (left, right, up[i] + shift - 6.5, up[i] + shift + 6.5)
            if box[2] >= ground and not any(a < right and b > left and c < box[3] and d > box[2] for a, b, c, d in taken):
                break
        taken.append(box)
        text = f"<b>{drawn(genes[i])}</b>" if genes[i] == chosen else drawn(genes[i])
        out.append(_label(float(x[i]), float(y[i]), text, side * _AWAY, -shift, "left" if side > 0 else "right"))
    return out


def _label(x: float, y: float, text: str, ax: float, ay: float, anchor: str) -> dict[str, Any]:
    return {
        "x": x, "y": y, "text": text, "ax": ax, "ay": ay, "xanchor": anchor, "showarrow": True, "arrowhead": 0, "arrowwidth": 0.8,
        "arrowcolor": LINE, "standoff": 3, "font": {"size": 11}, "borderpad": 0, "captureevents": False,
    }  # fmt: skip


def violins(gene: str, groups: Sequence[CellGroup]) -> go.Figure:
    """Expression of one gene in groups of cells: a violin each, its cells, and the mean as a line."""
    figure = go.Figure()
    rng = np.random.default_rng(0)
    for place, group in enumerate(groups):
        values = group.values.astype(np.float32)
        if len(values) > 1 and np.ptp(values) > 0:
            figure.add_trace(
                go.Violin(
                    x=np.full(len(values), place, np.float32),
                    y=values,
                    spanmode="hard",
                    points=False,
                    width=0.8,
                    scalemode="width",
                    line={"width": 1, "color": group.colour},
                    fillcolor=group.colour,
                    opacity=0.4,
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        shown = rng.permutation(len(values))[:400]
        figure.add_trace(
            go.Scatter(
                x=(place + rng.uniform(-0.16, 0.16, len(shown))).astype(np.float32),
                y=values[shown],
                mode="markers",
                marker={"size": 3.5, "color": group.colour, "opacity": 0.7},
                showlegend=False,
                hovertemplate=f"{drawn(group.name)}<br>%{{y:.2f}}<extra></extra>",
            )
        )
        mean = float(values.mean()) if len(values) else float("nan")
        figure.add_shape(
            type="line", x0=place - 0.34, x1=place + 0.34, y0=mean, y1=mean, line={"width": 3, "color": group.colour}
        )
    words = [group_label(group) for group in groups]
    figure.update_xaxes(
        tickvals=list(range(len(groups))), ticktext=words, range=[-0.6, len(groups) - 0.4], showgrid=False, zeroline=False,
        tickangle=0, fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(title_text=f"{drawn(gene)} (log1p)", rangemode="tozero", zeroline=False)
    return figure


def group_label(group: CellGroup) -> str:
    """'predicted / n 256 / 82 % detect', broken into lines."""
    share = f"{(group.values > 0).mean():.0%} detect" if len(group.values) else "no cells"
    return (
        f"{drawn(group.name).replace(' ', '<br>', 1)}<br><span style='font-size:10px'>n {len(group.values):,}<br>{share}</span>"
    )


def agreement(genes: pd.DataFrame, predicted: str, *, fdr: float = 0.05, chosen: str = "", names: int = 10) -> go.Figure:
    """Predicted against measured log2 fold change of all genes, with the line where both are the same.

    Args:
        genes: gene, observed_log2_fold_change, observed_fdr and the column `predicted`.
        predicted: which column is drawn upwards.
        names: genes to name: those that change most in the measurement.
    """
    x, y = genes["observed_log2_fold_change"].to_numpy(np.float32), genes[predicted].to_numpy(np.float32)
    labels = genes["gene"].to_numpy(str)
    called = (genes["observed_fdr"].to_numpy(float) < fdr) & (x != 0)
    figure = go.Figure()
    parts = (("same", ~called, NOT_SIGNIFICANT), ("down", called & (x < 0), DOWN), ("up", called & (x > 0), UP))
    for call, part, colour in parts:
        trace = _points(x[part], y[part], labels[part], f"{_WORDS[call]} ({int(part.sum()):,})", colour, call == "same")
        trace.hovertemplate = "<b>%{text}</b><br>measured %{x:.2f}<br>predicted %{y:.2f}<extra></extra>"
        figure.add_trace(trace)
    low, high = _sides(np.r_[x, y])
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dash", "width": 1, "color": LINE})
    order = np.argsort(-np.abs(np.where(called, x, 0)), kind="stable")[:names]
    rows = list(dict.fromkeys([*np.flatnonzero(labels == chosen).tolist(), *order[called[order]].tolist()]))
    if chosen in labels:
        figure.add_trace(_rings(x[labels == chosen], y[labels == chosen], ""))
    axes: dict[str, Any] = {"range": [low, high], "showgrid": False, "zeroline": True, "zerolinecolor": FAINT}
    figure.update_xaxes(title_text="measured log2 fold change", **axes)
    figure.update_yaxes(title_text="predicted log2 fold change", scaleanchor="x", **axes)
    annotations = placed_labels(x[rows], y[rows], labels[rows], chosen, (high - low, high - low))
    figure.update_layout(annotations=annotations, legend=LEGEND, dragmode="zoom")
    return figure


def ranking_bars(ranking: pd.DataFrame, current: tuple[str, str], most: int = 20) -> go.Figure:
    """log2 fold change of one gene in the conditions that move it most, coloured by its band where it has one; the current one in bold.

    Args:
        ranking: perturbation, context, log2_fold_change, n_cells, band, the largest effect first.
    """
    shown = ranking.head(most).iloc[::-1]
    change = shown["log2_fold_change"].to_numpy(float)
    bands = shown["band"].tolist() if has_bands(shown) else []
    colours = [BAND_COLOURS.get(band, NOT_SIGNIFICANT) for band in bands] or [UP if value > 0 else DOWN for value in change]
    here = [(p, c) == current for p, c in zip(shown["perturbation"], shown["context"], strict=True)]
    names = [
        f"<b>{drawn(p)} · {drawn(c)}</b>" if now else f"{drawn(p)} · {drawn(c)}"
        for p, c, now in zip(shown["perturbation"], shown["context"], here, strict=True)
    ]
    hovers = [f"{name}<br>{band}" for name, band in zip(names, bands, strict=True)] if bands else names
    figure = go.Figure(
        go.Bar(
            x=change,
            y=list(range(len(shown))),
            orientation="h",
            customdata=hovers,
            showlegend=False,
            marker={"color": colours, "line": {"width": 0}},
            text=[f"{value:+.2f}" for value in change],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{customdata}<br>log2 fold change %{x:.2f}<extra></extra>",
        )
    )
    reach = max(float(np.abs(change).max(initial=0)) * 1.3, 0.1)
    figure.update_xaxes(title_text="log2 fold change", range=[-reach, reach], showgrid=False, zeroline=True, zerolinecolor=LINE)
    figure.update_yaxes(tickvals=list(range(len(shown))), ticktext=names, showgrid=False, zeroline=False, automargin=True)
    figure.update_yaxes(range=[-0.7, len(shown) + 0.8])  # room for the tool bar above the first
    return figure
