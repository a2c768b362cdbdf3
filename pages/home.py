"""Home: what this is, in one screen, and the demo in one click."""

import streamlit as st

from pages.parts.door import through_app
from pages.parts.format import age, md, state_words
from pages.parts.login import owner_sentence
from pages.parts.picker import runs_for
from pages.parts.runs.list import open_button
from pages.parts.views import saved_views
from pages.parts.widgets import go, page_head, start_demo

through_app()

page_head(
    "What would this perturbation do to my cells?",
    "STATE Explorer predicts it from your single-cell data, shows which genes change and how sure one can be, and lets you take the result home.",
)

with st.container(horizontal=True, key="start_buttons"):
    if st.button("Start with the demo", type="primary", icon=":material/science:", key="start_demo"):
        start_demo()
    if st.button("Open my data set", icon=":material/upload_file:", key="start_data"):
        go("data")

st.caption(f"The demo is a simulated immune-cell screen with a small model trained on it. {owner_sentence()}")

steps = (
    (
        "1 · Data",
        "Open an .h5ad file. You see what was understood of it, from cell types to counts or log1p, and correct what is wrong.",
        "data",
    ),
    ("2 · Model", "Pick a State Transition model. A report says what fits your data and what does not, with numbers.", "models"),
    ("3 · Predict", "Choose perturbations and cell types. Every prediction starts from your own control cells.", "predict"),
    ("4 · Look", "Cells before and after, genes that change, the model's attention, beside simple baselines.", "explore"),
)
for column, (title, text, page) in zip(st.columns(4), steps, strict=True):
    with column, st.container(border=True, height="stretch"):
        st.markdown(f"**{title}**")
        st.markdown(text)
        if st.button("Open", key=f"open_{page}", type="tertiary", icon=":material/arrow_forward:"):
            go(page)

left, right = st.columns([3, 2], gap="large")
with left:
    st.markdown("## What the models are")
    st.markdown(
        "**State Transition (ST)** reads a set of control cells and a perturbation and predicts the same cells perturbed. "
        "It looks at the cells of a set together, so cell-to-cell differences are kept. "
        "Models are from [Arc Institute's STATE](https://www.biorxiv.org/content/10.1101/2025.06.26.661135v2), or trained here.\n\n"
        "Every prediction is made **paired**: the same cells are also predicted under the control label, and the difference is "
        "added to each measured cell. That removes the model's own errors of reconstruction."
    )
    st.markdown("## What to keep in mind")
    st.markdown(
        "- A prediction is a hypothesis. Published comparisons find simple averages as good or better on several tasks, "
        "so they are shown beside the model wherever something was measured.\n"
        "- Cell types a model has not seen in training are untested; the report says which these are.\n"
        "- Attention shows which cells of a set the model used. It is not a mechanism."
    )
with right:
    saved_views()
    st.markdown("## Latest runs")
    recent = list(runs_for("run").values())[:5]
    if not recent:
        st.caption("None yet. Runs stay here until you delete them, and each has an address of its own.")
    for info in recent:
        if info.manifest is None:
            continue
        with st.container(border=True):
            st.markdown(f"**{md(info.manifest.title)}**  \n:gray[{state_words(info.state)}, {age(info.manifest.created)}]")
            open_button(info, f"recent_{info.id}", tertiary=True)
