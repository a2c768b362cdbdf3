"""Part of the Pretrain page: a pretraining while it runs, what came of it, and the ways on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts.figures import show_figure
from pages.parts.format import duration, md, plural, sentences
from pages.parts.jobs import job_of
from pages.parts.models.embedding import SHOWN
from pages.parts.pretrain.form import FOLDER
from pages.parts.result import stamp
from pages.parts.train.curves import loss_figure, read_table
from pages.parts.train.run import live, stopped
from pages.parts.widgets import go
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file
from state_engine.pretrain.run_folder import REPORT, PretrainRecord, PretrainReport, Tested, read_pretraining, read_report
from state_engine.train.curves import LOG, VALIDATION

MEASURES = {
    "label transfer": "Cells get the label of their neighbours: part that is right.",
    "balanced label transfer": "The same, as a mean over labels: rare ones count as much.",
    "transfer across data sets": "Labels of one data set for cells of another.",
    "batch mixing": "Whether batches lie among each other; 1 is well mixed.",
    "perturbation separability": "Whether perturbed cells can be told from controls.",
}


def show_pretraining(run: RunFolder) -> None:
    """A pretraining: live while it runs; then what came of it, or how it can go on."""
    job = job_of(run.id)
    folder = run.path / FOLDER
    with st.container(key="pretraining"):
        if job is not None and job.active:
            live(run, "pretraining", lambda: curve(folder))
            return
        st.subheader(md(run.manifest.title), anchor=False)
        if run.state == "done":
            _done(run, folder)
        else:
            stopped(run, job, "pretraining")
        curve(folder)
        with st.expander("How to repeat this, and its files"):
            st.code(run.manifest.command or "", language="bash", wrap_lines=True)
            st.caption(f"In the run's folder on the server: {md(folder, most=300)}; arc/ is read by state emb transform.")


def curve(folder: Path) -> bool:
    """The loss; False while nothing was written yet."""
    log, validation = read_table(folder / LOG), read_table(folder / VALIDATION)
    if log.empty:
        return False
    window = max(1, round(0.02 * len(log)))
    measured = f" Validation at {plural(len(validation), 'step')}." if len(validation) else ""
    show_figure(
        loss_figure(log, validation, window),
        key="pretrain_loss",
        title="Loss",
        caption=f"{int(log['step'].iloc[-1]):,} steps.{measured} What is decoded from a cell's embedding against what was measured; lower is better.",
        table=lambda: log,
        height=320,
    )
    return True


@st.cache_data(max_entries=16, show_spinner=False)
def _read(folder: str, written: int) -> tuple[PretrainRecord, PretrainReport]:
    place = Path(folder)
    return read_file(read_pretraining, place), read_file(read_report, place)


def _done(run: RunFolder, folder: Path) -> None:
    record, report = _read(str(folder), stamp(folder / REPORT))
    took = f" in {duration(record.seconds)}" if record.seconds else ""
    st.success(
        f"Pretrained for {record.steps:,} steps{took} on {md(record.device)}: {record.parameters:,} parameters, {len(record.vocabulary):,} genes. "
        "It is in your library.",
        icon=":material/check_circle:",
    )
    with st.container(horizontal=True):
        if st.button("Embed cells with it", type="primary", key="pretraining_embed", icon=":material/hub:"):
            go("embed")
        if st.button("See its card", key="pretraining_card", icon=":material/deployed_code:"):
            st.session_state[SHOWN] = (run.manifest.model_hash or "")[:12]
            go("models")
    _tests(report)
    for note in dict.fromkeys((*record.notes, *report.notes)):
        st.caption(f":material/info: {sentences(note)}")


def _tests(report: PretrainReport) -> None:
    st.markdown("#### What does its embedding keep?")
    if not report.tests:
        st.caption("There were no labels to test it on.")
        return
    st.markdown(verdict(report.tests))
    rows = [(t.measure, t.column, t.data, t.groups, t.cells, t.value, t.components, t.chance) for t in report.tests]
    table = pd.DataFrame(rows, columns=["measure", "column", "data", "groups", "cells", "value", "components", "chance"])
    number = st.column_config.NumberColumn
    st.dataframe(
        table,
        hide_index=True,
        key="pretrain_tests",
        column_config={
            "measure": st.column_config.TextColumn("Measure", help=" ".join(f"{k}: {v}" for k, v in MEASURES.items())),
            "column": st.column_config.TextColumn("Labels"),
            "data": st.column_config.TextColumn("Data set"),
            "groups": number("Groups", format="localized"),
            "cells": number("Cells", format="localized"),
            "value": number("This model", format="%.3f"),
            "components": number(
                "50 PCs", format="%.3f", help="The same test on the first 50 principal components of the same cells."
            ),
            "chance": number("Chance", format="%.3f", help="What no information gives."),
        },
    )
    st.caption("Larger is better, 1 is the most. Cells of the validation part where there is one; see the notes below.")


def verdict(tests: tuple[Tested, ...]) -> str:
    """Say in a sentence on how many tests the model is above and below principal components of the same cells."""
    better = sum(t.value > t.components for t in tests)
    worse = sum(t.value < t.components for t in tests)
    first = tests[0]
    return (
        f"{first.measure.capitalize()} of {md(first.column)}: **{first.value:.3f}**, with 50 principal components {first.components:.3f}, by chance "
        f"{first.chance:.3f}. Of {plural(len(tests), 'test')}, it is above the components in {better:,} and below in {worse:,}."
    )
