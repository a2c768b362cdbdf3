"""Parts of the Models page: the heads of the library, what each calls and from which vectors, and adding one."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.parts.finetune.apply import WANTED
from pages.parts.format import md, plural, sentences
from pages.parts.widgets import errors_shown, go
from state_engine.checkpoints.head_card import HeadCard, is_head_store
from state_engine.config import Settings
from state_engine.errors import listed
from state_engine.library.models import HEADS, HeadEntry
from state_engine.library.shown import without_places


def head_models(settings: Settings) -> None:
    """The heads, each with its facts; nothing where there are none."""
    entries = HEADS.entries(settings)
    if not entries:
        return
    st.markdown("## Heads")
    st.caption("They call labels or numbers of cells from the vectors that another model gives.")
    for entry in entries:
        with st.container(border=True, key=f"head_{entry.path.name}"):
            if entry.card is None:
                st.markdown(f"**{md(entry.path.name)}**  \n:red[{sentences(without_places(entry.error, settings))}]")
                continue
            _head(entry, entry.card, settings)


def _head(entry: HeadEntry, card: HeadCard, settings: Settings) -> None:
    st.markdown(f"**{md(card.name)}**  \n:gray[{called_words(card)}, fitted on {plural(card.cells, 'cell')} of {md(card.data)}]")
    if st.button("Apply it", key=f"head_apply_{card.id}", icon=":material/label:"):
        st.session_state[WANTED] = card.id
        st.session_state["finetune_view_wanted"] = True
        go("finetune")
    with st.expander("Its card"):
        for name, value in facts(card).items():
            st.markdown(f":gray[{name}]  \n{sentences(value)}")
        if st.button("Remove from the library", key=f"head_remove_{card.id}", type="tertiary"):
            st.session_state["head_asked"] = card.id
        if st.session_state.get("head_asked") == card.id:
            st.warning("Remove this head? What it called stays; its fitting is on Runs, and can be repeated from there.")
            if st.button("Yes, remove it", key=f"head_sure_{card.id}"):
                with errors_shown():
                    HEADS.remove(entry, settings)
                    st.rerun()


def called_words(card: HeadCard) -> str:
    """Return what a head calls, for people."""
    if card.task == "regression":
        return f"calls the number {md(listed(list(card.columns)))}"
    each = " for each cell" if card.task == "multi-label" else ""
    return f"calls {plural(len(card.labels), 'label')} of {md(listed(list(card.columns)))}{each}"


def facts(card: HeadCard) -> dict[str, str]:
    """What a card says, for people."""
    found = {"Reads": card.source.words}
    if card.labels:
        found["Labels"] = listed(list(card.labels), 40)
    found |= {
        "Network": f"{card.config.kind}, trained: {card.tune}",
        "Left out for the test": f"{card.groups}: {listed(list(card.test_groups), 12)}"
        if card.groups
        else "cells drawn by label",
        "Licence": card.licence,
        "Weights": f"sha256 {card.weights_hash[:16]}…",
    }
    return found


def import_head(path: Path, settings: Settings) -> bool:
    """Add a head from a folder of this server; False when it is none.

    Raises:
        ModelError, RequestError: it is damaged, or not allowed.
    """
    if not is_head_store(path):
        return False
    HEADS.import_directory(path, settings)
    return True
