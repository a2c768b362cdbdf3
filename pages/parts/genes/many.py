"""Tabs of the Genes page that look at many genes: all conditions at once, groups of cells, gene sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.figures import show_figure
from pages.parts.format import md, plural, sentences
from pages.parts.genes import charts as genechart
from pages.parts.genes.maps import MOST_GENES, MOST_ROWS, chosen_changes, dot_plot, heat_map
from pages.parts.genes.table import Question, made, read_table
from pages.parts.result import open_run, stamp
from pages.parts.widgets import errors_shown
from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis import enrichment, stored
from state_engine.effects.bands import NOT_CALIBRATED
from state_engine.gene_sets.collection import built_in
from state_engine.gene_sets.sets import GeneSet
from state_engine.gene_sets.text import csv_text, gmt_text, sets_of
from state_engine.jobs.requests import EffectsRequest, GeneSetsRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import TEXT, call, read_file
from state_engine.metrics.rank_tests import FLOOR
from state_engine.plain import csv_for_people
from state_engine.prediction.result import Layer

DOTS = 24  # genes of a dot plot
MOST_MB = 64
METHODS: dict[enrichment.Method, str] = {
    "over-representation": "Over-representation",
    "gsea": "Ranked (GSEA)",
    "mean": "Mean in each group",
    "ssgsea": "ssGSEA in each group",
}
_COLUMNS = {
    "gene_set": st.column_config.TextColumn("Gene set", pinned=True),
    "direction": st.column_config.TextColumn("Direction"),
    "score": st.column_config.NumberColumn(
        "Score", format="%.2f", help="Odds ratio of over-representation; normalised score of GSEA."
    ),
    "p_value": st.column_config.NumberColumn("p", format="%.1e"),
    "fdr": st.column_config.NumberColumn("FDR", format="%.1e"),
    "n_found": st.column_config.NumberColumn("Hits", format="%d", help="Genes that change; of GSEA the leading edge."),
    "n_genes": st.column_config.NumberColumn("Genes", format="%d", help="Of the set, in this result."),
    "genes": st.column_config.TextColumn("Which"),
    "source": st.column_config.TextColumn("Source"),
}


def all_conditions(run: RunFolder, question: Question, marked: Sequence[str]) -> None:
    """Draw every condition by the genes that change, clustered; nothing until a job has measured all effects."""
    path, standing = stored.changes_path(run.path), stored.standing_path(run.path)
    if not stored.has_effects(run.path) and not made(run, EffectsRequest(run.id), "Measuring effects", key="effects"):
        return
    part = _changes(str(path), stamp(path), tuple(marked))
    bands = _bands(str(standing), stamp(standing))
    what = "the gene set" if marked else f"the {len(part.columns):,} genes that change most"
    show_figure(
        heat_map(part, (question.perturbation, question.context), bands),
        key="effects_map",
        title="Which conditions are alike?",
        caption=f"log2 fold change of corrected predictions against their paired control, {plural(len(part), 'condition')} by {what}; rows and genes "
        f"ordered by likeness (average linkage). At most {MOST_ROWS} conditions and {MOST_GENES} genes."
        + (" Squares: would the largest effects of the condition hold in a replicate?" if bands else ""),
        table=lambda: part.reset_index(),
        height=int(min(900, 160 + 18 * len(part))),
    )


@st.cache_data(max_entries=16, show_spinner=False)
def _bands(path: str, written: int) -> dict[tuple[str, str], str]:
    """Return the band of doubt of each condition that has one."""
    table = read_file(de.read_table, Path(path))
    known = table[table["band"] != NOT_CALIBRATED]
    return {(str(p), str(c)): str(band) for p, c, band in known[["perturbation", "context", "band"]].itertuples(index=False)}


@st.cache_data(max_entries=16, show_spinner=False)
def _changes(path: str, written: int, marked: tuple[str, ...]) -> pd.DataFrame:
    table = read_file(de.read_table, Path(path))
    return chosen_changes(table.set_index(list(table.columns[:2])), marked)


def groups_by_genes(run: RunFolder, question: Question, table: pd.DataFrame, gene: str, marked: Sequence[str]) -> None:
    """Draw genes in control, predicted and measured cells of each context of the perturbation."""
    order = table["gene"].iloc[np.argsort(-genechart.prominence(table), kind="stable")].tolist()
    genes = tuple(dict.fromkeys([*marked, gene] if marked else [*order[: DOTS - 1], gene]))[:DOTS]
    means, fractions = _dots(str(run.result), stamp(run.result), question.perturbation, genes, question.layer)
    show_figure(
        dot_plot(means, fractions),
        key="dots",
        title=f"Genes in groups of cells, {question.perturbation}",
        caption="Colour: mean expression (log1p). Size: share of cells that detect the gene. "
        + (f"Genes of the set, {DOTS} at most." if marked else f"Genes that change most in {question.context}."),
        table=lambda: pd.concat({"mean": means, "fraction": fractions}, names=["what", "group"]).reset_index(),
        height=int(180 + 26 * len(means)),
    )


@st.cache_data(max_entries=16, show_spinner="Reading cells")
def _dots(path: str, written: int, perturbation: str, genes: tuple[str, ...], layer: Layer) -> tuple[pd.DataFrame, pd.DataFrame]:
    result = open_run(RunFolder(Path(path).parent))
    wanted = (
        ("control", keys.OBSERVED_CONTROL, None),
        ("predicted", keys.PREDICTED, perturbation),
        ("measured", keys.OBSERVED, perturbation),
    )
    groups = {}
    for context in dict.fromkeys(c for p, c in result.conditions() if p == perturbation):
        for words, kind, label in wanted:
            rows = result.rows(kind, context, label)
            if len(rows):
                groups[f"{context} · {words}"] = rows
    values = result.read(np.concatenate(list(groups.values())), genes, layer)
    ends = np.cumsum([len(rows) for rows in groups.values()])
    parts = dict(zip(groups, np.split(values, ends[:-1]), strict=True))
    means = pd.DataFrame({name: part.mean(axis=0) for name, part in parts.items()}, index=list(genes)).T
    fractions = pd.DataFrame({name: (part >= FLOOR).mean(axis=0) for name, part in parts.items()}, index=list(genes)).T
    return means, fractions


def set_tests(run: RunFolder, question: Question, fold: float) -> None:
    """Ask which gene sets to test and how; show the table that a job makes."""
    left, right = st.columns([3, 2])
    method = left.segmented_control(
        "Method",
        list(METHODS),
        key="set_method",
        format_func=METHODS.__getitem__,
        default="over-representation",
        required=True,
        wrap=True,
    )
    least = int(right.number_input("Smallest set", 1, 500, 5, key="set_least", help="Genes of a set that the result must have."))
    with errors_shown():
        name, sets = _sets(run)
        asked = enrichment.SetQuestion(
            method, question.perturbation, question.context, name, question.reference, question.expression, least, fold
        )
        if method in enrichment.SCORES:
            asked = enrichment.SetQuestion(method, sets=name, least_genes=least)
        path = enrichment.answer_path(run.path, asked)
        if not path.exists() and not made(run, GeneSetsRequest(run.id, asked), "Testing gene sets", key="sets"):
            return
        _show_sets(read_table(str(path), stamp(path)), method, sets)


def _sets(run: RunFolder) -> tuple[str, tuple[GeneSet, ...]]:
    """The sets to test, and their name in the run's folder; those of the program unless others are handed in."""
    with st.popover("Other gene sets", icon=":material/upload_file:", disabled=session.by_link()):
        st.caption("A GMT, a CSV with the columns gene_set and gene, or a list of genes. They are kept with the run.")
        file = st.file_uploader("A file", type=["gmt", "csv", "tsv", "txt"], key="set_file", max_upload_size=MOST_MB)
        text = st.text_area("Or paste them", key="set_text", height=110)
    if file is None and not text.strip():
        return "", _usual_sets()
    raw, name = (file.getvalue(), file.name) if file is not None else (text, "Pasted set")
    sets = _sets_in(raw, name)
    return enrichment.keep_sets(run.path, sets), sets


