"""A comparison: live while it runs, then its answer, each pair of conditions, effects gene by gene, and both maps with the genes of a selection."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts import session
from pages.parts.cellmap import Pick, inside, show_map
from pages.parts.compare.charts import effect_scatter, effect_table, side_map
from pages.parts.exposure import exposure_badge
from pages.parts.figures import csv_button, show_figure
from pages.parts.format import file_name, md, plural, sentences
from pages.parts.genes.table import read_table
from pages.parts.jobs import derived_run, job_panel, start_job
from pages.parts.palette import BLUE, GREEN, VERMILION
from pages.parts.result import can_compute, command_of, stamp
from pages.parts.runs.report import report_button
from pages.parts.runs.share import share_button
from state_engine.comparison.report import (
    COMPARISON,
    EFFECTS,
    INTERVALS,
    MAP,
    NEAR_0,
    PAIRS,
    CellsMap,
    Comparison,
    FoundPair,
    PairEffects,
    pairs_table,
    read_comparison,
    read_map,
    read_pair,
)
from state_engine.comparison.request import SelectionRequest
from state_engine.comparison.selection import LEAST, selection_path
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.metrics.rules import BY_FDR, significant
from state_engine.plain import agreed

_COLOURS = {"predicted": VERMILION, "measured": BLUE, "effects": VERMILION}


def show_comparison(run: RunFolder) -> None:
    """Draw it."""
    if not job_panel(run.id, title=run.manifest.title or "Comparison", key="compare_job"):
        return
    found = _comparison(str(run.path), stamp(run.file(COMPARISON)))
    if found is None:
        st.info("This comparison left no report. Compare again.", icon=":material/info:")
        return
    with st.container(horizontal=True):
        share_button(run, "compare")
        report_button(run)
    for number, sentence in enumerate(found.words()):
        st.markdown(f"**{sentences(sentence)}**" if not number else sentences(sentence))
    place = _pairs(run, found)
    pair = found.pairs[place]
    if pair.exposure != "not known":
        exposure_badge(pair.exposure)
    with st.container(key="halves_compare"):
        left, right = st.columns([1, 1], gap="large")
    with left:
        _scatter(run, found, place)
    with right:
        _numbers(found, pair)
    if run.file(MAP).exists():
        _maps(run, found, place)
    with st.expander("How to repeat this, and what to know"):
        st.caption(f"Intervals: {INTERVALS[found.interval]}.")
        for remark in found.remarks:
            st.markdown(f"- {sentences(remark)}")
        st.code(command_of(run), language="bash", wrap_lines=True)


@st.cache_data(max_entries=32, show_spinner=False)
def _comparison(folder: str, written: int) -> Comparison | None:
    return read_file(read_comparison, Path(folder))


@st.cache_data(max_entries=64, show_spinner=False)
def _pair(path: str, written: int, place: int) -> PairEffects:
    return read_file(read_pair, Path(path), place)


@st.cache_resource(max_entries=8, show_spinner=False)
def _map(path: str, written: int) -> CellsMap:
    return read_file(read_map, Path(path))


@st.cache_resource(max_entries=16, show_spinner=False)
def _places(path: str, written: int, place: int) -> NDArray[np.float32]:
    """Return where the cells of a pair lie: one array for both sides and all sessions, whose places are packed once."""
    cells = _map(path, written)
    return cells.xy[cells.pair == place]


def _pairs(run: RunFolder, found: Comparison) -> int:
    """Draw the pairs as a table and return the place of the one that is looked at."""
    options = list(range(len(found.pairs)))
    names = [p.name for p in found.pairs]
    session.recall("pair", [str(i) for i in options], "0")
    if len(options) > 1:
        table = pairs_table(found)
        table.insert(0, "pair", names)
        of_cells = [name for name in ("energy", "energy_control", "de_overlap") if table[name].notna().any()]
        shown = ["pair", "exposure", "pearson", "pearson_low", "pearson_high", "slope", "overlap", *of_cells]
        st.dataframe(
            table[shown].round({"overlap": 2, "de_overlap": 2}),
            hide_index=True, key="compare_pairs", height=min(38 + 35 * len(table), 388), placeholder="–",
            column_config={
                "pair": st.column_config.TextColumn("Conditions", pinned=True),
                "exposure": st.column_config.TextColumn("Trained on", help="Where one side predicts and the other is measured."),
                "pearson": st.column_config.NumberColumn("r of effects", format="%.2f"),
                "pearson_low": st.column_config.NumberColumn("r, low", format="%.2f", help=INTERVALS[found.interval]),
                "pearson_high": st.column_config.NumberColumn("r, high", format="%.2f"),
                "slope": st.column_config.NumberColumn("Slope", format="%.2f", help="Of the second side's effect on the first's."),
                "overlap": st.column_config.NumberColumn(f"Top {found.top} shared", format="percent"),
                "energy": st.column_config.NumberColumn("Energy distance", format="%.2f", help=NEAR_0),
                "energy_control": st.column_config.NumberColumn("of controls", format="%.2f", help=f"The same between their control cells. {NEAR_0}"),
                "de_overlap": st.column_config.NumberColumn("DE shared", format="percent"),
            },
        )  # fmt: skip
        st.selectbox(
            "Look at", [str(i) for i in options], key="pair", format_func=lambda i: names[int(i)], persist_state="session"
        )
    place = int(st.session_state.get("pair", "0"))
    session.show_in_address("compare", {"pair": "0"})
    csv_button("All pairs (CSV)", run.file(PAIRS), file_name(f"pairs of {run.manifest.title}", ".csv"), "compare_pairs_csv")
    return place


def _scatter(run: RunFolder, found: Comparison, place: int) -> None:
    pair = found.pairs[place]
    table = effect_table(_pair(str(run.file(EFFECTS)), stamp(run.file(EFFECTS)), place), found.top)
    names = found.first.name, found.second.name
    show_figure(
        effect_scatter(table, names, pair.slope),
        key="compare_effects",
        title=f"Effects gene by gene: {pair.name}",
        caption=f"{found.genes:,} genes; differences of mean log1p expression to the control of each side. r {pair.pearson.words}"
        f"{f', slope {pair.slope:.2f} (line)' if pair.slope is not None else ''}; dotted: equal. Coloured: the {found.top} largest of each side.",
        table=lambda: table,
        height=520,
    )


def _numbers(found: Comparison, pair: FoundPair) -> None:
    """Draw the numbers of a pair, each with what it is compared with."""
    lines = ["| Number | Of this pair |", "|:--|:--|", *(f"| {name} | {words} |" for name, words in number_rows(found, pair))]
    st.markdown("\n".join(lines).replace("-0", "−0"))
    below = min(pair.energy.value or 0, pair.energy_control or 0) < 0
    energy = f"Energy distance in up to {found.components} principal components of the cells of both."
    parts = [
        f"{found.test}." if found.test else "",
        f"{energy}{f' {NEAR_0}' if below else ''}" if found.components else "",
        means_only(found, pair),
        f"Intervals: {INTERVALS[found.interval]}." if found.interval else "",
    ]
    st.caption(sentences(" ".join(filter(None, parts))))


def number_rows(found: Comparison, pair: FoundPair) -> list[tuple[str, str]]:
    """Return the numbers of a pair that exist, each with its name; what needs cells is left out where a side has means only."""
    rows = [
        ("Correlation of effects", pair.pearson.words),
        (f"Of the {found.top} largest effects", f"{pair.overlap:.0%} are shared"),
    ]
    called, cells = (pair.called_first, pair.called_second), (pair.n_first, pair.n_second)
    if any(n is not None for n in called):
        rows.append(("Genes called, first and second", " and ".join("not tested" if n is None else f"{n:,}" for n in called)))
    if pair.de_overlap is not None:
        direction = f", {pair.same_direction:.0%} of them in the same direction" if pair.same_direction is not None else ""
        rows.append(("Of the genes called on the second side", f"{pair.de_overlap:.0%} lead on the first{direction}"))
    if pair.energy.value is not None:
        controls = f" (between their controls {pair.energy_control:.2f})" if pair.energy_control is not None else ""
        rows.append(("Energy distance of the cells", f"{pair.energy.words}{controls}"))
    if any(cells):
        rows.append(("Cells, first and second", " and ".join(f"{n:,}" if n else "means only" for n in cells)))
    return rows


def means_only(found: Comparison, pair: FoundPair) -> str:
    """Return which sides have means without cells and what therefore does not exist, a sentence; "" where both have cells."""
    sides = ((found.first.name, pair.n_first, pair.called_first), (found.second.name, pair.n_second, pair.called_second))
    without = [(name, called) for name, n, called in sides if not n]
    if not without:
        return ""
    which = "Means only" if len(without) == len(sides) else f"{without[0][0]}: means only"
    test = "no test of genes, " if any(called is None for _, called in without) else ""
    return f"{which}: no cells, so {test}no energy distance and no intervals over cells."


@st.fragment
def _maps(run: RunFolder, found: Comparison, place: int) -> None:
    """Draw both sides on one map, side by side; what is drawn around on one is selected on both, and tested."""
    st.markdown("#### The same map, side by side")
    path = run.file(MAP)
    cells = _map(str(path), stamp(path))
    xy = _places(str(path), stamp(path), place)
    chosen = (cells.pair == place).astype(bool)
    if not chosen.any():
        st.caption(
            "The cells of this pair are not on the map, which has those of the first pairs alone. Compare the two by themselves."
        )
        return
    key = f"compare_polygon_{run.id}_{place}"  # another pair has other cells
    polygon = st.session_state.get(key)
    selected = None if polygon is None else np.asarray(inside(cells.xy, polygon), bool) & chosen
    inks = [_COLOURS[found.first.kind], _COLOURS[found.second.kind]]
    if inks[0] == inks[1]:
        inks[1] = GREEN
    for side, (column, about) in enumerate(zip(st.columns(2, gap="medium"), (found.first, found.second), strict=True)):
        with column:
            shown = replace(side_map(cells, side, chosen, selected, polygon, inks[side]), xy=xy)
            show_map(
                f"compare_map_{side}",
                shown,
                title=about.name,
                caption=f"{plural(int(((cells.side == side) & chosen).sum()), 'cell')}, control cells among them; one UMAP of both sides. What is "
                "drawn around here is selected on both.",
                table=lambda: _cell_table(cells, found),
                height=420,
                on_pick=partial(_remember, key),
            )
    if selected is None:
        st.caption(
            "Draw around cells with the lasso on either map: the genes that differ between the two sides there are tested."
        )
        return
    _selection(run, found, cells, selected, key)


def _remember(key: str, pick: Pick) -> None:
    st.session_state[key] = pick.outline


def _selection(run: RunFolder, found: Comparison, cells: CellsMap, selected: NDArray[np.bool_], key: str) -> None:
    rows = [np.flatnonzero(selected & (cells.side == side) & ~cells.control).tolist() for side in (0, 1)]
    controls = int((selected & cells.control).sum())
    with st.container(horizontal=True, vertical_alignment="center"):
        words = " and ".join(
            f"{plural(len(own), 'perturbed cell')} of {md(side.name)}"
            for own, side in zip(rows, (found.first, found.second), strict=True)
        )
        st.markdown(f"**Selected: {words}.**" + (f" {_left_out(controls)}" if controls else ""))
        if st.button("Clear selection", key="compare_clear", icon=":material/close:"):
            del st.session_state[key]
            st.rerun()
    if min(map(len, rows)) < LEAST:
        st.caption(f"A test needs {LEAST} perturbed cells of each side in the selection.")
        return
    path = selection_path(run.path, *rows)
    if not path.exists():
        request = SelectionRequest(run.id, tuple(rows[0]), tuple(rows[1]))
        asked = derived_run(run, request)
        if asked is None:
            if not can_compute("The genes of this selection are") or not st.button(
                "Which genes differ here?", key="compare_test", type="primary"
            ):
                return
            identity = start_job(request, "Genes of a selection", parent=run.id)
        else:
            identity = asked.id
        if not job_panel(identity, title="Comparing genes", key="compare_test_job") or not path.exists():
            return
    table = differing_first(read_table(str(path), stamp(path)))
    st.markdown(differing_words(table, found.first.name, found.second.name))
    st.dataframe(_with_names(table, found), hide_index=True, key="compare_selection", height=320)
    st.caption(
        f"{sentences(found.second.name)} against {md(found.first.name)}, two-sided Mann-Whitney U test, FDR by Benjamini-Hochberg; log2 fold "
        f"change above 0: higher in {md(found.second.name)}. Genes that differ come first, then the largest changes."
    )
    csv_button("Genes (CSV)", lambda: table, file_name(f"selection of {run.manifest.title}", ".csv"), "compare_selection_csv")


def _left_out(controls: int) -> str:
    return f"The {plural(controls, 'control cell')} among them {agreed(controls, 'is', 'are')} not tested."


def differing_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return the genes of a selection, those that differ (`metrics.rules.significant`) first, each part by its fold changes."""
    called, size = significant(table["fdr"].to_numpy(float)), table["log2_fold_change"].abs().to_numpy(float)
    return table.iloc[np.lexsort((-size, ~called))]


