"""Runs: everything that was asked, with its state; open, compare the settings, delete."""

import streamlit as st

from pages.parts.door import through_app
from pages.parts.runs.list import deleted_lately, kind_words, listed_runs, queue, run_card
from pages.parts.undo import DeletedRows
from pages.parts.widgets import empty_state, page_head

through_app()

page_head(
    "What was done?",
    "Every run keeps its request, versions, seed and result in a folder of its own, and can be repeated from it.",
)

queue()
infos = listed_runs()
if not infos:
    empty_state("No runs yet", "A run appears here when you predict something.", "predict", "Predict something")
search = st.text_input("Search", key="run_search", placeholder="Perturbation, cell type or kind") if len(infos) > 8 else ""
deleted = DeletedRows("runs")
for info in infos[:100]:
    deleted.above(info.id)
    manifest = info.manifest
    text = f"{info.id} {manifest.title} {manifest.kind} {kind_words(manifest.kind)}" if manifest is not None else info.id
    if search.lower() in text.lower():
        run_card(info)
deleted.rest()
deleted_lately()
