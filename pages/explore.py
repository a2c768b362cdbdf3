"""Explore: cells before and after on one map, and how large each effect is."""

import streamlit as st

from pages.parts.door import through_app
from pages.parts.explore.effects import effect_table, look_alike
from pages.parts.explore.map import cell_map
from pages.parts.result import finished_run, map_ready, open_projection, open_run, result_area
from pages.parts.runs.report import report_button
from pages.parts.runs.share import share_button
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "What changes?",
    "Control cells, their predictions and, where they were measured, the perturbed cells, placed on one map of the run.",
)

run = finished_run("the cells before and after")
if run is None:
    st.stop()
with st.container(horizontal=True):
    share_button(run.id)
    report_button(run)
with errors_shown(), result_area(run):
    result = open_run(run)
    look_alike(run)
    if map_ready(run):
        cell_map(run, result, open_projection(run))
    effect_table(run, result)
