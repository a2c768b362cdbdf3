"""Train: a model on part of one's own screen, followed live, and tested on cells it has never seen."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.picker import another_run
from pages.parts.train.form import train_form
from pages.parts.train.run import CHOICE, show_training
from pages.parts.widgets import empty_state, errors_shown, page_head

through_app()

page_head(
    "What can a model learn from my screen?",
    "A State Transition model is trained on part of your data, and tested on cells it has never seen beside simple means of the rest.",
)

run = session.chosen_run(CHOICE)
another_run(CHOICE, run, "Training", none="none: begin a new one")
if run is not None:
    with errors_shown():
        show_training(run)
    if st.button("Train another model", key="training_new", icon=":material/add:"):
        session.choose(CHOICE, "")
        st.rerun()
    st.stop()

entry = session.data_entry()
if entry is None:
    empty_state(
        "No data set is open",
        "A model learns from measured cells, so the page needs a data set.",
        "data",
        "Open a data set",
        "train",
    )
    st.stop()

with errors_shown():
    train_form(entry, session.understand(entry))
