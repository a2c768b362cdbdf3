"""Data: open a data set, see what was understood of it, correct it."""

from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.data.form import choices_form, conditions, understood, variable_genes
from pages.parts.data.public import public_data
from pages.parts.data.targets import on_target
from pages.parts.door import through_app
from pages.parts.format import md
from pages.parts.models.ask import what_to_ask
from pages.parts.runs.list import dependents
from pages.parts.undo import DeletedRows, remember
from pages.parts.upload_box import received
from pages.parts.widgets import errors_shown, page_head, show_error, start_demo
from state_engine.config import gib
from state_engine.errors import StateError
from state_engine.jobs import trash
from state_engine.library.datasets import list_datasets, register_file, server_files
from state_engine.library.trash import forget_dataset
from state_engine.sandbox.limits import confinement

through_app()

page_head(
    "Which cells?",
    "Open an .h5ad file of single cells with their perturbations and cell types; it is checked before anything reads it.",
)

settings = session.settings()
with st.container(border=True, key="open_data"):
    tabs = st.tabs(["Upload", "On this server", "Opened before", "Public data", "Demo"])
    with tabs[0]:
        with errors_shown():
            came = received(
                f"Drop .h5ad files here, up to {gib(settings.max_file_bytes)} each (or .h5mu, 10x .h5, .h5ad.gz; a zarr store or a 10x matrix "
                "as a folder or zip).",
                "upload",
            )
            if came is not None:
                session.choose("data", came.id)
                session.choose("run", "")
                st.rerun()
        st.caption(
            "An upload that stops goes on where it stopped when you choose the file again. "
            f"Files are opened in a child process that may not read others ({confinement()})."
        )
    with tabs[1]:
        files = server_files(settings)
        if files:
            path = st.selectbox("File", files, format_func=lambda p: p.name, key="server_file", index=None)
            if st.button("Open this file", key="open_server_file", disabled=path is None) and path is not None:
                with errors_shown():
                    with st.spinner("Checking, and converting what is no .h5ad"):
                        found = register_file(settings, Path(path), session.opened)
                    session.choose("data", found.id)
                    session.choose("run", "")
                    st.rerun()
        else:
            st.caption("No folder of this server is open for reading. Whoever runs it names folders in STATE_EXPLORER_DATA.")
    with tabs[2]:
        known = [entry for entry in list_datasets(settings) if entry.origin != "demo"]
        if not known:
            st.caption("Nothing yet.")
        deleted = DeletedRows("data")
        for old in known:
            deleted.above(old.created)
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{md(old.name)}** :gray[{old.origin}, {old.created[:16].replace('T', ' ')}]")
                if st.button("Open", key=f"reopen_{old.id}"):
                    session.choose("data", old.id)
                    session.choose("run", "")
                    st.rerun()
                if st.button(
                    "Forget", key=f"forget_{old.id}", type="tertiary", help="An uploaded copy is deleted; your own file is not."
                ):
                    st.session_state["asked_to_forget"] = old.id
            if st.session_state.get("asked_to_forget") == old.id:
                st.warning(f"Forget it? {dependents(trash.runs_that_need_data(settings, old))} Undo will stand in its place.")
                if st.button("Yes, forget it", key=f"sure_{old.id}"):
                    forget_dataset(settings, old.id)
                    if session.chosen("data") == old.id:
                        session.choose("data", "")
                    session.choose("gone", old.id)
                    remember("data", old.id, old.created)
                    st.rerun()
        deleted.rest()
    with tabs[3], errors_shown():
        public_data(settings)
    with tabs[4]:
        st.markdown(
            "A simulated screen of about 6,000 immune cells, 5 cell types, 14 perturbations and a control, with real gene names."
        )
        if st.button("Use the demo", key="use_demo", icon=":material/science:"):
            start_demo()

entry = session.data_entry()
if entry is None:
    st.info("Nothing is open. Upload a file, or take the demo: it shows every page at work.", icon=":material/table:")
    st.stop()

st.subheader(md(entry.name), anchor=False)
with errors_shown():
    wrong, problem = tuple[str, ...](), None
    try:
        data = session.understand(entry)
    except StateError as error:  # the form shows all the same, to correct what stands in the way
        (data, wrong), problem = session.understand_without(entry), error
    if problem is None:
        understood(entry, data)
        what_to_ask(entry, data, settings, published=False)
        conditions(data)
    else:
        show_error(problem)
    choices_form(entry, data, wrong, problem)
    if problem is not None:
        st.stop()
    if data.scale.scale is not None:
        variable_genes(entry, data)
        on_target(entry, data)