@st.cache_resource(show_spinner=False)
def _usual_sets() -> tuple[GeneSet, ...]:
    """Return the sets of the program; the same in every run."""
    return built_in()


@st.cache_data(max_entries=8, show_spinner="Reading the sets")
def _sets_in(raw: bytes | str, name: str) -> tuple[GeneSet, ...]:
    """Return the sets of a file or a pasted text, which a child process reads."""
    found: tuple[GeneSet, ...] = call(sets_of, raw, name, name=name, limits=TEXT)
    return found


def _show_sets(table: pd.DataFrame, method: str, sets: tuple[GeneSet, ...]) -> None:
    if table.empty:
        st.info("No gene changes here, so no set is over-represented.", icon=":material/info:")
        return
    columns = {name: column for name, column in _COLUMNS.items() if name in table}
    if table.get("p_value") is None:
        columns |= {name: st.column_config.NumberColumn(md(name), format="%.2f") for name in table.columns[1:]}
    st.dataframe(table, hide_index=True, key="set_table", height=420, column_config=columns)
    st.caption(
        f"{plural(len(sets), 'gene set')}. {sentences(table.attrs['method'])}. Genes of a set move together: p orders sets and is no evidence."
    )
    with st.container(horizontal=True):
        for label, data, name, kind in (
            ("Table (CSV)", lambda: csv_for_people(table), "gene_sets_tested.csv", "text/csv"),
            ("Sets (GMT)", lambda: gmt_text(sets), "gene_sets.gmt", "text/plain"),
            ("Sets (CSV)", lambda: csv_text(sets), "gene_sets.csv", "text/csv"),
        ):
            st.download_button(
                label, data=data, file_name=name, mime=kind, key=f"sets_{name}", icon=":material/download:", on_click="ignore"
            )
