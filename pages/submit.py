"""Submit: take a run home, make a file for the Virtual Cell Challenge, and score it."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.result import finished_run
from pages.parts.submit.check import challenge_file
from pages.parts.submit.export import results
from pages.parts.submit.score import score_tab
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "What do you take home?",
    "The cells, every table behind the figures, and a checked and scored file for the Virtual Cell Challenge; each says how it was made.",
)

tabs = st.tabs(["Results", "Challenge file", "Score"], key="submit_tab", on_change="rerun", bind="query-params")
if tabs[0].open:
    with tabs[0], errors_shown():
        run = finished_run("what can be taken from a run")
        if run is not None:
            results(run)
if tabs[1].open:
    with tabs[1], errors_shown():
        challenge_file(session.run_folder())
if tabs[2].open:
    with tabs[2], errors_shown():
        score_tab(session.run_folder())
