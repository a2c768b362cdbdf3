"""A training as a job, called as the worker calls it: what reaches the trainer, the run's record, the library, and going on."""

from __future__ import annotations

import itertools
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import pytest

from state_engine.checkpoints.card import ModelCard
from state_engine.config import Settings
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import Split
from state_engine.data.splits.choices import suggest_plan
from state_engine.data.splits.plan import SplitPlan, parse_plan, plan_text
from state_engine.errors import ConfigError, JobCancelled, JobError, RequestError, SplitError
from state_engine.jobs import local
from state_engine.jobs.kinds import KINDS, WarmCache, load_target
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.jobs.tasks import train as train_tasks
from state_engine.jobs.train_job import (
    TrainJob,
    check_places,
    command_of,
    job_request,
    placed,
    resume,
    start,
    training_folder,
)
from state_engine.library.datasets import DEMO_PATH, demo_entry, register_file
from state_engine.library.models import find
from state_engine.options import settings as settings_of
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, silent
from state_engine.train.curves import read_curve
from state_engine.train.request import TrainRequest, resolve
from tests.jobs.workers import log_of, stopped
from tests.small import write_model

TINY = TrainRequest().with_settings(name="Tiny", hvgs=0, hidden=8, layers=1, heads=2, steps=4, seed=5, device="cpu")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    (tmp_path / "data").mkdir()
    return Settings(tmp_path / "home", (tmp_path / "data",))


def demo_job(request: TrainRequest = TINY, **fields: Any) -> TrainJob:
    return TrainJob(plan_text(suggest_plan(open_dataset(DEMO_PATH), "demo")), request, data="demo", **fields)


class Trainer:
    """Stands for `train_transition`: notes what it is called with, writes a checkpoint, and then a model or nothing."""

    def __init__(self, stops: bool = False) -> None:
        self.stops, self.calls = stops, []

    def __call__(
        self, split: Split, request: TrainRequest, output: Path, on_progress: OnProgress, *, resume: bool, init_from: Path | None
    ) -> ModelCard:
        self.calls.append((split, request, output, resume, init_from))
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        (output / "checkpoints" / "last.ckpt").touch()
        if self.stops:
            raise JobCancelled("The job was cancelled.")
        return write_model(output / "model")


def run_of(settings: Settings, job: TrainJob) -> RunFolder:
    run = RunFolder.create(settings, "train", to_plain(job), "a training")
    run.start()
    return run


def test_the_kind_is_known_to_the_worker() -> None:
    assert load_target(KINDS["train"].target) is train_tasks.train


