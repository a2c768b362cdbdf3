"""The report of a run to hand on: made by a job, taken as one file."""

from __future__ import annotations

import streamlit as st

from pages.parts import session
from pages.parts.take_home import file_button, made_by_a_job
from pages.parts.widgets import errors_shown
from state_engine.jobs.reporting import REPORT, REPORTED, report_name
from state_engine.jobs.requests import ReportRequest
from state_engine.jobs.run_folder import RunFolder


def report_button(run: RunFolder) -> None:
    """Draw the button behind which the report of a finished run is made and taken; nothing for other runs, and for who came by a link."""
    if session.settings().shared or run.manifest.kind not in REPORTED or run.state != "done":
        return
    with st.popover("Report", icon=":material/description:", key=f"report_{run.id}"), errors_shown():
        st.markdown(
            "One HTML file to hand on: figures, tables, verdict, methods to paste, citations and the request. It opens offline and asks "
            "nothing of the network."
        )
        path = run.file(REPORT)
        if not made_by_a_job(run, ReportRequest(run.id), path, "the report"):
            return
        file_button(path, "Report", report_name(session.settings(), run), f"take_report_{run.id}", "text/html", primary=True)
        if st.button(
            "Make it again", key=f"report_again_{run.id}", type="tertiary", help="With what was derived from the run since."
        ):
            path.unlink(missing_ok=True)
            st.rerun()
