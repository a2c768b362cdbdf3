"""Explore: cells before and after on one map, and how large each effect is."""

import streamlit as st

from pages.ui.effecttable import effect_table
from pages.ui.explorepage import cell_map
from pages.ui.runview import finished_run, map_ready, open_projection, open_run, result_area
from pages.ui.widgets import errors_shown, page_head

page_head(
    "What changes?",
    "Control cells, their predictions and, where they were measured, the perturbed cells, placed on one map of the run.",
)

run = finished_run("the cells before and after")
if run is None:
    st.stop()
with errors_shown(), result_area(run):
    result = open_run(run)
    if map_ready(run):
        cell_map(run, result, open_projection(run))
    effect_table(run, result)
