"""The answer of the Genes page in one sentence: a test, recall, or nobody measured it, with the numbers that decide."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.parts.exposure import exposure_badge
from pages.parts.format import md, plural
from pages.parts.genes import charts as genechart
from pages.parts.genes.table import Question
from state_engine.analysis.effects import EffectComparison
from state_engine.analysis.recall import found_genes, found_words
from state_engine.effects.bands import NOT_CALIBRATED, SENTENCES
from state_engine.effects.exposure import Exposure
from state_engine.effects.scores import TOP
from state_engine.metrics.rules import BY_FDR

_STANDS: dict[Exposure, str] = {
    "test": "held out",
    "in training": "in training, so this is recall",
    "not known": "measured, but nothing says whether the model was trained on it",
}


_COUNT = (
    f"A gene did where its measured change is significant ({BY_FDR}) and has the predicted direction; no more can than moved significantly. "
    f"*Top {TOP} shared* on the Genes page counts otherwise: of the {TOP} largest measured changes, significant or not, those that are also "
    f"among the {TOP} largest predicted ones."
)


def answer_words(question: Question, table: pd.DataFrame, found: EffectComparison | None, exposure: Exposure) -> str:
    """Return the sentence. Names of labels are escaped for Markdown."""
    where = f"**{md(question.perturbation)} in {md(question.context)}:**"
    if not genechart.is_predicted(table):
        return f"{where} measured cells, as they are in your data set."
    if found is None:
        return f"{where} nobody measured this. {_expected(table)}"
    return f"{where} {_STANDS[exposure]}. {found_words(found, found_genes(found, question.layer), '**')}"


def _expected(table: pd.DataFrame) -> str:
    """What left-out conditions let one expect of a condition."""
    share, band = table.attrs.get("band_share"), table.attrs.get("band", NOT_CALIBRATED)
    if share is None:
        return f"{SENTENCES[NOT_CALIBRATED]}"
    largest = plural(min(TOP, len(table)), "largest effect")
    kept = share * min(TOP, len(table))
    return f"Of its {largest} about {kept:.0f} should keep their direction in a replicate ({band}). {table.attrs['bands']}"


def show_answer(question: Question, table: pd.DataFrame, found: EffectComparison | None, exposure: Exposure) -> None:
    """Show the sentence, and the badge of the condition where it was measured."""
    predicted = found is not None and genechart.is_predicted(table)
    st.markdown(answer_words(question, table, found, exposure), help=_COUNT if predicted else None)
    if found is None:
        return
    exposure_badge(exposure)
    share = table.attrs.get("band_share")
    if genechart.is_predicted(table) and share is not None:
        st.caption(
            f"Left-out conditions let one expect {share:.0%} of its largest effects to keep their direction: {table.attrs['band']}."
        )
