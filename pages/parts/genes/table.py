"""Parts of the Genes page: the question, its table (or the job that makes it), the volcano, one gene, and gene sets in and out."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from plotly.graph_objects import Figure

from pages.parts import session
from pages.parts.exposure import WORDS
from pages.parts.figures import show_figure, sized
from pages.parts.format import md, plural
from pages.parts.genes import charts as genechart
from pages.parts.genes.charts import CellGroup, Volcano
from pages.parts.genes.sets import FDR
from pages.parts.jobs import derived_run, job_of, job_panel, start_job
from pages.parts.palette import KIND
from pages.parts.result import can_compute, open_run, raw_or_corrected, stamp
from pages.parts.widgets import go
from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis import stored
from state_engine.effects.bands import BANDS
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.requests import DifferentialRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.metrics.rules import BY_FDR, change_words
from state_engine.prediction.result import Layer, Result

CELLS = {
    "corrected": "Predicted",
    "calibrated": "Predicted, calibrated",
    "raw": "Predicted, raw",
    "observed": "Measured",
}
PATIENCE = 3.0
"""Seconds that a page waits for a table before it shows the job instead."""


@dataclass(frozen=True)
class Question:
    """Which cells are compared with which."""

    perturbation: str
    context: str
    reference: de.Reference
    expression: de.Expression

    @property
    def layer(self) -> Layer:
        return de.layer_of(self.expression)


def first_condition(run: RunFolder, result: Result) -> tuple[str, str]:
    """Return the condition that shows first: the largest that was measured and that the model has not seen, else the largest."""
    return next(iter([*_tests(run, result), *_by_size(run, result)]))


def _tests(run: RunFolder, result: Result) -> list[tuple[str, str]]:
    """Return the conditions whose comparison with a measurement is a test of the model, the largest effect first."""
    there = stored.measured_conditions(result)
    return [pair for pair in _by_size(run, result) if pair in there and result.exposure(*pair) == "test"]


def _by_size(run: RunFolder, result: Result) -> list[tuple[str, str]]:
    """Return the predicted conditions, the largest effect first; in file order until a job has measured all effects."""
    if not result.has_expression or not stored.has_effects(run.path):
        return result.conditions()
    path = stored.effects_path(run.path)
    sizes = read_table(str(path), stamp(path))
    return [(str(p), str(c)) for p, c in sizes[["perturbation", "context"]].itertuples(index=False)]


def ask(run: RunFolder, result: Result) -> Question:
    """Perturbation, context, cells and reference, as chosen by the user."""
    conditions = result.conditions()
    perturbations = list(dict.fromkeys(p for p, _ in conditions))
    there = stored.measured_conditions(result)
    tests = _tests(run, result)
    first, second, third = st.columns([4, 4, 3], vertical_alignment="bottom")
    with first:
        perturbation = _choose("Perturbation", perturbations, "perturbation", default=first_condition(run, result)[0])
    contexts = [c for p, c in conditions if p == perturbation]
    measured = [c for c in contexts if (perturbation, c) in there]
    with second:
        marks = {c: f"{c} · measured, {WORDS[result.exposure(perturbation, c)]}" for c in measured}
        context = _choose(
            "Context",
            contexts,
            "context",
            lambda c: marks.get(c, c),
            default=next((c for p, c in tests if p == perturbation), contexts[0]),
        )
    layers = {*result.layers(perturbation, context), *(["observed"] if context in measured else [])}
    # first what the model's card recommends
    recommended = result.layers(perturbation, context)[0]
    kinds = sorted((kind for kind in CELLS if kind in layers), key=lambda kind: kind != recommended)
    session.recall("de_cells", kinds, kinds[0], "cells")
    chosen = st.session_state["de_cells"]
    shown = CELLS[chosen if chosen in kinds else kinds[0]]
    with third.popover(shown, icon=":material/tune:", width="stretch", help="Which cells, and what they are compared with."):
        expression = _choose_one("Cells", kinds, "de_cells", "cells", CELLS.__getitem__, _CELLS_HELP)
        raw_or_corrected(run, kinds)
        references: list[str] = [keys.PREDICTED_CONTROL, keys.OBSERVED_CONTROL]
        if expression == "observed":
            references = [keys.OBSERVED_CONTROL]
        reference = _choose_one("Compared with", references, "de_reference", "reference", _reference_words, _REFERENCE_HELP)
    return Question(perturbation, context, reference, expression)  # type: ignore[arg-type]


def _reference_words(reference: str) -> str:
    return keys.KIND_WORDS[reference].capitalize()


_CELLS_HELP = (
    "Predicted: each basal cell plus the effect predicted for it. Calibrated: as much of that effect, and of the mean effect that the "
    "model's training cells of other contexts show, as held-out cells said to believe; only where other contexts tell. Raw: the model's "
    "output as it is. Measured: perturbed cells of your data set."
)
_REFERENCE_HELP = (
    "Predicted control: the same basal cells, predicted under the control label, so only the perturbation differs. Measured control: "
    "all measured control cells of this context that the run kept."
)


def _choose(label: str, options: Sequence[str], key: str, words: Callable[[str], str] = str, *, default: str) -> str:
    session.recall(key, options, default)
    return str(st.selectbox(label, options, key=key, format_func=words, persist_state="session"))


def _choose_one(label: str, options: Sequence[str], key: str, name: str, words: Callable[[str], str], note: str) -> str:
    session.recall(key, options, options[0], name)
    return str(
        st.segmented_control(
            label, options, key=key, format_func=words, help=note, required=True, persist_state="session", wrap=True
        )
    )


def table_of(run: RunFolder, question: Question) -> pd.DataFrame | None:
    """The table of all genes; while it is not there, the job that makes it, and None."""
    path = de.table_path(run.path, **asdict(question))
    if not path.exists() or not _compared(run, question):
        request = DifferentialRequest(run.id, **asdict(question))
        if not made(run, request, f"Comparing genes: {question.perturbation} in {question.context}") or not path.exists():
            return None
    return read_table(str(path), stamp(path))


def _compared(run: RunFolder, question: Question) -> bool:
    condition = question.perturbation, question.context
    return not stored.is_measured(open_run(run), *condition) or stored.comparison_path(run.path, *condition).exists()


def made(run: RunFolder, request: Hashable, title: str, key: str = "de") -> bool:
    """Start the job of a request once, show it, and return whether it ended well."""
    started = st.session_state.setdefault(f"{key}_jobs", {})
    if request not in started:
        waiting = derived_run(run, request, active=True)
        if waiting is None and not can_compute("This table is"):
            return False
        started[request] = waiting.id if waiting else start_job(request, title, parent=run.id)
        _wait_a_little(started[request])
    if job_panel(started[request], title=title, key=f"{key}_job"):
        return True
    job = job_of(started[request])
    if job is not None and not job.active and st.button("Try again", key=f"{key}_again"):
        del started[request]
        st.rerun()
    return False


def _wait_a_little(run_id: str) -> None:
    """Most tables take a second or two: meanwhile the old page stays, greyed, instead of giving way to a panel and coming back."""
    end = time.monotonic() + PATIENCE
    with st.spinner("Computing"):
        while time.monotonic() < end:
            job = asked_of_store(session.settings(), lambda store: store.for_run(run_id))
            if job is None or not job.active:
                return
            time.sleep(0.1)


@st.cache_data(max_entries=64, show_spinner=False)
def read_table(path: str, written: int) -> pd.DataFrame:
    """A stored table; its `attrs` come along."""
    return read_file(de.read_table, Path(path))


@st.cache_data(max_entries=64, show_spinner=False)
def gene_values(path: str, written: int, gene: str, layer: Layer) -> NDArray[np.float32]:
    """(n,) expression (log1p) of one gene in all cells of a result."""
    return open_run(RunFolder(Path(path).parent)).gene(gene, layer)


@st.cache_data(max_entries=64, show_spinner=False)
def spread(path: str, written: int, perturbation: str, context: str) -> float:
    """How much raw predicted cells differ from one another, as a share of how much control cells do: mean standard deviation over genes."""
    result = open_run(RunFolder(Path(path).parent))
    cells = result.read(result.rows(keys.PREDICTED, context, perturbation), layer="raw").std(axis=0).mean()
    control = result.read(result.rows(keys.OBSERVED_CONTROL, context)).std(axis=0).mean()
    return float(cells / control) if control else float("nan")


def warn_of_raw(run: RunFolder, question: Question) -> None:
    """Says, with the number, why p-values of raw predictions mean little."""
    share = spread(str(run.result), stamp(run.result), question.perturbation, question.context)
    st.warning(
        f"**P-values of raw predictions mean little.** A model's cells tend to collapse onto one another (here their spread is {share:.0%} of "
        "that of measured control cells, mean standard deviation over genes), and they differ from control cells by what the model "
        "gets wrong as well as by the perturbation. Read the fold changes, and those of the corrected expression first.",
        icon=":material/warning:",
    )


def summary(question: Question, table: pd.DataFrame, fold: float) -> str:
    """Return the answer in one sentence, with its numbers; where bands are known also how many of the genes are likely to hold."""
    calls = genechart.directions(table, FDR, fold)
    up, down = int((calls == "up").sum()), int((calls == "down").sum())
    what = "measured" if question.expression == "observed" else "predicted"
    answer = f"{up:,} of {len(table):,} genes go up and {down:,} down" if up or down else f"None of {len(table):,} genes changes"
    where = f"in {what} cells of **{md(question.context)}** under **{md(question.perturbation)}**"
    return f"**{answer}** {where}{_holding(table, calls)} :gray[({rule(table, fold)})]"


def _holding(table: pd.DataFrame, calls: NDArray[np.str_]) -> str:
    """Return how many of the genes called up and down are likely to hold, or very likely; "" where no band is known."""
    if not genechart.has_bands(table) or not (calls != "same").any():
        return ""
    likely = table["band"].isin(BANDS[:2]).to_numpy()
    up, down = (int((likely & (calls == way)).sum()) for way in ("up", "down"))
    return f"; of these **{up:,} up and {down:,} down** are likely or very likely to hold in a replicate"


def rule(table: pd.DataFrame, fold: float) -> str:
    """What makes a gene count as changed, in words."""
    if genechart.is_predicted(table):
        return change_words(fold)
    return f"{BY_FDR}, |log2 fold change| ≥ {fold:g}"


def meaning_of_p(table: pd.DataFrame) -> None:
    """Say once what p means of predicted cells."""
    if genechart.is_predicted(table):
        st.caption(
            "Genes are ranked and coloured by the predicted change. p compares that change with how much cells differ from one another; it "
            f"falls with the number of predicted cells (here {table.attrs['n_perturbed']:,}, a choice) and says nothing about being right."
        )


def groups_text(question: Question, table: pd.DataFrame) -> str:
    """n against n, in words."""
    n, m = table.attrs["n_perturbed"], table.attrs["n_reference"]
    kind = "measured" if question.expression == "observed" else "predicted"
    return f"{plural(n, f'{kind} cell')} against {plural(m, f'{keys.KIND_WORDS[question.reference]} cell')}"


def pick(gene: str) -> None:
    """Makes this the chosen gene, everywhere on the page."""
    st.session_state["gene"] = gene


def picked_point(event_key: str) -> None:
    """The gene of a point that was clicked."""
    points = st.session_state[event_key]["selection"]["points"]
    if points and points[0].get("customdata"):
        data = points[0]["customdata"]
        pick(str(data if isinstance(data, str) else data[0]))


def choose_gene(result: Result, table: pd.DataFrame) -> str:
    """The gene that is looked at: the user's choice, at first the top one."""
    session.recall("gene", result.genes, genechart.leading_gene(table))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        gene = str(
            st.selectbox(
                "Gene",
                result.genes,
                key="gene",
                help="Type to search, or click a gene in the volcano or in the table.",
                persist_state="session",
            )
        )
        if st.button(
            "See it in the plot", key="to_explore", icon=":material/scatter_plot:", help=f"Cells coloured by {md(gene)}."
        ):
            st.session_state["explore_gene"] = gene
            go("explore")
    return gene


