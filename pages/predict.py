"""Predict: choose perturbations and contexts, see the cost, run it, come back to it."""

from dataclasses import replace

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.predict import draft
from pages.parts.predict.form import (
    allow_other_embedding,
    cost,
    is_answered,
    keep_in_mind,
    pick_perturbations,
    request_form,
    show_run,
    submit,
)
from pages.parts.widgets import empty_state, errors_shown, finding, go, page_head
from state_engine.prediction.compatibility import check_compatibility
from state_engine.prediction.inputs import MAKER, TO_BE_MADE

through_app()

page_head(
    "What should happen to which cells?",
    "Control cells of your data set are predicted under each perturbation, and under the control for comparison.",
)

with errors_shown():
    draft.take_up()
draft.from_file()
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
    other = allow_other_embedding(model.card, data)
    report = check_compatibility(data, model.card, allow_other_embedding=other)
    if report.blocking:
        st.markdown("## This model cannot read this data set")
        for item in report.blocking:
            finding(item.severity, item.title, item.detail, item.fix)
        with st.container(horizontal=True):
            to_be_made = any(item.code in (TO_BE_MADE, MAKER) for item in report.blocking)
            if to_be_made and st.button("Make the embedding", key="make_embedding", type="primary", icon=":material/hub:"):
                go("embed")
            if st.button("Choose another model", key="other_model", type="secondary" if to_be_made else "primary"):
                go("models")
            if st.button("Correct the data set", key="other_data"):
                go("data")
        st.stop()
    draft.begin(entry, data, model.card)
    perturbations, counts = pick_perturbations(entry, data, model.card)
    request = request_form(entry, data, model, perturbations, counts)
    keep_in_mind(report)
    if request is not None:
        request = replace(request, allow_other_embedding=other)
        draft.keep(request, entry, model.card)
        takes = cost(request, data, model.card)
        conditions = len(request.perturbations) * len(request.contexts)
        if st.button(
            f"Predict {conditions:,} condition{'' if conditions == 1 else 's'}",
            type="secondary" if is_answered(run, request) else "primary",
            key="predict",
            icon=":material/play_circle:",
        ):
            submit(request, takes)
    else:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Predict", key="predict_disabled", disabled=True)
            st.caption("Choose at least one perturbation and one context.")
