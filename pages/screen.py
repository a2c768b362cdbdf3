"""Screen: every perturbation of a model in some contexts, ranked by a goal."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.picker import another_run
from pages.parts.screen.form import CHOICE, screen_form
from pages.parts.screen.result import show_screen
from pages.parts.widgets import empty_state, errors_shown, page_head

through_app()

page_head(
    "Which perturbation does what I want?",
    "Every perturbation that a model knows is predicted in your control cells, and ranked by a goal. Noise among control cells says what is chance.",
)

run = session.chosen_run(CHOICE)
another_run(CHOICE, run, "Screen", none="none: begin a new one")
if run is not None:
    with errors_shown():
        show_screen(run)
if session.by_link():
    st.stop()

entry, model = session.data_entry(), session.model_entry()
if entry is None or model is None or model.card is None:
    if run is None and entry is None:
        empty_state(
            "No data set is open",
            "A screen starts from control cells, so it needs a data set.",
            "data",
            "Open a data set",
            "screen",
        )
    elif run is None:
        empty_state("No model is chosen", "The model decides what can be screened.", "models", "Choose a model", "screen")
    st.stop()

fold = f"screen_ask_{session.chosen(CHOICE)}"
session.recall_tick(fold, "ask", run is None)
session.show_in_address("screen", {"ask": run is None}, ("ask",))
words = "Another goal, or another screen" if run else "A new screen"
with errors_shown(), st.expander(words, key=fold, on_change="rerun", icon=":material/manage_search:"):
    screen_form(entry, session.understand(entry), model, run)
