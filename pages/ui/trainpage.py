"""Parts of the Train page: a training while it runs, what came of it, and the ways on."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.ui import session
from pages.ui.jobs import job_of
from pages.ui.navigation import names
from pages.ui.traincurves import curves
from pages.ui.widgets import go, show_error
from pages.ui.words import duration, plural
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.library import list_models
from state_engine.checkpoints.store import read_card
from state_engine.errors import ConfigError, JobError, StateError, listed
from state_engine.jobs import local
from state_engine.jobs.store import Job, JobFailure
from state_engine.jobs.train_requests import KIND, TrainJob, command_of, job_request, resume, training_folder
from state_engine.runs import RunFolder, list_runs

CHOICE = "training"
MODEL = "model"
_METHODS = {"corrected": "Model, corrected", "raw": "Model, raw", "mean": "Mean of other contexts", "none": "No change"}
_R = {"corrected": "r_paired", "raw": "r_raw", "mean": "r_mean"}


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
        st.markdown(f"### {run.manifest.title}")
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
    verdict(card)
    _conditions(card)
    _calibration(card)
    for text in (*card.limits, *card.notes):
        st.caption(f":material/info: {text}")


def _use(card: ModelCard, job: TrainJob) -> None:
    session.choose("model", card.id if any(e.card and e.card.id == card.id for e in list_models(session.settings())) else "")
    if job.data:
        session.choose("data", job.data)


# What it is worth


def verdict(card: ModelCard) -> None:
    """Scores on cells it has never seen, beside what needs no model, and in words where the model is worse."""
    scores = card.training.scores
    if "mae_corrected" not in scores:
        st.info("No cells were kept for testing, so nothing shows how good this model is.", icon=":material/info:")
        return
    st.markdown("#### How good is it on cells it has never seen?")
    st.markdown(verdict_words(scores))
    table = pd.DataFrame(
        [
            (words, scores[f"mae_{name}"], scores.get(_R.get(name, ""), None))
            for name, words in _METHODS.items()
            if f"mae_{name}" in scores
        ],
        columns=["Prediction", "MAE", "r of effects"],
    )
    numbers = {
        "MAE": st.column_config.NumberColumn(format="%.4f", help="Mean absolute error of the mean cell, log1p; lower is better."),
        "r of effects": st.column_config.NumberColumn(
            format="%.3f",
            help="Pearson correlation of predicted and measured effect (perturbed minus control); higher is better.",
        ),
    }
    st.dataframe(table, hide_index=True, key="training_scores", column_config=numbers)
    st.caption(
        f"Means over {plural(len(blocks(scores)), 'held-out condition')}. Corrected: each control cell plus its own predicted effect, "
        "the default of Predict. Raw: cells as they come out of the network."
    )


def verdict_words(scores: dict[str, float]) -> str:
    """Whether the model is worth more than no model, a few sentences with numbers."""
    ours = scores["mae_corrected"]
    found = []
    for name, words in (("mean", "the mean effect of the other contexts"), ("none", "predicting no change")):
        other = scores.get(f"mae_{name}")
        if other is None:
            continue
        worse = [b for b, s in blocks(scores).items() if s.get("mae_corrected", 0.0) > s.get(f"mae_{name}", float("inf"))]
        counted = len([b for b in blocks(scores).values() if f"mae_{name}" in b])
        if ours > other:
            text = f":red[**Worse than {words}**]: MAE {ours:.4f} against {other:.4f}"
        else:
            text = f":green[**Better than {words}**]: MAE {ours:.4f} against {other:.4f}"
        if counted > 1:
            text += f"; worse in {len(worse)} of {counted:,} conditions" if worse else f"; in all {counted:,} conditions"
            text += f" ({listed(worse, 3)})" if worse else ""
        found.append(text + ".")
    if scores.get("mae_mean", float("inf")) < ours:
        found.append("Where a simple mean is closer, use the mean: Predict offers it beside the model.")
    return "  \n".join(found)


def blocks(scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """Scores of each held-out condition: "NK x TNF" -> metric -> value."""
    found: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        block, colon, metric = name.rpartition(": ")
        if colon and metric.startswith(("mae_", "r_")):
            found.setdefault(block, {})[metric] = value
    return found


def _conditions(card: ModelCard) -> None:
    by_block = blocks(card.training.scores)
    if len(by_block) < 2:
        return
    with st.expander(f"Each of the {len(by_block):,} held-out conditions"):
        table = pd.DataFrame.from_dict(by_block, orient="index")
        table = table[[c for c in ("mae_corrected", "mae_mean", "mae_none", "mae_raw", "r_paired", "r_mean") if c in table]]
        table.insert(0, "Condition", table.index)
        heads = {"mae_corrected": "MAE corrected", "mae_mean": "MAE mean", "mae_none": "MAE no change", "mae_raw": "MAE raw"}
        table = table.rename(columns=heads | {"r_paired": "r model", "r_mean": "r mean"})
        formats = {c: st.column_config.NumberColumn(format="%.3f" if c.startswith("r ") else "%.4f") for c in table.columns[1:]}
        st.dataframe(table, hide_index=True, key="training_conditions", column_config=formats)


def _calibration(card: ModelCard) -> None:
    found = card.calibration
    if found is None:
        return
    st.markdown(
        f"**How far to believe it.** Fitted on {plural(found.conditions, 'validation condition')} "
        f"({plural(found.cells, 'cell')}, never test cells): {found.paired:.2f} of the model's effect and {found.mean:.2f} of the mean "
        "effect of the other contexts. Predict offers this mixture as the calibrated prediction."
    )
    words = {"calibrated": "calibrated", "corrected": "model", "mean": "mean of other contexts", "none": "no change"}
    known = [f"{text} {found.scores[f'mae_{name}']:.4f}" for name, text in words.items() if f"mae_{name}" in found.scores]
    if known:
        left_out = f", each scored without its own {found.crossed[:-1]}" if found.crossed else ""
        st.caption(f"MAE on validation conditions{left_out}: {', '.join(known)}.")


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
