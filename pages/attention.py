"""Attention: which cells of a set the model looks at."""

import streamlit as st

from pages.parts.attention.sets import cell_sets, maps_of, show_attention
from pages.parts.door import through_app
from pages.parts.result import finished_run, open_run, result_area
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "Which cells does the model look at?",
    "When the model predicts a cell, it draws on the other cells of its set. Attention weights say how much on each.",
)

run = finished_run("which cells the model looked at")
if run is None:
    st.stop()
with errors_shown(), result_area(run):
    if run.request.get("method", "model") not in ("model", "paired"):
        st.stop()  # a baseline looks at no cell; the note above says what it is
    result = open_run(run)
    chosen = cell_sets(run, result)
    maps = maps_of(run, chosen)
    if maps is not None:
        show_attention(run, result, chosen, maps)
