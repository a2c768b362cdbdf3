"""A training as a job, called as the worker calls it: what reaches the trainer, the run's record, the library, and going on."""

from __future__ import annotations

import itertools
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from state_engine.checkpoints.card import ModelCard
from state_engine.cli.main import build_parser, main
from state_engine.cli.train import wanted
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
from state_engine.options import options_of
from state_engine.options import settings as settings_of
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, silent
from state_engine.train.curves import read_curve
from state_engine.train.request import TrainRequest, resolve
from state_engine.train.run_folder import read_record
from tests.jobs.workers import log_of, stopped
from tests.small import write_model
from tests.train.small import SMALL, make_data, plan_of

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


# every setting off its default in one of the two: a batch token excludes a batch encoder and mixed sets
OTHER = {
    "embedding": "X_e", "genes": ("A", "B,C"), "hvgs": 7, "output_space": "genes", "features": "f 1.csv", "gene_decoder": True,
    "decoder_hidden": (8, 9), "decoder_dropout": 0.2, "decoder_residual": True, "decoder_weight": 0.5, "decoder_detach": True,
    "backbone": "gpt2", "hidden": 24, "layers": 2, "heads": 3, "kv_heads": 1, "head_dim": 5, "intermediate": 6, "encoder_layers": 3,
    "decoder_layers": 1, "set_size": 9, "predict_residual": False, "basal_mlp": False, "batch_encoder": True,
    "confidence_token": True, "mask_attention": True, "dropout": 0.3, "activation": "relu", "loss": "combined", "blur": 0.1,
    "energy_weight": 2.0, "sinkhorn_weight": 0.02, "loss_chunks": 2, "shuffle_chunks": True, "effect_weight": 0.1, "l1": 1e-7,
    "confidence_weight": 0.3, "confidence_scale": 3.0, "batch_token_weight": 0.4, "learning_rate": 0.1 + 0.2, "schedule": "constant",
    "warmup": 3, "weight_decay": 0.1, "gradient_clip": 0.0, "ema": 0.5, "gene_dropout": 0.1, "basal_noise": 0.2, "fill": True,
    "sets_a_step": 12, "steps": 77, "control_mapping": "batch", "train_control": False, "paired": True, "balance": "contexts",
    "equalise_depth": "off", "mix": 0.25, "validate_every": 0, "checkpoint_every": 1, "validation_sets": 3, "freeze": ("a.", "b"), "lora_rank": 2,
    "lora_alpha": 8.0, "lora_dropout": 0.1, "lora_feed": True, "tune": "full", "compare": False, "seed": 1,
    "device": "cpu", "precision": "bf16", "devices": 2,
    "nodes": 3, "compile": True, "cache_gb": 0.0, "calibrate": False, "cross_fit": True, "licence": "MIT", "data_name": "it's",
    "simulated": True, "name": "Two words", "preset": "state_sm",
}  # fmt: skip
TOKEN = {"batch_token": True, "control_mapping": "batch"}
CHOICES = Choices("gene's", "-c", "cell type", "", "log1p", "symbol", "layers/counts", False)


@pytest.mark.parametrize("preset", ["", "default", "state_sm", "replogle"])
@pytest.mark.parametrize("changes", [OTHER, TOKEN, {}], ids=["every field", "token", "none"])
def test_the_command_makes_request_and_choices_again(preset: str, changes: dict[str, Any]) -> None:
    fixed = {"mix": 0.0, "batch_encoder": False} if changes is TOKEN else {}
    job = TrainJob("", resolve(preset, changes | fixed | {"preset": preset}), CHOICES, "/models/old model")
    words = shlex.split(command_of(job, "s.toml", "R"))
    given = build_parser(["train"]).parse_args(words[3:])
    assert wanted(given) == (job.request, job.choices)
    assert (str(given.init_from), str(given.split), str(given.output)) == (job.init_from, "s.toml", "R")


def test_every_setting_is_off_its_default_above() -> None:
    requests = resolve("", OTHER | {"preset": "state_sm"}), resolve("", TOKEN)
    for option in options_of(TrainRequest):
        part, _, name = option.path.partition(".")
        assert any(getattr(getattr(request, part), name) != option.default for request in requests), option.path


@pytest.mark.parametrize(
    ("more", "needed"),
    [
        ({"scale": "log1p"}, ("--expression", "--gene-column", "--scale")),
        ({"scale": "counts", "normalise": False}, ("--no-normalise",)),
    ],
)
def test_a_training_is_made_again_bit_equal_from_the_command_that_is_shown(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], needed: tuple[str, ...]
) -> None:
    """Its data need every choice: X holds other values, the index of var other names."""
    cells = anndata.read_h5ad(make_data(tmp_path))
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X.copy()
    cells.X.data = np.log1p(cells.X.data[::-1])
    cells.var["symbol"], cells.var["label"] = cells.var_names[::-1], cells.var_names
    cells.var_names = [f"feature {i}" for i in range(cells.n_vars)]
    path = tmp_path / "data" / "cells.h5ad"
    cells.write_h5ad(path)
    choices = Choices("perturbation", gene_column="label", expression="layers/counts", **more)
    request = SMALL.with_settings(name="Again", genes=("ISG15", "MX1", "ACTB"), steps=2, calibrate=True)
    run = run_of(settings, TrainJob(plan_text(plan_of(path)), request, choices))
    train_tasks.train(job_request(run), run, silent, WarmCache())
    monkeypatch.chdir(run.path)  # where split.toml is
    assert main(shlex.split(run.manifest.command)[3:]) == 0
    first, again = training_folder(run), run.path / "RUN"
    assert read_record(again).choices == choices
    files = ("model.json", "model.safetensors")
    assert [(again / "model" / name).read_bytes() for name in files] == [(first / "model" / name).read_bytes() for name in files]
    for option in needed:  # without one of them it is another model
        words = shlex.split(run.manifest.command)[3:]
        at = words.index(option)
        del words[at : at + (1 if option == "--no-normalise" else 2)]
        words[words.index("RUN")] = "OTHER" + option
        assert main(words) == 0
        other = run.path / f"OTHER{option}" / "model"
        assert [(other / name).read_bytes() for name in files] != [(first / "model" / name).read_bytes() for name in files]


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
        assert store.for_run(run_id).state == run.state == "queued"  # it goes on by itself
        local.look_after(settings)
        reach(steps_of(log)[-1] + 30)
        local.cancel(settings, store.for_run(run_id).id)
        assert steps_of(log) == list(range(1, len(steps_of(log)) + 1))
    finally:
        stopped(settings)


def steps_of(log: Path) -> list[int]:
    """Steps in a curve's whole lines."""
    return [int(step) for step in read_curve(log).get("step", [])]
