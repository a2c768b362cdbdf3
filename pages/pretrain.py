"""Pretrain: a State Embedding model on one's own cells, followed live, stopped and gone on with, and tested on labels."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.picker import another_run
from pages.parts.pretrain.form import CHOICE, pretrain_form
from pages.parts.pretrain.run import show_pretraining
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "Which genes go together in my cells?",
    "A State Embedding (SE) model learns to say a cell's expression from its place: then cells that are alike lie close, without any labels.",
)

run = session.chosen_run(CHOICE)
another_run(CHOICE, run, "Pretraining", none="none: begin a new one")
if run is not None:
    with errors_shown():
        show_pretraining(run)
    if st.button("Pretrain another model", key="pretraining_new", icon=":material/add:"):
        session.choose(CHOICE, "")
        st.rerun()
    st.stop()

with errors_shown():
    pretrain_form(session.data_entry())
