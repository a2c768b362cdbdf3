"""Part of the Fine-tune page: a head applied to another data set, to an uploaded file, or to the cells of a prediction."""

from __future__ import annotations

from typing import Any

import streamlit as st

from pages.parts import fields, session
from pages.parts.finetune.called import show_annotation
from pages.parts.format import md, plural, sentences
from pages.parts.jobs import start_job
from pages.parts.picker import another_run, pick_run, run_words, runs_for
from pages.parts.upload_box import received
from pages.parts.widgets import errors_shown, show_error
from state_engine.checkpoints.head_card import HeadCard
from state_engine.data.dataset import Choices
from state_engine.errors import StateError
from state_engine.heads.request import AnnotateRequest
from state_engine.library.datasets import DataEntry, list_datasets
from state_engine.library.models import EMBEDDINGS, HEADS, HeadEntry, list_models

CALLED = "annotation"
WANTED = "finetune_head"  # in the session: id of the head that another page or a finished fitting points to
DATA, PREDICTION = "A data set", "A prediction"


def apply_head() -> None:
    """Which head, to which cells; then what they are called."""
    entries = [entry for entry in HEADS.entries(session.settings()) if entry.card is not None]
    if not entries:
        st.info("No head is in the library yet. Fit one first.", icon=":material/tune:")
        return
    entry = _head(entries)
    if entry.card is None:
        return
    head_words(entry.card)
    where = st.segmented_control("Cells", [DATA, PREDICTION], default=DATA, key="apply_where", required=True, wrap=True)
    with errors_shown():
        asked = _data() if where == DATA else _prediction()
        if asked is not None:
            _start(entry, entry.card, *asked)
    run = session.chosen_run(CALLED)
    another_run(CALLED, run, "Cells that were called", placeholder="Choose one")
    if run is not None:
        with errors_shown(), st.container(border=True, key="annotation"):
            show_annotation(run)


def _head(entries: list[HeadEntry]) -> HeadEntry:
    wanted = st.session_state.pop(WANTED, "")
    if wanted:
        st.session_state["apply_head"] = next((i for i, e in enumerate(entries) if e.card and e.card.id == wanted), 0)
    if not isinstance(st.session_state.get("apply_head", 0), int) or st.session_state.get("apply_head", 0) >= len(entries):
        del st.session_state["apply_head"]
    place = st.selectbox("Head", range(len(entries)), format_func=lambda i: _name(entries[i], entries), key="apply_head")
    return entries[place]


def _name(entry: HeadEntry, entries: list[HeadEntry]) -> str:
    card = entry.card
    if card is None:
        return entry.path.name
    same = sum(e.card is not None and e.card.name == card.name for e in entries) > 1
    return f"{card.name} · {card.id[:6]}" if same else card.name


def head_words(card: HeadCard) -> None:
    """What a head calls, and what it reads, in a line or two."""
    calls = (
        "a number"
        if card.task == "regression"
        else f"{plural(len(card.labels), 'label')} ({md(', '.join(card.labels[:6]), 160)}{' …' if len(card.labels) > 6 else ''})"
    )
    st.caption(
        f"Calls {calls}, learnt from {md(', '.join(card.columns), 120)} of {plural(card.cells, 'cell')} of {md(card.data)}. "
        f"Reads {md(card.source.words, 200)}; only the same vectors mean something to it."
    )


def _data() -> tuple[str, str, str, DataEntry | None] | None:
    """A data set of the installation, or an uploaded file: (path, "", name, entry)."""
    known = list_datasets(session.settings())
    with st.popover("Upload a file", icon=":material/upload:"):
        came = received("Drop an .h5ad file of cells here.", "apply_upload")
    if came is not None:
        st.session_state["apply_data"] = came.id
        st.rerun()
    ids = [entry.id for entry in known]
    if st.session_state.get("apply_data") not in ids:
        st.session_state["apply_data"] = session.chosen("data") if session.chosen("data") in ids else ids[0]
    chosen = st.selectbox("Data set", ids, format_func=lambda i: next(e.name for e in known if e.id == i), key="apply_data")
    entry = next(e for e in known if e.id == chosen)
    return entry.path, "", entry.name, entry


def _prediction() -> tuple[str, str, str, DataEntry | None] | None:
    """A finished prediction: ("", folder, title, None)."""
    runs = runs_for("run", ("done",))
    if not runs:
        st.info("There is no finished prediction. Predict something first.", icon=":material/play_circle:")
        return None
    st.caption(
        "What would the head call these cells after the perturbation? Predicted cells, the same cells predicted under the control label, "
        "and measured cells are called alike, so that the model's own bias is seen."
    )
    run = pick_run(run_words(runs), "run", "Prediction", "apply_run")
    info = runs[run]
    return "", str(info.path), info.manifest.title if info.manifest else run, None


def _start(entry: HeadEntry, card: HeadCard, data: str, result: str, name: str, cells: DataEntry | None) -> None:
    left, right = st.columns([2, 3], vertical_alignment="bottom")
    threshold = 0.0
    if card.task != "regression":
        threshold = left.slider(
            "Unknown below a probability of", 0.0, 1.0, 0.5 if card.task == "classification" else 0.0, 0.05, key="apply_threshold",
            help="Cells whose best label is less probable than this are called unknown. 0 calls every cell.",
        )  # fmt: skip
    more = _more(card)
    choices = cells.choices if cells is not None else Choices(expression=_layer())
    try:
        request = AnnotateRequest(
            str(entry.path), data, result, threshold, choices, more["embedding_key"],
            more["backbone"], more["batch_size"], more["device"], more["precision"],
        )  # fmt: skip
    except StateError as error:
        st.error(sentences(str(error)), icon=":material/error:")
        return
    what = "the cells" if cells is not None else "the predicted cells"
    if right.button(f"Call {what} of {md(name, 60)}", type="primary", key="annotate", icon=":material/label:"):
        try:
            run = start_job(request, f"{card.name} on {name}")
        except StateError as error:
            show_error(error)
            return
        session.choose(CALLED, run)
        st.rerun()


def _layer() -> str | None:
    """Which expression of a prediction is called; None for the recommended one."""
    words = {None: "the recommended one", "layers/raw": "raw: as the network gave it"}
    return st.selectbox(
        "Which prediction", list(words), format_func=words.__getitem__, key="apply_layer", persist_state="session"
    )


def _more(card: HeadCard) -> dict[str, Any]:
    with st.expander("More options", icon=":material/tune:"):
        one, two, three, four = st.columns(4)
        models = {"": "where it was, or in the library"} | _models()
        found: dict[str, Any] = {
            "batch_size": fields.number(one, AnnotateRequest, "batch_size", "apply_batch", placeholder="by the memory"),
            "device": fields.choice(two, AnnotateRequest, "device", "apply_device"),
            "precision": fields.choice(three, AnnotateRequest, "precision", "apply_precision"),
            "embedding_key": fields.text(four, AnnotateRequest, "embedding_key", "apply_key").strip(),
            "backbone": st.selectbox("Model behind the head", list(models), format_func=models.__getitem__, key="apply_backbone",
                                     disabled=card.source.kind in ("obsm", "expression")),
        }  # fmt: skip
    return found


def _models() -> dict[str, str]:
    """Every model of the library: folder -> name."""
    settings = session.settings()
    found = {str(e.path): e.card.name for e in EMBEDDINGS.entries(settings) if e.card is not None}
    return found | {str(e.path): e.card.name for e in list_models(settings) if e.card is not None}
