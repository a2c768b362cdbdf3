"""The thread in the sidebar: data set -> model -> run, each a link to where it is changed."""

from __future__ import annotations

import streamlit as st

from pages.parts import session
from pages.parts.format import age, state_words
from pages.parts.navigation import script
from state_engine.errors import StateError


def show_thread() -> None:
    """Draws the three steps, what is chosen in each, and links that keep the choice in the address."""
    with st.sidebar, st.container(key="thread"):
        _step("Data set", _data_words(), "data", ":material/table:")
        _step("Model", _model_words(), "models", ":material/deployed_code:")
        _step("Run", _run_words(), "runs", ":material/history:")


def _step(title: str, words: tuple[str, str], page: str, icon: str) -> None:
    name, detail = words
    st.page_link(script(page), label=f"**{title}** · {name}", icon=icon, query_params=session.thread_params())
    if detail:
        st.caption(detail)


def _data_words() -> tuple[str, str]:
    entry = session.data_entry()
    if entry is None:
        return "none yet", ""
    try:
        data = session.understand(entry)
    except StateError:
        return entry.name, "cannot be read"
    return entry.name, f"{data.n_cells:,} cells x {data.n_genes:,} genes, {data.scale.scale or 'scale unknown'}"


def _model_words() -> tuple[str, str]:
    entry = session.model_entry()
    if entry is None or entry.card is None:
        return "none yet", ""
    card = entry.card
    return card.name, f"reads {card.input_key}, attention {card.attention}"


def _run_words() -> tuple[str, str]:
    run = session.run_folder()
    if run is None:
        return "none yet", ""
    manifest = run.manifest
    return manifest.title or manifest.kind, f"{state_words(run.state)}, {age(manifest.created)}"
