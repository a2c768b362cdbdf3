"""Models: choose one, read its card, see whether it fits the data set."""

import streamlit as st

from pages.parts import session
from pages.parts.door import through_app
from pages.parts.format import md, plural, sentences
from pages.parts.models.ask import WANTED, what_to_ask
from pages.parts.models.card import add_models, attention_question, card_view, fit_report
from pages.parts.models.embedding import embedding_card, embedding_models
from pages.parts.models.heads import head_models
from pages.parts.widgets import errors_shown, go, page_head
from state_engine.library.models import list_models
from state_engine.library.shown import without_places

through_app()

page_head(
    "Which model?",
    "A State Transition model predicts perturbed cells from control cells; its card says what it knows, the report whether it fits your data.",
)

settings = session.settings()
entries = list_models(settings)
cards = {entry.card.id: entry for entry in entries if entry.card is not None}

opened = session.data_entry()
with errors_shown():
    if opened is not None:
        what_to_ask(opened, session.understand(opened), settings)
wanted = st.session_state.get(WANTED, "")
if wanted:
    add_models(settings, wanted)

left, right = st.columns([2, 3], gap="large")
with left:
    st.markdown("## Your models")
    if not cards:
        st.info("No model yet. Import or download one below.", icon=":material/deployed_code:")
    for identity, entry in cards.items():
        card = entry.card
        if card is None:
            continue
        chosen = identity == session.chosen("model")
        with st.container(border=True, key=f"model_{identity}"):
            st.markdown(
                f"**{md(card.name)}**" + ("&ensp;:green[:material/check: chosen]" if chosen else "") + "  \n"
                f":gray[{plural(len(card.offered), 'perturbation')}, reads {md(card.input_key)}, "
                f"{'trained on simulated data' if card.simulated else f'licence {md(card.licence)}'}]"
            )
            if not chosen and st.button("Choose", key=f"choose_{identity}"):
                session.choose("model", identity)
                st.session_state.pop("se_shown", None)
                st.rerun()
    for entry in (e for e in entries if e.card is None):
        with st.container(border=True):
            st.markdown(f"**{md(entry.path.name)}**  \n:red[{sentences(without_places(entry.error, settings))}]")
    embedding_models(settings)
    head_models(settings)
    if not wanted:
        add_models(settings)

with right:
    if embedding_card(settings):
        st.stop()
    chosen_entry = session.model_entry()
    if chosen_entry is None or chosen_entry.card is None:
        st.info("Choose a model on the left to see its card.", icon=":material/arrow_back:")
        st.stop()
    with errors_shown():
        data = session.dataset()
        if data is None:
            st.info("Choose a data set to see whether it fits this model.", icon=":material/table:")
            if st.button("Choose a data set", key="to_data"):
                go("data")
        else:
            fits = fit_report(data, chosen_entry.card)
            if st.button("Predict with it", key="to_predict", disabled=not fits, icon=":material/play_circle:"):
                go("predict")
            if fits and opened is not None:
                attention_question(data, opened, chosen_entry)
    card_view(chosen_entry, settings)
