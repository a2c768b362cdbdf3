"""Part of the Train page: whether adapting a model helped, beside a training from scratch, the model as it was, and the baselines."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.parts.evaluate.answer import metric_table
from pages.parts.evaluate.skill import skills
from pages.parts.figures import csv_button
from pages.parts.format import sentences
from pages.parts.result import stamp
from state_engine.evaluation.adaptation import REPORT, Adaptation, read_adaptation
from state_engine.evaluation.report import EVALUATION, METRICS, Evaluation, read_evaluation
from state_engine.evaluation.request import FOLDER
from state_engine.library.foreign import read_file


@st.cache_data(max_entries=32, show_spinner=False)
def _read(folder: str, written: int) -> tuple[Adaptation | None, Evaluation | None]:
    return read_file(read_adaptation, Path(folder)), read_file(read_evaluation, Path(folder) / FOLDER)


def show_adaptation(folder: Path) -> None:
    """The report of a training that adapted a model; nothing where it did not, or nothing was compared."""
    if not (folder / REPORT).is_file() or not (folder / FOLDER / EVALUATION).is_file():
        return
    found, evaluation = _read(str(folder), stamp(folder / REPORT))
    if found is None or evaluation is None:
        return
    st.markdown("#### Did adapting help?")
    show = st.success if found.helps == "yes" else st.warning if found.helps == "no" else st.info
    show(sentences(found.verdict).replace("-", "−"), icon=":material/balance:")
    st.caption(
        f"On cells that were held out of both trainings, {found.steps:,} steps each. Not adapted: the model as it was. What a row does not "
        "predict is a dash."
    )
    with st.container(key="adaptation_table"):
        st.markdown(metric_table(evaluation)[0])
    skills(evaluation)
    if evaluation.held_out:
        st.caption(f":material/visibility_off: {sentences(evaluation.held_out)}")
    csv_button("All numbers (CSV)", folder / FOLDER / METRICS, "adaptation.csv", "adaptation_csv")
    with st.expander("What the model knew of these data"):
        for sentence in found.fit.sentences():
            st.markdown(sentences(sentence))
