"""Fine-tune: a head fitted on labelled cells, tested beside simple methods, and applied to other or to predicted cells."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.finetune.apply import apply_head
from pages.parts.finetune.form import CHOICE, finetune_form
from pages.parts.finetune.run import fit_or_apply, show_finetuning
from pages.parts.picker import another_run
from pages.parts.widgets import empty_state, errors_shown, page_head

through_app()

page_head(
    "What are these cells?",
    "A head learns labels or numbers from the vectors of your cells, is tested on cells it has not seen, and calls new or predicted cells.",
)

FIT, APPLY = "Fit a head", "Apply a head"
if fit_or_apply(FIT, APPLY) == APPLY:
    with errors_shown():
        apply_head()
    st.stop()

run = session.chosen_run(CHOICE)
another_run(CHOICE, run, "Fitting", none="none: begin a new one")
if run is not None:
    with errors_shown():
        show_finetuning(run)
    if st.button("Fit another head", key="finetune_new", icon=":material/add:"):
        session.choose(CHOICE, "")
        st.rerun()
    st.stop()

entry = session.data_entry()
if entry is None:
    empty_state(
        "No data set is open",
        "A head learns from labelled cells, so the page needs a data set.",
        "data",
        "Open a data set",
        "finetune",
    )
    st.stop()

with errors_shown():
    finetune_form(entry, session.understand(entry))
