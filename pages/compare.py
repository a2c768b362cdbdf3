"""Compare: two answers beside each other, whatever they are of."""

import streamlit as st

from pages.parts import session
from pages.parts.compare.form import CHOICE, compare_form
from pages.parts.compare.result import show_comparison
from pages.parts.door import through_app
from pages.parts.picker import another_run
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "How do two answers differ?",
    "Runs, models, perturbations, contexts, seeds, a prediction and its measurement, or a file of another program: the same genes side by side.",
)

with errors_shown():
    run = session.chosen_run(CHOICE)
    another_run(CHOICE, run, "Comparison", none="none: begin a new one")
    if run is not None:
        show_comparison(run)
    if session.by_link():
        st.stop()
    with st.expander(
        "Another comparison" if run else "What is compared?", expanded=run is None, icon=":material/compare_arrows:"
    ):
        compare_form()
