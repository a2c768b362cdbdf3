"""The command `train`: the split first, then the training, then what came out; a killed process goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from state_engine.checkpoints.store import read_card
from state_engine.cli.main import build_parser
from state_engine.cli.train import run_train, wanted
from state_engine.data.splits.plan import plan_text
from state_engine.errors import ConfigError, RequestError, RunError
from state_engine.progress import silent
from state_engine.train.curves import LOG, VALIDATION, read_curve
from state_engine.train.run_folder import read_record
from tests.train.small import make_data, plan_of

TINY = ["hvgs=40", "set_size=8", "sets_a_step=2", "hidden=16", "layers=1", "heads=2", "intermediate=32", "validation_sets=2"]


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    path = folder / "split.toml"
    path.write_text(plan_text(plan_of("pbmc.h5ad")))
    return path


def words(split: Path, output: Path, *more: str) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    return ["train", "--split", str(split), "--output", str(output), "--device", "cpu", *settings, *more]


def parsed(arguments: list[str]) -> Namespace:
    return build_parser(["train"]).parse_args(arguments)


def test_the_split_is_shown_before_and_the_scores_after(split, tmp_path: Path):
    written = []
    assert (
        run_train(parsed(words(split, tmp_path / "run", "--max-steps", "2", "--control", "control")), written.append, silent)
        is None
    )
    assert written[0].split() == ["data", "set", "context", "train", "val", "test", "unused"]
    assert written[1].split()[:4] == ["pbmc", "B", "0", "0"]
    assert "Held out: B; NK x IFN-beta; NK x TNF." in written
    shown = {line.split("  ")[0] for line in written}
    assert {"NK x IFN-beta", "B x TNF", "mean, testing", "mean, validation"} <= shown
    record = read_record(tmp_path / "run")
    assert record.request.run.preset == "default" and record.request.optimiser.steps == 2 and record.choices.control == "control"
    assert record.request.network.layers == 1 and record.state == "done"


def test_what_is_given_changes_the_preset(split, tmp_path: Path):
    options = parsed(words(split, tmp_path, "--preset", "state_sm", "--embedding-key", "X_pca", "--precision", "bf16"))
    request, choices = wanted(options)
    assert (request.run.preset, request.optimiser.learning_rate, request.network.hidden) == ("state_sm", 1e-4, 16)
    assert (request.network.embedding, request.run.precision, choices.context_key) == ("X_pca", "bf16", None)
    assert wanted(parsed(["train", "--output", "x", "--context-key", ""]))[1].context_key == ""


def test_what_is_missing_or_unknown_is_said(tmp_path: Path):
    with pytest.raises(RequestError, match="There is no split"):
        run_train(parsed(["train", "--output", str(tmp_path / "run")]), print, silent)
    with pytest.raises(RunError, match="No training was begun"):
        run_train(parsed(["train", "--output", str(tmp_path / "run"), "--resume"]), print, silent)
    with pytest.raises(ConfigError, match="Near: learning_rate"):
        wanted(parsed(["train", "--output", "x", "--set", "learnin_rate=1"]))


def start(arguments: list[str], folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (folder / "out.txt").open("a")
    with log:
        return subprocess.Popen([sys.executable, "-m", "state_engine", *arguments], env=environment, stdout=log, stderr=log)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(split, tmp_path: Path):
    more = ["--max-steps", "120", "--set", "checkpoint_every=20", "--set", "validate_every=50", "--set", "dropout=0.1"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start(words(split, whole, *more), tmp_path).wait(300) == 0
    process = start(words(split, run, *more), tmp_path)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "step=40.ckpt").exists():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "out.txt").read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = read_curve(run / LOG)["step"][-1]
    assert 40 <= reached < 120 and read_record(run).state == "running"
    assert start(["train", "--output", str(run), "--resume"], tmp_path).wait(300) == 0
    assert read_card(run).weights_hash == read_card(whole).weights_hash
    for name, steps in ((LOG, list(range(1, 121))), (VALIDATION, [50, 100, 120])):
        one, other = read_curve(run / name), read_curve(whole / name)
        assert one["step"] == steps and one.pop("seconds") and other.pop("seconds")
        assert one == other


@pytest.mark.slow
def test_two_processes_share_the_sets_of_a_step(split, tmp_path: Path):
    # noise is each device's own; without it the gradient is that of one process
    still = [part for zero in ("dropout=0", "basal_noise=0", "gene_dropout=0", "sets_a_step=4") for part in ("--set", zero)]
    more = ["--max-steps", "6", *still]
    assert start(words(split, tmp_path / "one", *more), tmp_path).wait(300) == 0
    assert start(words(split, tmp_path / "two", *more, "--set", "devices=2"), tmp_path).wait(300) == 0, (
        tmp_path / "out.txt"
    ).read_text()
    one, two = read_curve(tmp_path / "one" / LOG), read_curve(tmp_path / "two" / LOG)
    assert two["step"] == one["step"] and two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    assert read_record(tmp_path / "two").state == "done"
