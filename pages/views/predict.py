"""Predict: choose perturbations and contexts, see the cost, run it, come back to it."""

import streamlit as st

from pages.ui import session
from pages.ui.predictpage import cost, pick_perturbations, request_form, show_run, submit
from pages.ui.widgets import empty_state, errors_shown, finding, go, page_head
from state_engine.compatibility import check_compatibility

page_head(
    "What should happen to which cells?",
    "Control cells of your data set are predicted under each perturbation, and under the control for comparison.",
)

run = session.run_folder()
if run is not None and run.manifest.kind == "predict":
    show_run(run)

entry, model = session.data_entry(), session.model_entry()
if entry is None:
    empty_state(
        "No data set is open", "A prediction starts from control cells, so it needs a data set.", "data", "Open a data set"
    )
    st.stop()
if model is None or model.card is None:
    empty_state("No model is chosen", "The model decides which perturbations can be predicted.", "models", "Choose a model")
    st.stop()

with errors_shown():
    data = session.understand(entry)
    report = check_compatibility(data, model.card)
    if report.blocking:
        st.markdown("#### This model cannot read this data set")
        for item in report.blocking:
            finding(item.severity, item.title, item.detail, item.fix)
        with st.container(horizontal=True):
            if st.button("Choose another model", key="other_model", type="primary"):
                go("models")
            if st.button("Correct the data set", key="other_data"):
                go("data")
        st.stop()
    perturbations = pick_perturbations(data, model.card)
    request = request_form(entry, data, model, perturbations)
    if request is not None:
        cost(request, data, model.card)
        conditions = len(request.perturbations) * len(request.contexts)
        if st.button(
            f"Predict {conditions:,} condition{'' if conditions == 1 else 's'}",
            type="primary",
            key="predict",
            icon=":material/play_circle:",
        ):
            submit(request, entry, model)
    else:
        st.button("Predict", key="predict_disabled", disabled=True, help="Choose at least one perturbation and one context.")
    warnings = [f for f in report.findings if f.severity == "warning"]
    if warnings:
        with st.expander(f"{len(warnings)} things to keep in mind"):
            for item in warnings:
                finding(item.severity, item.title, item.detail, item.fix)