def differing_words(table: pd.DataFrame, first: str, second: str) -> str:
    """Return how many genes differ between the selected cells of two sides, for Markdown; the names are of the sides."""
    called = significant(table["fdr"].to_numpy(float))
    between = f"between the selected cells of {md(first)} and of {md(second)}"
    if not called.any():
        lowest = f" the lowest FDR is {table['fdr'].min():.2g}." if table["fdr"].notna().any() else " no gene could be tested."
        return f"**No gene differs ({BY_FDR})** {between}:{lowest}"
    higher = int((called & (table["log2_fold_change"] > 0)).sum())
    words = plural(int(called.sum()), "gene differs", "genes differ")
    ways = f"{higher:,} higher in {md(second)}, {called.sum() - higher:,} higher in {md(first)}"
    return f"**{words} ({BY_FDR})** {between}, of {len(table):,} genes: {ways}."


def _with_names(table: pd.DataFrame, found: Comparison) -> pd.DataFrame:
    heads = {"gene": "Gene", "log2_fold_change": "log2 fold change", "p_value": "p", "fdr": "FDR"}
    for side, name in (("first", found.first.name), ("second", found.second.name)):
        heads |= {f"mean_{side}": f"Mean, {name}", f"fraction_{side}": f"Expressing, {name}"}
    return table.rename(columns=heads)


def _cell_table(cells: CellsMap, found: Comparison) -> pd.DataFrame:
    names = np.array([p.name for p in found.pairs])
    sides = np.array([found.first.name, found.second.name])
    return pd.DataFrame(
        {
            "umap_1": cells.xy[:, 0], "umap_2": cells.xy[:, 1], "side": sides[cells.side], "pair": names[cells.pair],
            "control": cells.control,
        }
    )  # fmt: skip
