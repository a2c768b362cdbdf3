"""Gene sets of the Genes page: names pasted in, searched and matched; top genes copied out."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from pages.parts import session
from pages.parts.format import sentences
from pages.parts.genes import charts as genechart
from state_engine.errors import listed, may_be, near_each
from state_engine.gene_sets.sets import match_names
from state_engine.metrics.rules import FOLD, SIGNIFICANT
from state_engine.prediction.result import Result

FDR = SIGNIFICANT
MOST_FOLD = 10.0
MOST_IN_ADDRESS = 1000  # characters of a gene set; a longer one would make a link that programs cut off


def find_genes(table: pd.DataFrame, search: str) -> pd.DataFrame:
    """The genes that a search means: exact names when all are (upper or lower case), else names that contain any of the words."""
    words = split_names(search)
    if not words:
        return table
    names = table["gene"].str.upper()
    exact = names.isin([word.upper() for word in words])
    if exact.sum() >= len(words):
        return table[exact]
    return table[names.str.contains("|".join(re.escape(word.upper()) for word in words), regex=True)]


def split_names(text: str) -> list[str]:
    """Names in a pasted text, separated by commas, semicolons, tabs, spaces or lines; quotes are dropped, repeats too."""
    return list(dict.fromkeys(name for name in (part.strip("\"'") for part in re.split(r"[\s,;]+", text)) if name))


def gene_set(result: Result) -> tuple[str, ...]:
    """Names pasted by the user, to be marked; those that the result does not have are said."""
    session.recall_text("gene_set", "set")
    with st.popover("Gene set", icon=":material/playlist_add:"):
        text = st.text_area(
            "Gene names, separated by commas, spaces or lines", key="gene_set", height=140, persist_state="session"
        )
        found, missing = match_names(split_names(text), result.genes)
        if text.strip():
            st.caption(f"{len(found):,} of {len(found) + len(missing):,} names are in the result.")
        if missing:
            words = f"{listed(missing, 12)}. {may_be(_near(missing, result.genes))}"
            st.warning(f"**Not in the result:** {sentences(words)}", icon=":material/warning:")
    return found


@st.cache_data(max_entries=8, show_spinner=False)
def _near(missing: tuple[str, ...], genes: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return near_each(missing, genes)


def smallest_fold() -> float:
    """Ask for the fold change from which a gene counts as changed."""
    session.recall_number("fold", "fold", FOLD, 0.0, MOST_FOLD)
    return float(
        st.number_input("Smallest |log2 fold change|", 0.0, MOST_FOLD, step=0.05, key="fold", width=170, persist_state="session")
    )


def gene_lists(table: pd.DataFrame, fold: float) -> None:
    """The top genes of each direction, ready to be copied into another tool."""
    calls = genechart.directions(table, FDR, fold)
    with st.popover("Top genes", icon=":material/content_copy:"):
        n = int(st.number_input("Genes of each direction", 5, 500, 50, 5, key="list_length"))
        for direction in ("up", "down"):
            genes = genechart.top_genes(table, calls, direction, n)
            st.markdown(f"**{direction.capitalize()}** · {len(genes):,} of {int((calls == direction).sum()):,}")
            if genes:
                st.code("\n".join(genes), language=None, height=150)
        order = "|log2 fold change|" if genechart.is_predicted(table) else "|log2 fold change| x −log10 p"
        st.caption(f"Genes counted as changed above, ordered by {order}.")