def test_a_training_is_recorded_and_its_model_taken_into_the_library(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    monkeypatch.setattr(train_tasks, "train_transition", trainer)
    write_model(settings.models / "old")
    old = str(settings.models / "old")
    run = run_of(settings, demo_job(init_from=old))
    summary = train_tasks.train(job_request(run), run, silent, WarmCache())
    ((split, request, output, resumed, init_from),) = trainer.calls
    assert request == TINY and output == training_folder(run) and not resumed and init_from == Path(old)
    assert [s.dataset.path for s in split.sources] == [DEMO_PATH] and split.cells()["train"] and split.cells()["test"]
    entry = find(settings, summary.model)
    assert entry.path.parent == settings.models and (output / "model" / "model.json").exists()
    manifest = run.manifest
    assert (manifest.seed, manifest.precision, manifest.model_hash) == (5, "fp32", entry.card.weights_hash)
    assert manifest.data_hash == open_dataset(DEMO_PATH).hash() and manifest.settings["cells"] == split.cells()
    assert manifest.command == command_of(demo_job(init_from=old))
    assert parse_plan(run.file("split.toml").read_text()) == split.plan
    again = run_of(settings, demo_job())
    assert train_tasks.train(job_request(again), again, silent, WarmCache()).model == summary.model


def test_a_stopped_training_goes_on_in_its_own_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = start(settings, demo_job(), "a training")
    store, run = JobStore(settings.database), RunFolder.open(settings, run_id)
    with pytest.raises(JobError, match="It is queued"):
        resume(settings, run)
    claimed = store.claim("a worker")
    run.start()
    monkeypatch.setattr(train_tasks, "train_transition", Trainer(stops=True))
    with pytest.raises(JobCancelled):
        train_tasks.train(from_plain(TrainJob, claimed.request), run, silent, WarmCache())
    store.finish(claimed.id, "a worker", "cancelled")
    run.finish("cancelled")
    resume(settings, run)
    job = store.for_run(run_id)
    assert job.active and from_plain(TrainJob, job.request) == job_request(run) == demo_job()
    trainer = Trainer()
    monkeypatch.setattr(train_tasks, "train_transition", trainer)
    run.start()
    train_tasks.train(from_plain(TrainJob, job.request), run, silent, WarmCache())
    assert trainer.calls[0][3] is True
    store.claim("a worker")
    store.finish(job.id, "a worker", "done")
    run.finish("done")
    with pytest.raises(JobError, match="It is done"):
        resume(settings, run)


def test_without_a_checkpoint_it_begins_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    monkeypatch.setattr(train_tasks, "train_transition", trainer)
    run = run_of(settings, demo_job())
    training_folder(run).mkdir()
    (training_folder(run) / "log.csv").write_text("step,loss\n1,2\n")
    train_tasks.train(job_request(run), run, silent, WarmCache())
    assert trainer.calls[0][3] is False and "begins anew" in log_of(run) and not (training_folder(run) / "log.csv").exists()


def test_only_files_that_may_be_read_are_trained_on(settings: Settings, tmp_path: Path) -> None:
    cells = anndata.read_h5ad(DEMO_PATH)[:60]
    (tmp_path / "elsewhere").mkdir()
    cells.write_h5ad(tmp_path / "elsewhere" / "x.h5ad")
    (tmp_path / "data" / "link.h5ad").symlink_to(tmp_path / "elsewhere" / "x.h5ad")
    for place in (
        tmp_path / "elsewhere" / "x.h5ad",
        tmp_path / "data" / "link.h5ad",
        tmp_path / "data" / ".." / "elsewhere" / "*.h5ad",
    ):
        plan = SplitPlan((("mine", str(place)),), ("mine",))
        with pytest.raises(RequestError, match="'mine' is outside what may be read"):
            start(settings, TrainJob(plan_text(plan), TINY), "x")
    cells.write_h5ad(tmp_path / "data" / "y.h5ad")
    check_places(SplitPlan((("mine", str(tmp_path / "data")),), ("mine",)), replace(settings, data_folders=(tmp_path,)))
    register_file(settings, tmp_path / "data" / "y.h5ad")
    check_places(SplitPlan((("mine", str(tmp_path / "data" / "y.h5ad")),), ("mine",)), replace(settings, data_folders=()))


def test_places_of_somebodys_toml_are_found_here(settings: Settings, tmp_path: Path) -> None:
    cells = anndata.read_h5ad(DEMO_PATH)[:60]
    (tmp_path / "data" / "support").mkdir()
    for name in ("k562", "jurkat"):
        cells.write_h5ad(tmp_path / "data" / "support" / f"{name}.h5")
    cells.write_h5ad(tmp_path / "data" / "mine.h5ad")
    register_file(settings, tmp_path / "data" / "mine.h5ad")
    chosen = ("Demo", demo_entry().path)
    plan = SplitPlan((("a", "support/{k562,jurkat}.h5"), ("b", "/home/x/mine.h5ad")), ("a", "b"))
    found, said = placed(plan, settings, chosen)
    assert dict(found.datasets) == {
        "a": str(tmp_path / "data" / "support/{k562,jurkat}.h5"),
        "b": str(tmp_path / "data" / "mine.h5ad"),
    }
    assert said == () and found.training == ("a", "b")
    found, said = placed(SplitPlan((("c", "/etc/passwd"),), ("c",)), settings, chosen)
    assert found.datasets == (("c", str(DEMO_PATH)),) and "taken to be Demo" in said[0]
    with pytest.raises(SplitError, match="'d' is not here"):
        placed(SplitPlan((("a", "support"), ("d", "/etc/passwd")), ("a", "d")), settings, chosen)


def test_several_devices_are_for_the_command_line(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"command line: python -m state_engine train .*--set run.devices=2"):
        start(settings, demo_job(TINY.with_settings(devices=2)), "x")


def test_the_command_gives_the_same_request_again() -> None:
    request = resolve("state_sm", {"steps": 7}).with_settings(
        name="Two words",
        features="f.csv",
        freeze=("a.", "b"),
        heads=8,
        hidden=64,
        calibrate=False,
    )
    words = shlex.split(command_of(TrainJob("", request, Choices("gene", "ctrl"), "/models/old")))
    given = dict(itertools.pairwise(words))
    assert given["--preset"] == "state_sm" and given["--max-steps"] == "7" and given["--features"] == "f.csv"
    assert given["--perturbation-key"] == "gene" and given["--control"] == "ctrl" and given["--init-from"] == "/models/old"
    changed = settings_of(TrainRequest, [words[i + 1] for i, word in enumerate(words) if word == "--set"])
    assert resolve("state_sm", changed | {"optimiser.steps": 7, "network.features": "f.csv"}) == request


def test_a_request_travels_as_json() -> None:
    assert from_plain(TrainJob, to_plain(demo_job())) == demo_job()


@pytest.mark.slow
def test_a_real_worker_trains_is_stopped_is_killed_and_goes_on(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home")
    job = demo_job(TINY.with_settings(steps=40_000, hidden=16, checkpoint_every=20, validate_every=20, validation_sets=4))
    run_id = start(settings, job, "a training")
    run, store = RunFolder.open(settings, run_id), JobStore(settings.database)
    log, until = training_folder(run) / "log.csv", time.monotonic() + 240

    def reach(step: int) -> None:
        while not (log.exists() and steps_of(log)[-1:] > [step]):
            now = store.for_run(run_id)
            assert now.active and time.monotonic() < until, now.error
            if now.state == "queued":  # a killed worker keeps its lock until its last thread has ended
                local.ensure_worker(settings)
            time.sleep(0.1)

    try:
        reach(25)
        assert local.cancel(settings, store.for_run(run_id).id).state == "cancelled" and run.state == "cancelled"
        resume(settings, run)
        reach(steps_of(log)[-1] + 30)
        assert stopped(settings)
        store.mark_lost()
        assert store.for_run(run_id).state == run.state == "lost"
        resume(settings, run)
        reach(steps_of(log)[-1] + 30)
        local.cancel(settings, store.for_run(run_id).id)
        assert steps_of(log) == list(range(1, len(steps_of(log)) + 1))
    finally:
        stopped(settings)


def steps_of(log: Path) -> list[int]:
    """Steps in a curve's whole lines."""
    return [int(step) for step in read_curve(log).get("step", [])]
