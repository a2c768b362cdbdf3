"""Genes: which genes change, how sure that is, and whether the measurement agrees."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.genes.compare import against_measured, which_perturbation
from pages.parts.genes.sets import gene_lists, gene_set
from pages.parts.genes.table import (
    ask,
    choose_gene,
    gene_table,
    meaning_of_p,
    show_gene,
    show_volcano,
    summary,
    table_of,
    warn_of_raw,
)
from pages.parts.result import finished_run, open_run, result_area
from pages.parts.runs.report import report_button
from pages.parts.widgets import errors_shown, go, page_head
from state_engine.metrics.rules import FOLD

through_app()

page_head(
    "Which genes?",
    "Every gene of predicted cells, tested against the same cells predicted under the control, and against the measurement where there is one.",
)

run = finished_run("the genes that change")
if run is None:
    st.stop()
report_button(run)
with errors_shown(), result_area(run):
    result = open_run(run)
    if not result.has_expression:
        st.info(
            "**This run predicts an embedding, not genes.** Its model has no gene decoder, so there is no expression to test. "
            "Choose a model that predicts genes or has a decoder.",
            icon=":material/info:",
        )
        if st.button("Choose a model", key="to_models", type="primary"):
            go("models")
        st.stop()
    question = ask(result)
    if question.expression == "raw":
        warn_of_raw(run, question)
    table = table_of(run, question)
    if table is None:
        st.stop()
    answer = st.container()
    left, right = st.columns(2, gap="large")
    with left, st.container(horizontal=True, vertical_alignment="bottom"):
        fold = float(st.number_input("Smallest |log2 fold change|", 0.0, 10.0, FOLD, 0.05, key="fold", width=170))
        marked = gene_set(result)
        gene_lists(table, fold)
    with answer:
        st.markdown(summary(question, table, fold))
        meaning_of_p(table)
    with right:
        gene = choose_gene(result, table)
        session.write_address({"perturbation": question.perturbation, "context": question.context, "gene": gene})
        show_gene(run, result, question, gene)
    with left:
        show_volcano(run, question, table, gene, fold, marked)
    tabs = st.tabs(["All genes", "Against the measurement", "All perturbations"], key="gene_tabs", on_change="rerun")
    if tabs[0].open:
        with tabs[0]:
            gene_table(table, marked)
    if tabs[1].open:
        with tabs[1]:
            against_measured(run, result, question, gene)
    if tabs[2].open:
        with tabs[2]:
            which_perturbation(run, question, gene)
