"""Parts of the Models page: the State Embedding models of the library, the card of one, and adding another."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from pages.parts.format import md, sentences, size
from pages.parts.jobs import start_job
from pages.parts.widgets import errors_shown, go
from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.checkpoints.recognise import embedding_kind
from state_engine.config import Settings
from state_engine.jobs.requests import ConvertEmbeddingRequest
from state_engine.library.models import EMBEDDINGS, EmbeddingEntry
from state_engine.library.shown import without_places

SHOWN = "se_shown"


def embedding_models(settings: Settings) -> None:
    """The State Embedding models, each with a way to its card."""
    entries = EMBEDDINGS.entries(settings)
    st.markdown("## State Embedding models")
    st.caption("They give every cell a place; some State Transition models read that instead of genes.")
    if not entries:
        st.caption("None yet.")
    for entry in entries:
        card = entry.card
        with st.container(border=True, key=f"se_{entry.path.name}"):
            if card is None:
                st.markdown(f"**{md(entry.path.name)}**  \n:red[{sentences(without_places(entry.error, settings))}]")
                continue
            trained = "not trained on real cells" if card.simulated else f"licence {md(card.licence)}"
            st.markdown(f"**{md(card.name)}**  \n:gray[{len(card.vocabulary):,} genes, {card.width:,} dimensions, {trained}]")
            if st.session_state.get(SHOWN) != card.id and st.button("See its card", key=f"se_card_{card.id}"):
                st.session_state[SHOWN] = card.id
                st.rerun()


def embedding_card(settings: Settings) -> bool:
    """The card of the State Embedding model that is looked at; False when none is."""
    shown = st.session_state.get(SHOWN)
    entry = next((e for e in EMBEDDINGS.entries(settings) if e.card and e.card.id == shown), None)
    if entry is None or entry.card is None:
        return False
    _card(entry, entry.card, settings)
    return True


def _card(entry: EmbeddingEntry, card: EmbeddingCard, settings: Settings) -> None:
    st.markdown(f"## {md(card.name)}")
    with st.container(horizontal=True):
        if st.button("Embed cells with it", key="se_use", type="primary", icon=":material/hub:"):
            go("embed")
        if st.button("Back", key="se_back"):
            del st.session_state[SHOWN]
            st.rerun()
        if not entry.demo and st.button("Remove from the library", key="se_remove", type="tertiary"):
            with errors_shown():
                EMBEDDINGS.remove(entry, settings)
                del st.session_state[SHOWN]
                st.rerun()
    with st.container(border=True, key="se_facts"):
        for name, value in facts(entry, card).items():
            left, right = st.columns([1, 2], gap="small")
            left.markdown(f":gray[{name}]")
            right.markdown(sentences(value))
    for text in (*card.limits, *card.notes):
        st.caption(f":material/info: {sentences(text)}")
    with st.expander(f"Its {len(card.vocabulary):,} genes"):
        st.dataframe(pd.DataFrame({"Gene": card.vocabulary}), hide_index=True, key="se_genes", height=300)


def facts(entry: EmbeddingEntry, card: EmbeddingCard) -> dict[str, str]:
    """What a card says, for people."""
    config = card.config
    parts = f"{card.cell_width:,} for the cell" + (
        f", {card.width - card.cell_width} for its data set" if config.dataset_token else ""
    )
    return {
        "Reads": f"the {config.tokens - 1:,} most expressed of its {len(card.vocabulary):,} genes in a cell, from counts or log1p",
        "Makes": f"{card.width:,} dimensions: {parts}",
        "Network": f"{config.layers} layers, width {config.hidden:,}, {config.heads} heads, gene vectors of {config.token_dim:,}",
        "Data": card.training.data or "not recorded",
        "Licence": card.licence,
        "Source": card.source or "not recorded",
        "Genes": f"sha256 {card.vocabulary_hash[:16]}…",
        "Weights": f"sha256 {card.weights_hash[:16]}…, {size(entry.nbytes)}",
    }


def import_embedding(path: Path, settings: Settings) -> bool:
    """Adds a State Embedding model from a folder or checkpoint of this server; False when it is none.

    Raises:
        ModelError, RequestError: it is damaged, or not allowed.
    """
    kind = embedding_kind(path)
    if kind == "store":
        entry = EMBEDDINGS.import_directory(path, settings)
        st.session_state[SHOWN] = entry.card.id if entry.card else ""
    elif kind == "arc":
        run = start_job(ConvertEmbeddingRequest(str(path), path.stem), f"Convert {path.name}")
        st.session_state["model_job"] = run
    return bool(kind)
