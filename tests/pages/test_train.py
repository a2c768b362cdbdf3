"""The Train page without a browser: what is held out, what is asked of the worker, the curves, and what a finished training says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts.model_scores import verdict_words
from pages.parts.train.curves import MOST_POINTS, error_columns, loss_figure, thinned
from state_engine.checkpoints.card import Calibration, ConditionScores, TrainingSummary
from state_engine.checkpoints.store import CARD
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.choices import suggest_plan
from state_engine.data.splits.plan import parse_plan, plan_text
from state_engine.evaluation.card_verdict import WHICH_TELL
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.jobs.tasks.train import into_library
from state_engine.jobs.train_job import TrainJob, command_of, training_folder
from state_engine.library.datasets import DEMO_PATH
from state_engine.library.models import list_models
from state_engine.plain import from_plain, to_plain
from state_engine.progress import Progress
from state_engine.train.request import TrainRequest
from tests.pages.opened import came, figures, opened, text
from tests.pages.queued import queued
from tests.small import write_model

SCORES = {
    "mae_corrected": 0.05, "mae_raw": 0.1, "mae_mean": 0.04, "mae_none": 0.06, "r_paired": 0.7, "r_mean": 0.8,
    "NK x TNF: mae_corrected": 0.07, "NK x TNF: mae_mean": 0.03, "NK x TNF: mae_none": 0.06, "NK x TNF: r_paired": 0.5,
    "NK x IFN: mae_corrected": 0.03, "NK x IFN: mae_mean": 0.05, "NK x IFN: mae_none": 0.06, "NK x IFN: r_paired": 0.9,
}  # fmt: skip
CALIBRATION = Calibration(
    0.8, 0.3, 0.0, 1.5, (1.0, 0.0), ("B",), ("TNF", "IFN"), 2, 240, "perturbations", 2,
    scores={"mae_calibrated": 0.031, "mae_corrected": 0.04, "mae_mean": 0.035},
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    """What the page submits, instead of a job."""
    jobs: list[TrainJob] = []

    def submit(settings: Settings, request: TrainJob, title: str, expected: float | None = None) -> tuple[str, str]:
        jobs.append(request)
        return "job", queued(settings, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    return jobs


def page_of(monkeypatch: pytest.MonkeyPatch, home: Path, **thread: str) -> AppTest:
    page = opened(monkeypatch, "train", None, home, **thread)
    assert not page.exception
    return page


def way(page: AppTest, name: str) -> AppTest:
    page.segmented_control(key="split_way_demo").set_value(name).run()
    assert not page.exception
    return page


def run_of(home: Path, **changes: Any) -> RunFolder:
    job = TrainJob(
        plan_text(suggest_plan(open_dataset(DEMO_PATH), "data")),
        TrainRequest().with_settings(name="My model", steps=400),
        data="demo",
    )
    run = RunFolder.create(Settings(home), "train", to_plain(replace(job, **changes)), "My model")
    folder = training_folder(run)
    folder.mkdir()
    rows = [f"{step},{2 / step**0.5},0.001,1.0,{step / 50}" for step in range(1, 201)]
    (folder / "log.csv").write_text("\n".join(["step,loss,learning_rate,gradient_norm,seconds", *rows]) + "\n201,0.")
    (folder / "validation.csv").write_text(
        "step,loss,mae_raw,mae_corrected,mae_none,seconds\n100,0.3,0.2,0.1,0.15,2\n200,0.2,0.1,0.08,0.15,4\n"
    )
    return run


def finished(home: Path, scores: dict[str, float] = SCORES, calibration: Calibration | None = CALIBRATION) -> RunFolder:
    run = run_of(home)
    card = write_model(training_folder(run) / "model")
    training = {"data": "demo", "steps": 400, "loss": "energy", "held_out": ["NK"], "scores": scores}
    card = replace(card, training=from_plain(TrainingSummary, training), calibration=calibration)
    (training_folder(run) / "model" / CARD).write_text(json.dumps(to_plain(card)))
    into_library(training_folder(run) / "model", Settings(home))
    run.start()
    run.record(device="CPU, 2 cores")
    run.finish("done")
    return run


# The form


def test_without_a_data_set_the_page_teaches(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    page = page_of(monkeypatch, home)
    assert page.title[0].value.endswith("?")
    assert "No data set is open" in text(page) and [b.label for b in page.button] == ["Open a data set", "Use the demo"]


def test_the_suggested_split_is_shown_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]
) -> None:
    page = page_of(monkeypatch, home, data="demo")
    assert "Tested on **CD8 T** (held out whole)." in text(page) and "Counted in: 4 shorter trainings" in text(page)
    assert [m.label for m in page.metric] == ["Trained on", "Validated on", "Tested on"]
    table = page.dataframe[0].value
    assert list(table.columns) == ["Context", "Perturbation", "Trained", "Validated", "Tested"]
    counted = table[["Trained", "Validated", "Tested"]].sum().tolist()
    assert [m.value for m in page.metric] == [f"{n:,} cells" for n in counted] and sum(counted) == 6000
    assert parse_plan(page.code[0].value) == suggest_plan(open_dataset(DEMO_PATH), "data")
    assert "parameters; 2,900 steps of 8 x 32 cells" in text(page)
    page.button(key="train").click().run()
    (job,) = asked
    assert (
        job.request.run.preset == "default"
        and job.request.run.simulated
        and job.request.network.hvgs == 1300
        and job.data == "demo"
    )
    assert parse_plan(job.split) == suggest_plan(open_dataset(DEMO_PATH), "data")
    assert RunFolder.open(Settings(home), page.session_state["thread_training"]).manifest.title == job.request.run.name


def test_contexts_are_held_out_by_clicks(monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]) -> None:
    page = way(page_of(monkeypatch, home, data="demo"), "Contexts")
    page.multiselect(key="split_test_demo").set_value(["NK", "B"]).run()
    val = next(m for m in page.multiselect if m.label == "Contexts to validate on")
    assert "NK" not in val.options
    val.set_value(["CD4 T"]).run()
    page.button(key="train").click().run()
    assert [(c.context, c.part) for c in parse_plan(asked[0].split).zeroshot] == [("NK", "test"), ("B", "test"), ("CD4 T", "val")]
    page = way(page_of(monkeypatch, home, data="demo"), "Contexts")
    page.multiselect(key="split_test_demo").set_value(list(open_dataset(DEMO_PATH).contexts)).run()
    assert "Nothing is left to train on" in text(page)


def test_perturbations_are_held_out_by_clicks(monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]) -> None:
    page = way(page_of(monkeypatch, home, data="demo"), "Perturbations")
    page.multiselect(key="split_in_demo").set_value(["NK"]).run()
    page.number_input(key="split_n_test_demo").set_value(3).run()
    page.number_input(key="split_n_val_demo").set_value(14).run()
    assert "14 perturbations cannot be held out" in text(page) and page.button(key="train").disabled
    page.number_input(key="split_n_val_demo").set_value(2).run()
    page.button(key="train").click().run()
    (clause,) = parse_plan(asked[0].split).fewshot
    assert clause.context == "NK" and len(clause.test) == 3 and len(clause.val) == 2 and not set(clause.test) & set(clause.val)


def test_a_toml_is_read_and_its_mistakes_are_named(monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]) -> None:
    page = way(page_of(monkeypatch, home, data="demo"), "A TOML file")
    assert page.button(key="train").disabled
    plan = '[datasets]\nx = "/theirs/x.h5ad"\n[training]\nx = "train"\n[zeroshot]\n"x.NK" = "test"\n'
    page.file_uploader(key="split_toml_demo").upload("split.toml", plan.replace("x.NK", "x.NKT").encode(), "text/plain").run()
    assert "has no context 'NKT'" in text(page) and page.button(key="train").disabled
    page.file_uploader(key="split_toml_demo").upload("split.toml", plan.encode(), "text/plain").run()
    assert "taken to be Demo" in text(page) and "Tested on **NK**" in text(page) and "no validation curves" in text(page)
    page.button(key="train").click().run()
    assert parse_plan(asked[0].split).datasets == (("x", str(DEMO_PATH)),)


def test_every_setting_can_be_changed_and_unknown_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]
) -> None:
    page = page_of(monkeypatch, home, data="demo")
    page.text_area(key="train_settings").set_value("loses=combined").run()
    assert "There is no setting 'loses'" in text(page) and "Near: loss" in text(page) and page.button(key="train").disabled
    page.text_area(key="train_settings").set_value("").run()
    page.selectbox(key="train_preset").set_value("state_sm").run()
    page.selectbox(key="train_reads_demo").set_value("All genes").run()
    page.number_input(key="train_steps_state_sm").set_value(50).run()
    page.text_area(key="train_settings").set_value("loss=combined\nblur=0.1").run()
    width = page.number_input(key="train_hidden_state_sm")
    assert (width.label, width.help, width.value, width.max) == ("Width", "Width of the transformer.", 672, 8192)
    settings = next(d.value for d in page.dataframe if "Setting" in d.value).set_index("Setting")
    assert settings.loc["blur", "What it is"] == "Blur of the Sinkhorn divergence, in units of the features."
    assert settings.loc["loss", "Value"] == "combined" and settings.loc["loss", "Preset's"] == "energy"
    page.button(key="train").click().run()
    request = asked[0].request
    assert (request.optimiser.steps, request.network.hvgs, request.network.hidden) == (50, 0, 672)
    assert (request.loss.loss, request.loss.blur) == ("combined", 0.1)


def test_features_and_weights_to_start_from_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]
) -> None:
    card = write_model(home / "models" / "tiny")
    page = page_of(monkeypatch, home, data="demo")
    came(home, "esm.csv", b"control,0,0\nTNF,1,2\n", "train_features_demo")
    page.run()
    page.selectbox(key="train_from").set_value(card.id).run()
    page.segmented_control(key="train_tune").set_value("Start only").run()
    page.button(key="train").click().run()
    job = asked[0]
    assert (
        Path(job.request.network.features).read_bytes() == b"control,0,0\nTNF,1,2\n"
        and Path(job.request.network.features).parent == home / "features"
    )
    assert job.init_from == str(home / "models" / "tiny")


def test_vectors_that_cannot_be_read_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]
) -> None:
    page = page_of(monkeypatch, home, data="demo")
    came(home, "esm.csv", b"TNF,1,2\nIFNB1,3\n", "train_features_demo")
    page.run()
    assert "several widths" in text(page) and "esm.csv" in text(page)
    came(home, "esm.pt", b"\x80\x02cos\nsystem\n.", "train_features_demo")
    page.run()
    assert "esm.pt was not read: it asks for os.system" in text(page) and not page.exception
    monkeypatch.setattr("pages.parts.train.form.MOST_FEATURES_MB", 0.00001)  # of programs that do not ask the box
    came(home, "esm.csv", b"control,0,0\nTNF,1,2\n", "train_features_demo")
    page.run()
    assert "esm.csv is too large" in text(page)
    assert not (home / "features").exists() and not list((home / "scratch").iterdir()) and not list((home / "incoming").iterdir())


def test_embeddings_can_be_read(monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob], tmp_path: Path) -> None:
    from state_engine.library.datasets import register_file
    from tests.small import write_cells

    entry = register_file(Settings(home, (tmp_path,)), write_cells(tmp_path / "cells.h5ad", embedding=6))
    page = page_of(monkeypatch, home, data=entry.id)
    page.selectbox(key=f"train_reads_{entry.id}").set_value("X_state").run()
    page.button(key="train").click().run()
    assert asked[0].request.network.embedding == "X_state" and asked[0].request.network.output_space is None


def test_a_model_is_adapted_by_default(monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]) -> None:
    """The demo's model on the demo's data: what it knows is said, its network is kept, adapters are trained."""
    (model,) = [entry for entry in list_models(Settings(home)) if entry.card is not None]
    card = model.card
    page = page_of(monkeypatch, home, data="demo")
    page.selectbox(key="train_from").set_value(card.id).run()
    assert not page.exception and "14 of 14 perturbations known to the model." in text(page)
    assert "1,300 of the 1,300 genes of the model are in the data." in text(page)
    page.button(key="train").click().run()
    request = asked[0].request
    assert (request.optimiser.tune, request.run.compare, request.network.hidden) == ("lora", True, card.config.backbone.hidden)
    assert request.sets.set_size == card.config.set_size and asked[0].init_from == str(model.path)
    assert "--adapt" in command_of(asked[0])
    page = page_of(monkeypatch, home, data="demo")
    page.selectbox(key="train_from").set_value(card.id).run()
    page.segmented_control(key="train_tune").set_value("Last layers").run()
    page.checkbox(key="train_compare").set_value(False).run()
    page.button(key="train").click().run()
    assert (asked[1].request.optimiser.tune, asked[1].request.run.compare) == ("last-2", False)


def test_a_model_of_other_genes_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[TrainJob]
) -> None:
    card = write_model(home / "models" / "tiny")
    page = page_of(monkeypatch, home, data="demo")
    page.selectbox(key="train_from").set_value(card.id).run()
    assert "'Tiny' is a model of other genes" in text(page) and page.button(key="train").disabled


# A training


def test_a_running_training_shows_its_curves_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run, store = run_of(home), JobStore(Settings(home).database)
    identity = store.submit("train", run.request, run.id, "My model")
    store.claim("worker")
    run.start()
    store.progress(identity, "worker", Progress("Training", 200, 400))
    page = page_of(monkeypatch, home, data="demo", training=run.id)
    assert "**My model** · running" in text(page) and "Train for" not in str([b.label for b in page.button])
    loss, error = figures(page)
    assert [t["name"] for t in loss["data"] if "name" in t] == ["training", "validation"]
    assert [t["name"] for t in error["data"]] == ["raw", "corrected", "no change"]
    assert "200 steps: mean of 4 steps, and every step (pale)" in text(page)
    stopped: list[tuple[str, bool]] = []
    monkeypatch.setattr(local, "cancel", lambda settings, job, now: stopped.append((job, now)))
    page.button(key="training_stop").click().run()
    store.request_cancel(identity)
    page.run()
    assert "stopping: what is done is saved first" in text(page)
    page.button(key="training_stop_now").click().run()
    assert stopped == [(identity, False), (identity, True)]


@pytest.mark.parametrize("how", ["cancelled", "failed", "lost"])
def test_a_stopped_training_can_go_on(monkeypatch: pytest.MonkeyPatch, home: Path, how: str) -> None:
    run, store = run_of(home), JobStore(Settings(home).database)
    identity = store.submit("train", run.request, run.id, "My model")
    store.claim("worker")
    run.start()
    store.finish(identity, "worker", "failed" if how == "lost" else how)
    run.finish(how, "The disk is full.")
    page = page_of(monkeypatch, home, data="demo", training=run.id)
    said = "Nothing was saved yet: going on begins anew" if how == "cancelled" else "The disk is full"
    assert said in text(page) and len(figures(page)) == 2
    if how == "cancelled":
        (training_folder(run) / "checkpoints").mkdir()
        (training_folder(run) / "checkpoints" / "step=4.ckpt").touch()
        assert "What was trained so far is kept" in text(page.run())
    page.button(key="training_resume").click().run()
    job = store.for_run(run.id)
    assert job.active and job.request == run.request and "waiting for the worker" in text(page)


def test_a_finished_training_is_honest(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = finished(home)
    page = page_of(monkeypatch, home, training=run.id)
    said = text(page)
    assert "Cannot be told from the mean effect of the other contexts** by 2 conditions: MAE 0.0500 against 0.0400" in said
    assert "MAE worse in 1 of 2" in said and "NK x TNF" in said and "A simple baseline is closer here" in said
    assert "Cannot be told from predicting no change** by 2 conditions: MAE 0.0500 against 0.0600" in said
    assert "**0.80** of the model's own effect and **0.30**" in said and "0.0310" in said and "Fitted by least squares" in said
    assert page.dataframe[0].value["Prediction"].tolist() == [
        "Model, corrected",
        "Model, raw",
        "Mean of other contexts",
        "No change",
    ]
    assert len(page.dataframe[1].value) == 2 and page.code[0].value.startswith("python -m state_engine train")
    page.button(key="training_predict").click()
    monkeypatch.setattr("pages.parts.train.run.go", lambda name: None)
    page.run()
    assert page.session_state["thread_model"] and page.session_state["thread_data"] == "demo"


def test_without_test_cells_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    page = page_of(monkeypatch, home, training=finished(home, {}, None).id)
    assert "nothing shows how good this model is" in text(page) and "How far to believe it" not in text(page)


def test_several_trainings_are_a_choice_away(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    first, second = finished(home), run_of(home)
    page = page_of(monkeypatch, home, data="demo", training=first.id)
    picker = page.selectbox(key=f"training_pick_{first.id}")
    assert len(picker.options) == 3
    page.button(key="training_new").click().run()
    assert page.session_state["thread_training"] == "" and page.button(key="train").label == "Train for 2,900 steps"
    page.selectbox(key="training_pick_").set_value(second.id).run()
    assert page.session_state["thread_training"] == second.id
    assert len(set(picker.options)) == 3  # the browser tells options apart by their words


def test_a_training_of_another_kind_or_a_lost_one_is_forgotten(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    page = page_of(monkeypatch, home, data="demo", training="20261122-151233-ab12cd")
    assert page.session_state["thread_training"] == "" and page.button(key="train")


def test_runs_leads_back_to_a_training(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = finished(home)
    page = opened(monkeypatch, "runs", None, home)
    monkeypatch.setattr("pages.parts.runs.list.go", lambda name: None)
    page.button(key=f"open_{run.id}").click().run()
    assert page.session_state["thread_training"] == run.id


# Pieces


def summary(n: int, **scores: float) -> TrainingSummary:
    """A training tested on n conditions, each with the mean's scores."""
    conditions = tuple(ConditionScores("a", f"p{i}", dict(scores)) for i in range(n))
    return TrainingSummary(scores=dict(scores), conditions=conditions)


