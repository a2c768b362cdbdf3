"""Part of the Submit page: predict all that a challenge asks for, from its template or its controls and list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import streamlit as st

from pages.parts import fields, session
from pages.parts.format import md, plural
from pages.parts.jobs import start_job
from pages.parts.predict.form import cost
from pages.parts.submit.form import keep_list
from pages.parts.widgets import errors_shown, finding, go
from state_engine.challenge.spec import ChallengeSpec, Rules, load_challenge
from state_engine.challenge.template import TemplatePlan, TemplateRequest, Unknown, plan_from_template, targets_text
from state_engine.data.dataset import Dataset
from state_engine.library.datasets import DataEntry, list_datasets
from state_engine.library.foreign import TEXT, call
from state_engine.library.models import Entry
from state_engine.options import option_of
from state_engine.prediction.request import MeasuredScreen

_SEVERITY = {"error": "blocking", "warning": "warning", "note": "ok"}
_UNKNOWN: dict[Unknown, str] = {
    "refuse": "Refuse",
    "transfer": "The transfer of their effects measured in other screens, marked",
    "mean": "The mean effect of the perturbations that it knows, marked",
    "no change": "No change: control cells, marked",
}


def template_section(rules: Rules) -> None:
    """What the chosen data set, taken as a template, asks for, and the button that predicts it."""
    with st.expander("Predict all that the challenge asks for", icon=":material/checklist:"), errors_shown():
        st.caption(
            "Open the challenge's template, or its control cells, on the Data page, and choose a model. Which perturbations, and how "
            "many cells of each, comes from the list above (pert_counts.csv), or from the labels of the template."
        )
        entry, model = session.data_entry(), session.model_entry()
        if entry is None or model is None or model.card is None:
            with st.container(horizontal=True):
                if entry is None and st.button("Open the template", key="template_data"):
                    go("data")
                if (model is None or model.card is None) and st.button("Choose a model", key="template_model"):
                    go("models")
            return
        st.markdown(f"**{md(entry.name)}** with **{md(model.card.name)}**")
        _plan(rules, entry, model)


def _plan(rules: Rules, entry: DataEntry, model: Entry) -> None:
    assert model.card is not None
    dataset = session.understand(entry)
    there = [c for c in dataset.contexts if len(dataset.control_rows(c))]
    contexts: list[str] = []
    if len(there) > 1:
        contexts = st.multiselect(
            "Contexts to predict",
            there,
            default=there if rules.context_key else there[:1],
            key="template_contexts",
            select_all=False,
        )
    unknown = st.radio(
        option_of(TemplateRequest, "unknown").label, get_args(Unknown), format_func=lambda u: _UNKNOWN[u], key="template_unknown"
    )
    screens = _screens() if unknown == "transfer" else []
    genes, counts = (str(st.session_state.get(f"submit_{kind}", "")) for kind in ("genes", "counts"))
    spec = _challenge(rules.name, counts)
    left, right = st.columns(2)
    seed = fields.number(left, TemplateRequest, "seed", "template_seed")
    device = fields.choice(right, TemplateRequest, "device", "template_device")
    request = TemplateRequest(
        rules.name, entry.path, str(model.path), genes, counts, tuple(contexts), unknown, entry.choices,
        seed=int(seed), device=device, measured=tuple(MeasuredScreen.of(e.path, e.choices, e.name) for e in screens),
    )  # fmt: skip
    plan = plan_from_template(request, dataset, model.card, spec, [session.understand(e) for e in screens])
    for item in plan.findings:
        finding(_SEVERITY[item.severity], item.title, item.detail, "")
    st.markdown(
        f"**{plural(len(plan.perturbations), 'perturbation')}, {plural(plan.cells, 'cell')}** to submit, controls not counted."
    )
    if plan.prediction is None:
        return
    cost(plan.prediction, dataset, model.card)
    conditions = len(plan.prediction.perturbations) * len(plan.prediction.contexts)
    if st.button(f"Predict {plural(conditions, 'condition')}", key="template_predict", icon=":material/play_circle:"):
        _predict(plan, spec, dataset, counts)


def _screens() -> list[DataEntry]:
    """Choose data sets of the library that measured what the model does not know."""
    known = [entry for entry in list_datasets(session.settings()) if Path(entry.path).exists()]
    one = option_of(TemplateRequest, "measured")
    return st.multiselect(
        one.label, known, key="template_measured", format_func=lambda entry: entry.name,
        help="Open them on the Data page first. An effect is the mean over the contexts of these screens, weighted by how alike their control cells "
        "are, and shrunk by its noise; genes that a screen lacks do not change.", select_all=False,
    )  # fmt: skip


@st.cache_resource(max_entries=16, show_spinner=False)
def _challenge(name: str, counts: str) -> ChallengeSpec:
    """Return a challenge with an uploaded list, which a child reads; the list's folder is named by its content."""
    if not counts:
        return load_challenge(name)
    return call(load_challenge, name, None, Path(counts), path=Path(counts), limits=TEXT)


def _predict(plan: TemplatePlan, spec: ChallengeSpec, dataset: Dataset, counts: str) -> None:
    assert plan.prediction is not None
    title = f"{spec.rules.title}: {plural(len(plan.perturbations), 'perturbation')}"
    run_id = start_job(plan.prediction, title)
    if not counts:
        text = targets_text(plan, spec)
        counts = str(keep_list(session.settings(), "pert_counts.csv", text.encode()))
    asked = replace(plan.submission, source=str(session.settings().runs / run_id / "result.h5ad"))
    st.session_state["submit_counts"] = counts
    st.session_state["submit_repairs"], st.session_state["submit_repairs_of"] = asked.repairs, asked.source
    session.choose("run", run_id)
    go("predict")
