"""The form of Predict as it was left: a draft for each data set and model, on disk, and the request of a run to be changed."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.format import md
from pages.parts.labelling import entry_of
from pages.parts.runs.take_in import asked_in_file
from pages.parts.widgets import DEMO_WANTED, errors_shown
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.errors import listed
from state_engine.jobs.drafts import draft_of, keep_draft
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DEMO_ID, DataEntry
from state_engine.library.models import list_models
from state_engine.prediction.request import PredictionRequest

PLAIN = ("cells", "seed", "device", "precision", "allow_unknown", "observed", "keep_raw", "least_cells", "most_cells", "compile")


def take_up() -> None:
    """Choose data set and model of a run that is to be asked again with changes, or of a request from a file; before they are looked at.

    Raises:
        StateError: the run is gone.
    """
    wanted = st.session_state.pop("predict_again", "")
    if not wanted:
        return
    given = isinstance(wanted, PredictionRequest)
    request = wanted if given else RunFolder.open(session.settings(), wanted).request_as(PredictionRequest)
    entry = entry_of(request.data)
    model = next((e for e in list_models(session.settings()) if e.path == Path(request.model) and e.card), None)
    missing = [name for name, found in (("data set", entry), ("model", model)) if found is None]
    if missing:
        st.warning(f"The {listed(missing)} of that request is not here. Choose another.", icon=":material/warning:")
    if entry is not None:
        session.choose("data", entry.id)
    if model is not None and model.card is not None:
        session.choose("model", model.card.id)
    st.session_state["predict_fill"] = request


def begin(entry: DataEntry, data: Dataset, card: ModelCard) -> None:
    """Fill the form: with a run that is asked again, else, the first time in a session, with the draft; a demo just begun never stays empty."""
    request = st.session_state.pop("predict_fill", None)
    demo = st.session_state.pop(DEMO_WANTED, False) and entry.id == DEMO_ID
    mark, key = f"draft_{entry.id}_{card.id}", f"perturbations_{card.id}"
    if request is None and mark not in st.session_state and key not in st.session_state:
        request = draft_of(session.settings(), entry.id, card.id)
    if request is None and demo and not st.session_state.get(key):
        request = held_out_request(entry, card)
    st.session_state[mark] = st.session_state.get(mark)
    if request is not None:
        _fill(request, entry, data, card)


def held_out_request(entry: DataEntry, card: ModelCard) -> PredictionRequest | None:
    """Return a request for the first two conditions that the training of a model left out, so that there is something to test; None without any."""
    held = [one for one in card.training.held_out if one.context and one.perturbation][:2]
    if not held:
        return None
    perturbations, contexts = (tuple(dict.fromkeys(getattr(one, name) for one in held)) for name in ("perturbation", "context"))
    return PredictionRequest(entry.path, "", perturbations, contexts)


def keep(request: PredictionRequest, entry: DataEntry, card: ModelCard) -> None:
    """Write the form down, when it changed."""
    mark = f"draft_{entry.id}_{card.id}"
    if st.session_state.get(mark) != request:
        st.session_state[mark] = request
        keep_draft(session.settings(), entry.id, card.id, request)


def _fill(request: PredictionRequest, entry: DataEntry, data: Dataset, card: ModelCard) -> None:
    """Set the widgets of the form; what model or data set no longer know is left out."""
    key, state = f"perturbations_{card.id}", st.session_state
    state[key] = [p for p in request.perturbations if p in card.perturbations]
    state[f"contexts_{entry.id}"] = [c for c in request.contexts if len(data.control_rows(c))]
    state[f"{key}_counts"] = request.cells_of
    state[f"set_size_{card.id}"] = request.set_size or card.set_size
    state[f"method_{card.id}"] = request.method
    state["attention"] = request.attention or "as the model's card says"
    for name in PLAIN:
        state[name] = getattr(request, name)


def from_file() -> None:
    """Draw where the request of a run or a report is dropped, and the button that fills the form with it."""
    with st.popover("From a file", icon=":material/data_object:", key="predict_from_file"), errors_shown():
        st.caption("A request (JSON) that Runs or a report offers. It is checked, and fills the form; nothing is computed yet.")
        for number, asked in enumerate(asked_in_file("predict", ("predict",))):
            if asked.request is not None and st.button(f"Fill the form with {md(asked.title, 60)}", key=f"predict_fill_{number}"):
                st.session_state["predict_again"] = asked.request
                st.rerun()