@pytest.mark.parametrize(
    ("n", "scores", "words"),
    [
        (6, {"mae_corrected": 0.03, "mae_mean": 0.05, "r_paired": 0.8, "r_mean": 0.7}, ":green[**Better than the mean effect"),
        (6, {"mae_corrected": 0.06, "mae_mean": 0.05, "r_paired": 0.6, "r_mean": 0.7}, ":red[**Worse than the mean effect"),
        # the error is smaller, the pattern worse: neither
        (6, {"mae_corrected": 0.03, "mae_mean": 0.05, "r_paired": 0.6, "r_mean": 0.7}, "**Closer than the mean effect"),
        (6, {"mae_corrected": 0.06, "mae_mean": 0.05, "r_paired": 0.8, "r_mean": 0.7}, "**Further off than the mean effect"),
        (6, {"mae_corrected": 0.05001, "mae_mean": 0.05}, "**No better than the mean effect"),
        (6, {"mae_corrected": 0.03, "mae_mean": 0.05}, ":green[**Better than the mean effect"),
        # one condition more or less decides nothing
        (
            4,
            {"mae_corrected": 0.03, "mae_mean": 0.05},
            "**Cannot be told from the mean effect of the other contexts** by 4 conditions",
        ),
        (
            1,
            {"mae_corrected": 0.06, "mae_mean": 0.05},
            "**Cannot be told from the mean effect of the other contexts** by 1 condition",
        ),
        (0, {"mae_corrected": 0.06, "mae_mean": 0.05}, "by so few conditions"),
    ],
)
def test_the_verdict_weighs_both_metrics_and_counts_conditions(n: int, scores: dict[str, float], words: str) -> None:
    said = verdict_words(summary(n, **scores))
    assert words in said and "no change" not in said
    assert said.endswith(WHICH_TELL), "MAE and r are all that a card has, whether or not they can tell"
    assert ("in all 6 conditions" in said) == (n == 6 and scores["mae_corrected"] < scores["mae_mean"])


def test_long_curves_are_thinned_to_what_a_screen_shows() -> None:
    log = pd.DataFrame({"step": range(1, 10_001), "loss": [1 / s for s in range(1, 10_001)]})
    kept = thinned(log)
    assert len(kept) <= MOST_POINTS and kept["step"].iloc[0] == 1 and kept["step"].iloc[-1] == 10_000
    figure = loss_figure(log, pd.DataFrame(), 200)
    assert len(figure.data) == 2 and figure.layout.yaxis.range[1] < 0.1  # the first steps do not press the rest flat
    assert error_columns(pd.DataFrame({"step": [1], "loss": [1], "mae_none": [1], "mae": [1], "mae_new": [1]})) == [
        "mae",
        "mae_none",
        "mae_new",
    ]
