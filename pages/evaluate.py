"""Evaluate: predicted against measured cells, beside simple baselines, with a verdict in words."""

import streamlit as st

from pages.parts.door import through_app
from pages.parts.evaluate.answer import show_evaluation
from pages.parts.evaluate.form import CHOICE, evaluate_form
from pages.parts.picker import another_run
from pages.parts.session import by_link, chosen_run
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "How good is it?",
    "Predicted cells are compared with measured ones, and with simple baselines that need no model, by the same metrics.",
)

with errors_shown():
    run = chosen_run(CHOICE)
    if not by_link():
        with st.expander("Evaluate something", expanded=run is None, icon=":material/fact_check:"):
            evaluate_form()
    another_run(CHOICE, run, "Earlier evaluations", placeholder="Choose one to look at it again")
    if run is not None:
        show_evaluation(run)