@st.cache_resource(max_entries=32, show_spinner=False)
def _volcano(path: str, written: int, fold: float, marked: tuple[str, ...], gene: str, _table: pd.DataFrame) -> Volcano:
    """Return the volcano, which nobody changes: once for all sessions that look at the same."""
    found = genechart.volcano(_table, fdr=FDR, fold=fold, marked=marked, chosen=gene)
    sized(found.figure, "volcano")
    return found


@st.cache_resource(max_entries=32, show_spinner=False)
def _violins(path: str, written: int, question: Question, gene: str, _groups: Sequence[CellGroup]) -> Figure:
    """Return the figure of a gene, which nobody changes: once for all sessions that look at the same."""
    return sized(genechart.violins(gene, _groups), "gene_cells")


def show_volcano(run: RunFolder, question: Question, table: pd.DataFrame, gene: str, fold: float, marked: Sequence[str]) -> None:
    """The volcano; a click chooses a gene."""
    path = de.table_path(run.path, **asdict(question))
    drawn = _volcano(str(path), stamp(path), fold, tuple(marked), gene, table)
    capped = f" {plural(drawn.n_capped, 'gene')} with p below 1e-308 at the upper edge." if drawn.n_capped else ""
    show_figure(
        drawn.figure,
        key="volcano",
        title=f"Genes that change in {question.context} under {question.perturbation}",
        caption=f"{groups_text(question, table)}, two-sided Mann-Whitney U test, {len(table):,} genes. Coloured: {rule(table, fold)}."
        f"{capped} Click a gene to see its cells.",
        table=lambda: table,
        height=460,
        on_select=partial(picked_point, "volcano_plot"),
        modes=("points",),
    )


