"""Part of the page Screen: which contexts and perturbations, which goal, what it costs, and the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from pages.parts import fields, session
from pages.parts.forecast import expected, queue_words, time_words
from pages.parts.format import md, plural, size
from pages.parts.jobs import start_job
from pages.parts.predict.form import METHOD_WORDS, allow_other_embedding, methods
from pages.parts.widgets import finding, go, show_error
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.errors import StateError, listed
from state_engine.gene_sets.text import genes_of
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.library.foreign import TEXT, call
from state_engine.library.models import EMBEDDINGS, HEADS, Entry, list_models
from state_engine.options import option_of
from state_engine.prediction.compatibility import check_compatibility
from state_engine.prediction.request import PredictionRequest, estimate
from state_engine.screening.cost import disk_bytes, perturbations_of
from state_engine.screening.genes_text import changes_of
from state_engine.screening.request import Goal, ScreenRequest

CHOICE = "screening"
GOALS: dict[Goal, str] = {
    "signature": "Genes up and down",
    "explanation": "Explain a measured effect",
    "target cells": "Cells like these",
    "head": "A label of a head",
    "effect size": "Largest effects",
}
MOST_VALUES = 5_000  # labels that a column may have to be offered
MOST_MB = 64  # of an uploaded list
_NO_GOAL: dict[str, Any] = {
    "up_genes": (), "down_genes": (), "changes": (), "opposite": False, "target_cells": "", "head": "", "label": "", "backbone": "",
}  # fmt: skip
T = TypeVar("T")
START_SECONDS = 5.0  # of a screen beside its sets: reading cells and weights, comparisons, writing


@dataclass(frozen=True)
class Asked:
    """Fields of a request that say the goal, and what is still to be filled in."""

    fields: dict[str, Any]
    missing: str = ""


def screen_form(entry: DataEntry, data: Dataset, model: Entry, run: RunFolder | None) -> None:
    """The whole form."""
    card = model.card
    if card is None:
        return
    other = allow_other_embedding(card, data)
    report = check_compatibility(data, card, allow_other_embedding=other)
    if report.blocking or (not card.output_genes and not report.source):
        st.markdown("#### This model cannot screen this data set")
        for item in report.blocking:
            finding(item.severity, item.title, item.detail, item.fix)
        if st.button("Choose another model", key="screen_model", type="primary"):
            go("models")
        return
    st.markdown("#### What do you want?")
    session.recall("screen_goal", list(GOALS), "signature", "goal")
    goal = st.segmented_control(
        "Goal", list(GOALS), format_func=GOALS.__getitem__, key="screen_goal", required=True, label_visibility="collapsed",
        persist_state="session", wrap=True,
    )  # fmt: skip
    try:
        asked = _ASKING[goal or "signature"](data)
    except StateError as error:
        show_error(error)
        return
    st.markdown("#### Where, and which?")
    contexts = [c for c in data.contexts if len(data.control_rows(c))]
    key = f"screen_contexts_{entry.id}"
    session.recall_several(key, contexts, contexts[:1], "contexts")
    chosen = fields.several(
        st, ScreenRequest, "contexts", key, contexts,
        format_func=lambda c: f"{c} · {len(data.control_rows(c)):,} control cells", persist_state="session",
    )  # fmt: skip
    usual: dict[str, object] = {"goal": "signature", "contexts": contexts[:1], "opposite": False}
    if "opposite" not in asked.fields:  # what was ticked for genes is not asked of cells
        usual["opposite"] = st.session_state.get("screen_opposite")
    session.show_in_address("screen", usual, tuple(usual))
    known = [p for p in card.perturbations if p != card.control]
    some = fields.several(
        st, ScreenRequest, "perturbations", f"screen_perturbations_{card.id}", known, placeholder=f"All {len(known):,}"
    )
    more = _more(card, model)
    before = _earlier(run, entry, model)
    try:
        if before is None:
            request = ScreenRequest(
                entry.path, str(model.path), tuple(c for c in contexts if c in chosen), tuple(some), choices=entry.choices,
                allow_other_embedding=other, **asked.fields, **more,
            )  # fmt: skip
        else:  # everything but the goal is that of its predictions
            request = replace(before, **_NO_GOAL | asked.fields, combinations=more["combinations"], splits=more["splits"])
            chosen = list(request.contexts or contexts)
        names = perturbations_of(request, card)
    except StateError as error:
        show_error(error)
        return
    alone = _cost(request, data, card, len(names), tuple(chosen))
    ready = bool(chosen) and not asked.missing
    help_text = asked.missing or ("" if chosen else "Choose a context.")
    label = f"Screen {plural(len(names) * len(chosen), 'condition')}"
    if st.button(
        label, type="primary", key="screen", icon=":material/manage_search:", disabled=not ready, help=help_text or None
    ):
        words = {"target cells": request.target_cells, "head": Path(request.head).name}.get(request.goal, GOALS[request.goal])
        identity = start_job(request, f"{words} · {listed(list(request.contexts), 2)} · {card.name}", expected=alone)
        session.choose(CHOICE, identity)
        st.rerun()


def _signature(data: Dataset) -> Asked:
    left, right = st.columns(2)
    up, down = _genes(left, "up_genes", "up"), _genes(right, "down_genes", "down")
    opposite = _opposite()
    found = {"up_genes": up, "down_genes": down, "opposite": opposite and bool(up or down)}
    return Asked(found, "" if up or down else "Name genes that are to go up, or down.")


def _opposite() -> bool:
    """Whether what does the opposite is ranked first: one answer for genes and for a measured effect."""
    session.recall_tick("screen_opposite", "opposite")
    return fields.yes(st, ScreenRequest, "opposite", "screen_opposite", persist_state="session")


def _genes(place: Any, path: str, name: str) -> tuple[str, ...]:
    """Genes pasted or uploaded: a list, a CSV, or a GMT with the set chosen."""
    text = place.text_area(
        option_of(ScreenRequest, path).label,
        key=f"screen_{name}",
        height=110,
        placeholder="One a line, or with commas or blanks between",
        persist_state="session",
    )
    file = place.file_uploader(
        "Or a file: a list, CSV or GMT", type=["txt", "csv", "tsv", "gmt"], key=f"screen_{name}_file", max_upload_size=MOST_MB
    )
    found: tuple[str, ...] = _read(genes_of, text, "The pasted list") if text.strip() else ()
    if file is not None:
        chosen = ""
        if file.name.lower().endswith(".gmt"):
            chosen = place.text_input("Gene set of the GMT", key=f"screen_{name}_set", help="Needed where it has several.")
        raw = file.getvalue().decode("utf-8", "replace")
        found = tuple(dict.fromkeys([*found, *_read(genes_of, raw, file.name, chosen.strip())]))
    if found:
        place.caption(f"{plural(len(found), 'gene')}: {md(listed(found, 8), 160)}")
    return found


def _explanation(data: Dataset) -> Asked:
    st.caption(
        "A table with the columns gene and log2_fold_change: the CSV of the Genes page, of a selection on Explore, or of any other tool. "
        "Which perturbation would change the genes so?"
    )
    left, right = st.columns(2)
    text = left.text_area("Paste the table", key="screen_changes", height=110, placeholder="gene,log2_fold_change\nISG15,3.1")
    file = right.file_uploader("Or a file", type=["csv", "tsv", "txt"], key="screen_changes_file", max_upload_size=MOST_MB)
    opposite = _opposite()
    if file is None and not text.strip():
        return Asked({"opposite": False}, "Paste a table, or choose a file.")
    raw, name = (file.getvalue().decode("utf-8", "replace"), file.name) if file is not None else (text, "The pasted table")
    changes = _read(changes_of, raw, name)
    st.caption(f"{plural(len(changes), 'gene')} with a change.")
    return Asked({"changes": changes, "opposite": opposite})


def _target(data: Dataset) -> Asked:
    columns = [n for n, column in data.columns.items() if 1 < len(column.categories) <= MOST_VALUES]
    if not columns:
        return Asked({}, "The data set has no column of labels.")
    left, right = st.columns(2)
    column = left.selectbox("Column of the target cells", columns, key="screen_column", persist_state="session")
    values = [str(v) for v in data.columns[column].categories]
    value = right.selectbox("Make cells like these", values, key=f"screen_value_{column}")
    return Asked({"target_cells": f"{column}={value}"})


def _head(data: Dataset) -> Asked:
    entries = [e for e in HEADS.entries(session.settings()) if e.card is not None]
    if not entries:
        st.info("No head is in the library yet. Fit one on the page Fine-tune.", icon=":material/tune:")
        return Asked({}, "Fit a head first.")
    left, right = st.columns(2)
    names = [e.card.name for e in entries if e.card is not None]
    place = left.selectbox("Head", range(len(entries)), format_func=names.__getitem__, key="screen_head")
    entry = entries[place]
    labels = entry.card.labels if entry.card else ()
    label = right.selectbox("More probable is to become", labels, key=f"screen_label_{place}") if labels else ""
    if entry.card is not None and entry.card.source.kind not in ("obsm", "expression"):
        st.caption(f"It reads {md(entry.card.source.words, 200)}: each cell goes through that model too, which takes longer.")
    return Asked({"head": str(entry.path), "label": label or "", "backbone": _backbone()})


def _backbone() -> str:
    settings = session.settings()
    known = {"": "where it was, or in the library"}
    known |= {str(e.path): e.card.name for e in EMBEDDINGS.entries(settings) if e.card is not None}
    known |= {str(e.path): e.card.name for e in list_models(settings) if e.card is not None}
    return str(fields.choice(st, ScreenRequest, "backbone", "screen_backbone", list(known), format_func=known.__getitem__))


def _size(data: Dataset) -> Asked:
    st.caption("Perturbations are ranked by how much they change at all.")
    return Asked({})


_ASKING: dict[Goal, Callable[[Dataset], Asked]] = {
    "signature": _signature,
    "explanation": _explanation,
    "target cells": _target,
    "head": _head,
    "effect size": _size,
}


def _more(card: ModelCard, model: Entry) -> dict[str, Any]:
    with st.expander("More settings"):
        one, two, three = st.columns(3)
        found: dict[str, Any] = {
            "cells": fields.number(one, ScreenRequest, "cells", "screen_cells"),
            "sample": fields.number(two, ScreenRequest, "sample", "screen_sample"),
            "combinations": fields.number(three, ScreenRequest, "combinations", "screen_combinations"),
            "seed": fields.number(one, ScreenRequest, "seed", "screen_seed"),
            "splits": fields.number(two, ScreenRequest, "splits", "screen_splits"),
            "set_size": fields.number(
                three, ScreenRequest, "set_size", f"screen_set_{card.id}", placeholder=f"{card.set_size:,}"
            ),
            "method": fields.choice(
                one, ScreenRequest, "method", f"screen_method_{card.id}", methods(model), format_func=METHOD_WORDS.__getitem__
            ),
            "device": fields.choice(two, ScreenRequest, "device", "screen_device"),
            "precision": fields.choice(three, ScreenRequest, "precision", "screen_precision"),
        }
    return found


def _earlier(run: RunFolder | None, entry: DataEntry, model: Entry) -> ScreenRequest | None:
    """Return the request of the screen that is shown, where its predictions are to be ranked again; it names them."""
    if run is None or run.state != "done":
        return None
    before = run.request_as(ScreenRequest)
    if (before.data, before.model) != (entry.path, str(model.path)):
        return None
    again = st.checkbox(
        "Rank the predictions of the screen above again", key=f"screen_again_{run.id}",
        help="Only the goal, the combinations and the comparisons are asked; contexts, perturbations and cells are those above, and nothing "
        "is predicted again.",
    )  # fmt: skip
    return replace(before, earlier=str(run.path)) if again else None


def _cost(request: ScreenRequest, data: Dataset, card: ModelCard, perturbations: int, chosen: tuple[str, ...]) -> float | None:
    """Say what a screen takes; return the seconds that are guessed for it, None where nothing is."""
    contexts = len(chosen)
    if not contexts:
        return None
    kept = size(disk_bytes(request, card, perturbations, contexts))
    names = tuple(p for p in card.perturbations if p != card.control)[:perturbations]
    guess = estimate(PredictionRequest(request.data, request.model, names, chosen, request.cells, observed=0), data, card)
    alone = guess.seconds + START_SECONDS
    found = expected("screen", alone, request.model)
    took = f"seconds, for nothing is predicted again.{queue_words(found)}" if request.earlier else time_words(found)
    st.caption(
        f"{plural(perturbations, 'perturbation')} in {plural(contexts, 'context')}, {request.cells:,} cells each; {kept} on disk: means and a "
        f"sample of cells are kept. It takes {took}"
    )
    return None if request.earlier else alone


def _read(function: Callable[..., T], text: str, name: str, *more: str) -> T:
    """Read a text that was handed in, in a child; the same text is read once."""
    return _read_once(function.__name__, text, name, more, function)


@st.cache_data(max_entries=32, show_spinner=False)
def _read_once(which: str, text: str, name: str, more: tuple[str, ...], _function: Callable[..., Any]) -> Any:
    return call(_function, text, name, *more, name=name, limits=TEXT)
