"""Runs: everything that was asked, with its state; open, compare the settings, ask again, take out and in, delete."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.runs.list import active_jobs, chosen_filter, deleted_lately, kind_words, listed_runs, queue, run_row
from pages.parts.runs.take_in import take_in
from pages.parts.undo import DeletedRows
from pages.parts.widgets import empty_state, errors_shown, page_head
from state_engine.jobs import ages

SHOWN = 30  # rows at first; the rest is a click away

through_app()

page_head(
    "What was done?",
    "Every run keeps its request, versions, seed and result in a folder of its own, and can be repeated from it.",
)

take_in()
infos = listed_runs()
with errors_shown():
    if ages.sweep(session.settings(), infos):
        infos = listed_runs()
if not infos:
    empty_state("No runs yet", "A run appears here when you predict something.", "predict", "Predict something")
narrowed = chosen_filter(infos)
queue(narrowed)
going = ages.due(session.settings(), infos)
active = {job.run_id for job in active_jobs()}
deleted = DeletedRows("runs")
shown = [
    info
    for info in infos
    if info.id not in active
    and narrowed.admits(
        info.manifest.kind if info.manifest else "",
        info.state,
        f"{info.id} {info.manifest.title} {info.manifest.kind} {kind_words(info.manifest.kind)}" if info.manifest else info.id,
    )
]
most = st.session_state.get("runs_shown", SHOWN)
for info in shown[:most]:
    deleted.above(info.id)
    run_row(info, going.get(info.id))
deleted.rest()
if len(shown) > most and st.button(f"Show {min(SHOWN, len(shown) - most)} more of {len(shown):,}", key="more_runs"):
    st.session_state["runs_shown"] = most + SHOWN
    st.rerun()
deleted_lately()
