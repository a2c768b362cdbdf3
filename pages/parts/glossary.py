"""The glossary of the documentation, in the app: all words behind a button of the sidebar, and single ones as help beside numbers."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from state_engine.config import APP

PATH = APP / "docs" / "glossary.md"
_ROW = re.compile(r"^\| (.+?) \| (.+) \|$")


@st.cache_resource
def words() -> dict[str, str]:
    """Return word -> meaning, in the order of the file: one source for the documentation and the app."""
    rows = (_ROW.match(line) for line in PATH.read_text(encoding="utf-8").splitlines())
    found = {row[1]: row[2] for row in rows if row is not None}
    found.pop("Word", None)
    return found


def meaning(word: str) -> str:
    """Return what a word of the glossary means, as help beside a number.

    Raises:
        KeyError: the glossary does not have it.
    """
    return words()[word]


def found(text: str) -> list[tuple[str, str]]:
    """Return the words, with their meaning, that have a text in one of both."""
    wanted = text.strip().lower()
    return [(word, about) for word, about in words().items() if wanted in f"{word} {about}".lower()]


def glossary_button() -> None:
    """Draw the button in the sidebar that opens the glossary."""
    if st.sidebar.button("What do the words mean?", key="glossary", type="tertiary", icon=":material/dictionary:"):
        _open()


@st.dialog("What do the words mean?", width="large", icon=":material/dictionary:")
def _open() -> None:
    rows = found(st.text_input("Find", key="glossary_find", placeholder="effect, baseline, held out"))
    if not rows:
        st.caption("No word of the glossary has this in it.")
        return
    st.table(pd.DataFrame(rows, columns=["Word", "Meaning"]).set_index("Word"))
