"""Genes: which genes change, how sure that is, and whether the measurement agrees."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.genes.answer import show_answer
from pages.parts.genes.compare import comparison_of
from pages.parts.genes.gene_list import gene_table, with_measured
from pages.parts.genes.sets import MOST_IN_ADDRESS, gene_lists, gene_set, smallest_fold
from pages.parts.genes.table import (
    ask,
    choose_gene,
    meaning_of_p,
    show_gene,
    show_volcano,
    summary,
    table_of,
    warn_of_raw,
)
from pages.parts.genes.tabs import TABS, View
from pages.parts.result import finished_run, open_run, result_area
from pages.parts.runs.report import report_button
from pages.parts.runs.share import share_button
from pages.parts.widgets import errors_shown, go, page_head
from state_engine.metrics.rules import FOLD

through_app()

page_head(
    "Which genes?",
    "Every gene of predicted cells, beside the measurement where there is one, and how sure its direction is.",
)

run = finished_run("the genes that change")
if run is None:
    st.stop()
with st.container(horizontal=True):
    share_button(run, "genes")
    report_button(run)
with errors_shown(), result_area(run):
    result = open_run(run)
    if not result.has_expression:
        st.info(
            "**This run predicts an embedding, not genes.** Its model has no gene decoder, so there is no expression to test. "
            "Choose a model that predicts genes or has a decoder.",
            icon=":material/info:",
        )
        if not session.by_link() and st.button("Choose a model", key="to_models", type="primary"):
            go("models")
        st.stop()
    question = ask(run, result)
    if question.expression == "raw":
        warn_of_raw(run, question)
    table = table_of(run, question)
    if table is None:
        st.stop()
    found = comparison_of(run, result, question)
    show_answer(question, table, found, result.exposure(question.perturbation, question.context))
    table = with_measured(table, found.genes if found is not None else None)
    answer = st.container()
    with st.container(key="halves_genes"):
        left, right = st.columns([6, 5], gap="large")
    with left:
        gene = choose_gene(result, table)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            marked = gene_set(result)
            fold = smallest_fold()
            gene_lists(table, fold)
        gene_table(table, marked)
        meaning_of_p(table)
    with answer:
        st.markdown(summary(question, table, fold))
    with right:
        show_volcano(run, question, table, gene, fold, marked)
        show_gene(run, result, question, gene)
    session.recall("gene_tabs", list(TABS), next(iter(TABS)), "tab")
    tabs = st.tabs(list(TABS), key="gene_tabs", on_change="rerun")
    # all but the tab always: the links of the menu carry them, so that coming back writes nothing
    usual: dict[str, object] = {"tab": next(iter(TABS)), "fold": FOLD, "show": "All"}
    if len(st.session_state.get("gene_set", "")) > MOST_IN_ADDRESS:
        usual["set"] = st.session_state["gene_set"]
    session.show_in_address("genes", usual)
    for tab, show in zip(tabs, TABS.values(), strict=True):
        if tab.open:
            with tab, errors_shown():
                show(View(run, result, question, table, gene, fold, tuple(marked)))