def show_gene(run: RunFolder, result: Result, question: Question, gene: str) -> None:
    """One gene in control, predicted and measured cells."""
    layer = question.layer
    groups = cell_groups(run, result, question, gene)
    raw = {"raw": " Raw model output.", "calibrated": " Calibrated prediction."}.get(layer, "")
    show_figure(
        _violins(str(run.result), stamp(run.result), question, gene, groups),
        key="gene_cells",
        title=f"{gene} in {question.context}",
        caption=f"Expression (log1p) of single cells; the line is the mean. At most 400 cells of a group are drawn as points.{raw}",
        table=lambda: pd.concat([pd.DataFrame({"cells": g.name, gene: g.values}) for g in groups]),
        height=460,
    )


def cell_groups(run: RunFolder, result: Result, question: Question, gene: str) -> list[CellGroup]:
    """The cells behind a gene's figure, in the order control, predicted control, predicted, measured; empty groups are left out."""
    values = gene_values(str(run.result), stamp(run.result), gene, question.layer)
    wanted = (
        ("measured control", keys.OBSERVED_CONTROL, None),
        ("predicted control", keys.PREDICTED_CONTROL, None),
        ("predicted", keys.PREDICTED, question.perturbation),
        ("measured", keys.OBSERVED, question.perturbation),
    )
    found = [(name, kind, result.rows(kind, question.context, label)) for name, kind, label in wanted]
    return [CellGroup(name, values[rows], KIND[kind]) for name, kind, rows in found if len(rows)]
