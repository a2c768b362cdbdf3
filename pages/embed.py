"""Embed: give every cell a place with a State Embedding model; see the map, find similar cells, see which genes are read."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.embed.form import embed_form
from pages.parts.embed.genes import genes_read
from pages.parts.embed.map import CHOICE, cell_map, chosen_run, embedding_of, files, open_made, over, summary
from pages.parts.embed.similar import similar_cells
from pages.parts.format import md
from pages.parts.picker import another_run
from pages.parts.widgets import empty_state, errors_shown, page_head

through_app()

page_head(
    "Where do my cells lie?",
    "A State Embedding (SE) model reads the genes a cell expresses and gives it a place: cells that it reads alike lie close together.",
)

entry = session.data_entry()
run = chosen_run(entry)
if entry is None and run is None:
    empty_state(
        "No data set is open", "Cells are embedded one by one, so the page needs a data set.", "data", "Open a data set", "embed"
    )
    st.stop()

with errors_shown():
    if entry is not None:
        with st.expander(f"Embed {md(entry.name)}", expanded=run is None, icon=":material/hub:"):
            embed_form(entry, session.understand(entry))
    if run is None:
        st.stop()
    another_run(CHOICE, run, "Embedding", states=("done",))
    if not over(run, "embed_job"):
        st.stop()
    made = embedding_of(run)
    data = open_made(made, run) if made else None
    if made is None or data is None:
        st.stop()
    summary(run, made)
    views = {"Map": cell_map, "Similar cells": similar_cells, "Genes it reads": genes_read, "Files": files}
    session.recall("embed_view", list(views), "Map", "view")
    view = st.segmented_control("View", list(views), key="embed_view", required=True, label_visibility="collapsed", wrap=True)
    session.show_in_address("embed", {"view": "Map"}, ("view",))
    views[view or "Map"](run, made, data)
