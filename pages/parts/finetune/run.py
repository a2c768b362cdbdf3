"""Part of the Fine-tune page: a fitting while it runs, and what came of it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.figures import csv_button
from pages.parts.finetune.apply import WANTED
from pages.parts.finetune.scores import show_report
from pages.parts.finetune.wrong import show_wrong
from pages.parts.format import md
from pages.parts.jobs import job_panel
from pages.parts.result import stamp
from state_engine.heads.report import CELLS, HEAD, REPORT, HeadReport, read_report
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.foreign import read_file


@st.cache_data(max_entries=32, show_spinner=False)
def _read(folder: str, written: int) -> HeadReport:
    return read_file(read_report, Path(folder))


def show_finetuning(run: RunFolder) -> None:
    """A fitting: live while it runs, then its report."""
    if not job_panel(run.id, title=run.manifest.title or "Fitting a head", key="finetune_job"):
        return
    folder = run.file(HEAD)
    if not (folder / REPORT).exists():
        st.info("This fitting left no report. Fit again.", icon=":material/info:")
        return
    report = _read(str(folder), stamp(folder / REPORT))
    st.subheader(md(report.name or run.manifest.title), anchor=False)
    with st.container(horizontal=True):
        if st.button("Apply it to other cells", type="primary", key="finetune_apply", icon=":material/label:"):
            st.session_state[WANTED] = report.id
            st.session_state["finetune_view_wanted"] = True
            st.rerun()
        if (folder / CELLS).exists():
            csv_button("Test cells (CSV)", folder / CELLS, "test_cells.csv", "finetune_cells")
    show_report(report)
    show_wrong(report, folder)
    with st.expander("How to repeat this"):
        st.code(run.manifest.command or "", language="bash", wrap_lines=True)
    st.caption(f"The head is in the library as {md(report.name)} ({report.id}).")


def fit_or_apply(fit: str, apply: str) -> str:
    """Let fitting or applying be chosen; a finished fitting leads to applying, and so does an address with called cells."""
    wanted = st.session_state.pop("finetune_view_wanted", None)
    if wanted is not None:
        st.session_state["finetune_view"] = apply if wanted else fit
    first = apply if session.chosen("annotation") and not session.chosen("finetuning") else fit
    st.session_state.setdefault("finetune_view", first)
    return str(
        st.segmented_control(
            "What to do", [fit, apply], key="finetune_view", required=True, label_visibility="collapsed", wrap=True
        )
    )
