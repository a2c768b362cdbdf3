"""The thread in the sidebar: data set -> model -> run, each a link to where it is changed."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages.parts import session
from pages.parts.format import age, md, state_words
from pages.parts.navigation import script
from pages.parts.widgets import logged
from state_engine.errors import StateError


def show_thread() -> None:
    """Draw the three steps, what is chosen in each, and links that keep the choice in the address.

    It runs before every page, so whatever a damaged data set, model or run raises stops here, with a way out.
    """
    with st.sidebar, st.container(key="thread"):
        _step("Data set", "data", _data_words, "data", ":material/table:")
        _step("Model", "model", _model_words, "models", ":material/deployed_code:")
        _step("Run", "run", _run_words, "runs", ":material/history:")
        if "gone" in st.session_state:  # until another is chosen
            st.warning(st.session_state["gone"], icon=":material/delete:")


def _step(title: str, choice: str, words: Callable[[], tuple[str, str]], page: str, icon: str) -> None:
    problem = ""
    try:
        name, detail = words()
    except StateError:
        name, detail = session.name_of(choice), ""
        problem = "cannot be read"
    except Exception as error:  # noqa: BLE001 - a parser raises anything, and every page begins here
        name, detail = session.name_of(choice), ""
        problem = f"cannot be read; its trace is in the server's log under {logged(error)}"
    st.page_link(script(page), label=f"**{title}** · {md(name)}", icon=icon, query_params=session.thread_params())
    if detail or problem:
        st.caption(md(detail or problem, most=200))
    if problem and st.button("Let go of it", key=f"let_go_{choice}", help="It is no longer chosen; nothing is deleted."):
        session.choose(choice, "")
        st.rerun()


def _data_words() -> tuple[str, str]:
    entry = session.data_entry()
    if entry is None:
        return "none yet", ""
    data = session.understand(entry)
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
