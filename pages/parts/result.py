"""What the Look pages share: a finished run with its result opened once, and the banner that says when it is out of date."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import streamlit as st

from pages.parts import session
from pages.parts.format import minus, sentences
from pages.parts.jobs import derived_run, job_panel, start_job
from pages.parts.widgets import empty_state, go
from state_engine.analysis import projection
from state_engine.checkpoints.card import ModelCard
from state_engine.effects.baselines import WORDS
from state_engine.evaluation.raw_or_corrected import card_words
from state_engine.jobs.requests import LookRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.library.foreign import call, limits_for, read_file
from state_engine.library.models import Entry, list_models
from state_engine.library.shown import without_places
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import Result, open_result


def finished_run(answer: str) -> RunFolder | None:
    """Return the chosen prediction when it is done; otherwise show what stands in its way, and return None.

    Args:
        answer: what the page would show of a run ("the cells before and after"), for the empty state.
    """
    run = session.run_folder()
    if run is None or run.manifest.kind != "predict":
        empty_state("No prediction is chosen", f"This page shows {answer}, so it needs a run.", "predict", "Predict something")
        return None
    if not job_panel(run.id, title=run.manifest.title or "Prediction", key="look_job"):
        return None
    if run.state != "done" or not run.result.exists():
        why = (
            sentences(without_places(run.manifest.error, session.settings()))
            or f"This run is {run.state}, and its folder holds no result."
        )
        empty_state("This run has no result", why, "predict", "Predict again")
        return None
    return run


def open_run(run: RunFolder) -> Result:
    """Return the run's result, its labels read once for all sessions; values are read when asked for, each time by a child process.

    Raises:
        RunError, DataError: the file is missing or damaged.
    """
    return _opened(str(run.result), stamp(run.result))


def map_ready(run: RunFolder) -> bool:
    """Return whether the run's UMAP is there; otherwise show the job that makes it, or the button that starts it."""
    if run.file("projection.npz").exists():
        return True
    request = LookRequest(run.id)
    asked = derived_run(run, request)
    if asked is not None and not job_panel(asked.id, title="Making the map", key="look_map") and asked.active:
        return False
    if can_compute("The map is") and st.button("Make the map", key="make_map", type="primary", icon=":material/scatter_plot:"):
        start_job(request, f"Map and tables of {run.manifest.title}", parent=run.id)
        st.rerun()
    return False


def can_compute(what: str) -> bool:
    """Return whether this session may compute something of a run; where the run was shared for looking, say that it is missing."""
    if not session.by_link():
        return True
    st.info(
        f"**{what} not computed.** Whoever shared this run can have it done by opening this page.", icon=":material/visibility:"
    )
    return False


def command_of(run: RunFolder) -> str:
    """Return the command that does a run again; to somebody who came by a link without the places of the owner's files."""
    command = run.manifest.command
    return without_places(command, session.settings()) if session.by_link() else command


def open_projection(run: RunFolder) -> projection.Projection:
    """Return the run's UMAP.

    Raises:
        RunError: it is missing or damaged.
    """
    path = run.file("projection.npz")
    return _projected(str(path), stamp(path))


def whole_projection(run: RunFolder) -> projection.Projection:
    """Return the run's UMAP with the cells that were placed among the fitted ones.

    Raises:
        RunError: it is missing or damaged.
    """
    path = run.file("projection.npz")
    return _whole(str(path), stamp(path))


def stamp(path: Path) -> int:
    """Return when a file was last written, for the keys of caches; 0 when it is not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


@st.cache_resource(max_entries=16, show_spinner=False)
def _opened(path: str, written: int) -> Result:
    place = Path(path)
    ask = partial(call, path=place, limits=limits_for(place))
    return replace(ask(open_result, place), ask=ask)


@st.cache_resource(max_entries=16, show_spinner=False)
def _projected(path: str, written: int) -> projection.Projection:
    return read_file(projection.load, Path(path))


@st.cache_resource(max_entries=8, show_spinner=False)
def _whole(path: str, written: int) -> projection.Projection:
    return _projected(path, written).whole()


def differences(request: PredictionRequest, data: DataEntry | None, model: Entry | None) -> tuple[str, ...]:
    """Return how the data set and the model that are chosen now differ from those of a request; what is not chosen is not compared."""
    found = []
    if data is not None and not _same(data.path, request.data):
        found.append(f"it used the data set {Path(request.data).name}, chosen now is {data.name}")
    elif data is not None and data.choices != request.choices:
        found.append("what is noted about the data set (columns, control, scale or genes) was changed afterwards")
    if model is not None and not _same(str(model.path), request.model):
        name = model.card.name if model.card else model.path.name
        found.append(f"it used the model in {Path(request.model).name}, chosen now is {name}")
    return tuple(found)


def card_of(run: RunFolder) -> ModelCard | None:
    """Return the card of the model of a prediction, where the library still has it."""
    model = run.request_as(PredictionRequest).model
    return next((e.card for e in list_models(session.settings()) if e.card is not None and _same(str(e.path), model)), None)


def raw_or_corrected(run: RunFolder, layers: Container[str]) -> None:
    """Say beside a choice of both which was closer on the held-out cells of the model, and what corrected is for."""
    card = card_of(run) if "raw" in layers else None
    words = card_words(card.training) if card is not None else ""
    if words:
        st.caption(minus(words))


def _same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def out_of_date(run: RunFolder) -> tuple[str, ...]:
    """Return why a run is out of date; empty when it is not."""
    request = run.request_as(PredictionRequest)
    found = differences(request, session.data_entry(), session.model_entry())
    written = Path(request.data).stat().st_mtime if Path(request.data).exists() else 0.0
    if not found and written > run.path.joinpath("request.json").stat().st_mtime:
        found = ("the data set's file was changed afterwards",)
    return found


@contextmanager
def result_area(run: RunFolder) -> Iterator[None]:
    """Where a run's answer is drawn: when the run is out of date, below a banner that says why, and greyed."""
    request = run.request_as(PredictionRequest)
    if request.method != "model" and request.method != "paired":
        st.info(f"**Predicted by a baseline, not by the model:** {WORDS[request.method]}.", icon=":material/balance:")
    found = out_of_date(run)
    if not found:
        with st.container(key="fresh"):
            yield
        return
    _banner(run, found)
    with st.container(key="stale"):
        yield


def _banner(run: RunFolder, found: tuple[str, ...]) -> None:
    with st.container(key="out_of_date"):
        st.warning(
            f"**Out of date: recalculate.** This is an older run: {sentences('; '.join(found))}.", icon=":material/update:"
        )
        if session.by_link():
            return
        with st.container(horizontal=True):
            if st.button("Recalculate", type="primary", key="recalculate", icon=":material/refresh:"):
                _recalculate(run)
            if st.button("Choose other settings", key="other_settings"):
                go("predict")


def _recalculate(run: RunFolder) -> None:
    """Ask the data set and model that are chosen now the same question, as a new run."""
    request = run.request_as(PredictionRequest)
    data, model = session.data_entry(), session.model_entry()
    if data is not None:
        request = replace(request, data=data.path, choices=data.choices)
    if model is not None:
        request = replace(request, model=str(model.path))
    run_id = start_job(request, run.manifest.title)
    session.choose("run", run_id)
    st.rerun()
