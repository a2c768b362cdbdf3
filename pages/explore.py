"""Explore: cells before and after on one map, and how large each effect is."""

import streamlit as st

from pages.parts.door import through_app
from pages.parts.explore.conditions import conditions
from pages.parts.explore.effects import effect_table, effects_ready, look_alike
from pages.parts.explore.map import cell_map
from pages.parts.result import finished_run, map_ready, open_projection, open_run, result_area
from pages.parts.runs.report import report_button
from pages.parts.runs.share import share_button
from pages.parts.widgets import errors_shown, page_head

through_app()

page_head(
    "What changes?",
    "Every predicted condition by its effect, how far it can be trusted, and the cells before and after.",
)

run = finished_run("the cells before and after")
if run is None:
    st.stop()
with st.container(horizontal=True):
    share_button(run, "explore")
    report_button(run)
with errors_shown(), result_area(run):
    result = open_run(run)
    look_alike(run)
    ready = result.has_expression and effects_ready(run)
    if ready:
        conditions(run, result)
    if map_ready(run):
        st.markdown("#### All cells")
        cell_map(run, result, open_projection(run))
    if ready or not result.has_expression:
        effect_table(run, result)
