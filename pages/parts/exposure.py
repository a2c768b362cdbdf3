"""The mark of a condition wherever its measurement is compared with: a test of the model, or recall of what it was trained on."""

from __future__ import annotations

import streamlit as st

from pages.parts.glossary import meaning
from state_engine.effects.exposure import Exposure

WORDS: dict[Exposure, str] = {"test": "test: held out", "in training": "in training", "not known": "not known whether trained on"}
_LONG: dict[Exposure, str] = {
    "test": "The model was trained without this condition, so agreement with the measured cells is a test of it.",
    "in training": "The model was trained on measured cells of this condition: agreement with them is recall, not a test.",
    "not known": "Nothing says whether the model was trained on this condition. If it was, agreement with measured cells is recall, not a test.",
}
_IN_GLOSSARY: dict[Exposure, str] = {"test": "held out", "in training": "in training", "not known": "held out"}
_LOOK: dict[Exposure, tuple[str, str]] = {
    "test": (":material/verified:", "green"),
    "in training": (":material/history:", "gray"),
    "not known": (":material/help:", "gray"),
}


def exposure_badge(exposure: Exposure) -> None:
    """Show the mark of a condition with a sentence."""
    icon, colour = _LOOK[exposure]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(WORDS[exposure], icon=icon, color=colour, help=meaning(_IN_GLOSSARY[exposure]))  # type: ignore[arg-type]
        st.caption(_LONG[exposure])
