"""Parts of the Train page: a training while it runs, what came of it, and the ways on."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from pages.parts import session
from pages.parts.format import duration, md, sentences
from pages.parts.jobs import job_of, live_panel
from pages.parts.model_scores import worth
from pages.parts.navigation import names
from pages.parts.train.adapted import show_adaptation
from pages.parts.train.curves import curves
from pages.parts.widgets import go, show_error
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.store import read_card
from state_engine.errors import ConfigError, JobError
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import Job, JobFailure
from state_engine.jobs.train_job import TrainJob, command_of, job_request, resume, training_folder
from state_engine.library.models import list_models

CHOICE = "training"
MODEL = "model"


def show_training(run: RunFolder) -> None:
    """A training: live while it runs; then what came of it, or how it can go on."""
    job = job_of(run.id)
    with st.container(key="training"):
        if job is not None and job.active:
            live(run, "training", lambda: curves(training_folder(run), "train"))
            return
        st.subheader(md(run.manifest.title), anchor=False)
        if run.state == "done":
            _done(run)
        else:
            stopped(run, job, "training")
        curves(training_folder(run), "train")
        _again(run)


def live(run: RunFolder, key: str, drawn: Callable[[], bool]) -> None:
    """A training or pretraining while it runs.

    Args:
        run: of it.
        key: unique on the page.
        drawn: draws the curves; False while there are none.
    """

    def growing() -> None:
        if not drawn():
            st.caption("The curves appear with the first step.")

    live_panel(
        run.id,
        run.manifest.title,
        key,
        stop="Stop",
        stop_help="It stops after this step. What is trained until then is kept.",
        leave="You can leave this page: the training goes on, and this address brings you back.",
        below=growing,
        every=1.5,
    )


def stopped(run: RunFolder, job: Job | None, key: str) -> None:
    """How a training or pretraining ended that is not done, and the button that goes on with it."""
    if run.state == "cancelled":
        kept = any(run.path.rglob("*.ckpt"))
        words = "What was trained so far is kept." if kept else "Nothing was saved yet: going on begins anew."
        st.warning(f"Stopped. {words}", icon=":material/stop_circle:")
    else:
        error = job.error if job is not None and job.error is not None else JobFailure(run.manifest.error or "It is lost.")
        show_error(JobError(error.what, error.why, error.fix))
    if st.button("Go on with it", type="primary", key=f"{key}_resume", icon=":material/play_arrow:"):
        resume(session.settings(), run)
        st.rerun()


def _done(run: RunFolder) -> None:
    job = job_request(run)
    card = read_card(training_folder(run) / MODEL)
    took = f" in {duration(run.manifest.elapsed)}" if run.manifest.elapsed else ""
    st.success(
        f"Trained for {card.training.steps:,} steps{took} on {md(run.manifest.device)}; it is in your library.",
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
    show_adaptation(training_folder(run))
    worth(card)
    for text in (*card.limits, *card.notes):
        st.caption(f":material/info: {sentences(text)}")


def _use(card: ModelCard, job: TrainJob) -> None:
    session.choose("model", card.id if any(e.card and e.card.id == card.id for e in list_models(session.settings())) else "")
    if job.data:
        session.choose("data", job.data)


def _again(run: RunFolder) -> None:
    with st.expander("How to repeat this, and its files"):
        try:
            st.code(run.manifest.command or command_of(job_request(run)), language="bash", wrap_lines=True)
        except ConfigError as error:
            show_error(error)
        st.caption(
            f"split.toml is in the run's folder on the server, {md(run.path, most=300)}. "
            f"The training itself is in {md(training_folder(run), most=300)}: our model "
            "in model/, and the files that arc-state reads (config.yaml, checkpoints/final.ckpt and the maps)."
        )
