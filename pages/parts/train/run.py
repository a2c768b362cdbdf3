"""Parts of the Train page: a training while it runs, what came of it, and the ways on."""

from __future__ import annotations

import streamlit as st

from pages.parts import session
from pages.parts.format import duration
from pages.parts.jobs import job_of
from pages.parts.model_scores import worth
from pages.parts.navigation import names
from pages.parts.train.curves import curves
from pages.parts.widgets import go, show_error
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import read_card
from state_engine.errors import ConfigError, JobError, StateError
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.store import Job, JobFailure
from state_engine.jobs.train_job import KIND, TrainJob, command_of, job_request, resume, training_folder
from state_engine.library.models import list_models

CHOICE = "training"
MODEL = "model"


def training_runs() -> dict[str, str]:
    """Ids of trainings, newest first, and what tells them apart: name and time (UTC)."""
    found = [i.manifest for i in list_runs(session.settings()) if i.manifest and i.manifest.kind == KIND]
    return distinct({m.id: f"{m.title} · {m.created[:16].replace('T', ' ')}" for m in found})


def distinct(words: dict[str, str]) -> dict[str, str]:
    """Words for ids, with the end of the id where two would read the same: the browser tells options apart by their words."""
    every = list(words.values())
    return {i: f"{text} · {i[-6:]}" if every.count(text) > 1 else text for i, text in words.items()}


def chosen_training() -> RunFolder | None:
    """The training in the address."""
    if not session.chosen(CHOICE):
        return None
    try:
        run = RunFolder.open(session.settings(), session.chosen(CHOICE))
    except StateError:
        session.choose(CHOICE, "")
        return None
    return run if run.manifest.kind == KIND else None


def another_training(run: RunFolder | None) -> None:
    """Which training is shown, where there are some; or none, to begin another."""
    known = training_runs()
    if not known or (run is not None and set(known) == {run.id}):
        return
    ids = ["", *known]
    picked = st.selectbox(
        "Training",
        ids,
        index=ids.index(run.id) if run is not None and run.id in known else 0,
        format_func=lambda i: known.get(i, "none: begin a new one"),
        key=f"training_pick_{run.id if run is not None else ''}",
    )
    if picked != (run.id if run is not None else ""):
        session.choose(CHOICE, picked)
        st.rerun()


def show_training(run: RunFolder) -> None:
    """A training: live while it runs; then what came of it, or how it can go on."""
    job = job_of(run.id)
    with st.container(key="training"):
        if job is not None and job.active:
            _live(run.id)
            return
        st.subheader(run.manifest.title, anchor=False)
        if run.state == "done":
            _done(run)
        else:
            _stopped(run, job)
        curves(training_folder(run), "train")
        _again(run)


@st.fragment(run_every=1.5)
def _live(run_id: str) -> None:
    job = job_of(run_id)
    if job is None or not job.active:
        st.rerun()
    if job.state == "queued":  # a worker that was killed keeps its lock for a moment: none could be started then
        local.ensure_worker(session.settings())
    run = RunFolder.open(session.settings(), run_id)
    with st.container(border=True, key="training_panel"):
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.markdown(f"**{run.manifest.title}** · {_state(job)}")
        if right.button("Stop", key="training_stop", icon=":material/stop_circle:", help="What is trained so far is kept."):
            with st.spinner("Stopping"):
                local.cancel(session.settings(), job.id)
            st.rerun()
        st.progress(job.fraction, text=_stage(job))
        st.caption("You can leave this page: the training goes on, and this address brings you back.")
    if not curves(training_folder(run), "train"):
        st.caption("The curves appear with the first step.")


def _state(job: Job) -> str:
    if job.state == "queued":
        return "waiting for the worker" if job.position <= 1 else f"waiting, {job.position - 1} before it"
    if job.cancelling:
        return "stopping"
    left = f", about {duration(job.seconds_left)} left in this stage" if job.seconds_left is not None else ""
    return f"running{left}"


def _stage(job: Job) -> str:
    counts = f" {job.done:,} of {job.total:,}" if job.total else ""
    return f"{job.stage or 'Starting'}{counts}"


def _stopped(run: RunFolder, job: Job | None) -> None:
    """How a training ended that is not done, and the button that goes on with it."""
    if run.state == "cancelled":
        st.warning("Stopped. What was trained so far is kept.", icon=":material/stop_circle:")
    else:
        error = job.error if job is not None and job.error is not None else JobFailure(run.manifest.error or "It is lost.")
        show_error(JobError(error.what, error.why, error.fix))
    if st.button("Go on with it", type="primary", key="training_resume", icon=":material/play_arrow:"):
        resume(session.settings(), run)
        st.rerun()


def _done(run: RunFolder) -> None:
    job = job_request(run)
    card = read_card(training_folder(run) / MODEL)
    took = f" in {duration(run.manifest.elapsed)}" if run.manifest.elapsed else ""
    st.success(
        f"Trained for {card.training.steps:,} steps{took} on {run.manifest.device}; it is in your library.",
        icon=":material/check_circle:",
    )
    with st.container(horizontal=True):
        if st.button("Predict with it", type="primary", key="training_predict", icon=":material/play_circle:"):
            _use(card, job)
            go("predict")
        if "evaluate" in names() and st.button("Evaluate it", key="training_evaluate", icon=":material/fact_check:"):
            _use(card, job)
            go("evaluate")
        if st.button("See its card", key="training_card", icon=":material/deployed_code:"):
            _use(card, job)
            go("models")
    worth(card)
    for text in (*card.limits, *card.notes):
        st.caption(f":material/info: {text}")


def _use(card: ModelCard, job: TrainJob) -> None:
    session.choose("model", card.id if any(e.card and e.card.id == card.id for e in list_models(session.settings())) else "")
    if job.data:
        session.choose("data", job.data)


def _again(run: RunFolder) -> None:
    with st.expander("How to make this again, and its files"):
        try:
            st.code(run.manifest.command or command_of(job_request(run)), language="bash", wrap_lines=True)
        except ConfigError as error:
            show_error(error)
        st.caption(
            f"split.toml is in the run's folder on the server, {run.path}. The training itself is in {training_folder(run)}: our model "
            "in model/, and the files that arc-state reads (config.yaml, checkpoints/final.ckpt and the maps)."
        )
