"""Part of the Data page: do the perturbations of a measured screen move the gene they name?"""

from __future__ import annotations

import streamlit as st

from pages.parts import fields, session
from pages.parts.jobs import job_panel, start_job
from pages.parts.targets import show_targets, stored_check
from state_engine.analysis.on_target import TargetsRequest, targets_of
from state_engine.data.dataset import Dataset
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry


def on_target(entry: DataEntry, data: Dataset) -> None:
    """Check the targets in a job, and show what it found; nothing where no perturbation names a gene."""
    control = data.labels.control
    if control is None or not targets_of([p for p in data.perturbations if p != control], set(data.genes.names)):
        return
    with st.expander("On target?", icon=":material/my_location:"):
        st.caption(
            "Is the gene that a perturbation names down (CRISPRi, knock-out) or up (CRISPRa), by how much, in how many cells?"
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            expected = fields.choice(st, TargetsRequest, "expected", "targets_expected", ("auto", "down", "up", "either"))
            type_key = fields.text(st, TargetsRequest, "type_key", "targets_type")
            start = st.button("Check", key="check_targets")
        if start:
            request = TargetsRequest(entry.path, expected, type_key.strip(), choices=entry.choices)
            words = f"Targets of {entry.name}"
            st.session_state["targets_run"] = entry.id, start_job(request, words)
            st.rerun()
        of, run_id = st.session_state.get("targets_run", ("", ""))
        if of == entry.id and job_panel(run_id, title="Checking targets", key="targets_job"):
            table = stored_check(RunFolder.open(session.settings(), run_id))
            if table is not None:
                show_targets(table, "data_targets")
