"""A model adapted to a small screen with a new perturbation and a new cell type, end to end: one report, and a model like any other."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.errors import JobCancelled
from state_engine.evaluation import adaptation
from state_engine.evaluation.adapt import adapt
from state_engine.evaluation.adaptation import ADAPTED, BEFORE, SCRATCH, Against, judge_adaptation, read_adaptation
from state_engine.evaluation.report import read_evaluation, read_metrics
from state_engine.files import PART_PREFIX
from state_engine.jobs.train_job import TrainJob, command_of
from state_engine.prediction.replay import replay
from state_engine.prediction.request import ReplayRequest
from state_engine.prediction.result import open_result
from state_engine.progress import Progress
from state_engine.train.adapt import adapting
from state_engine.train.request import resolve
from state_engine.train.run_folder import open_training_split, read_record

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "assets" / "demo"
TYPE, NEW = "my NK cells", "my drug"
KNOWN = ("IFN-beta", "TNF", "IFN-gamma", "LPS", "Dexamethasone", "anti-CD3", "Ruxolitinib", "IL-2")
HELD = ("TNF", "IFN-gamma", "LPS", "Dexamethasone", "Ruxolitinib")
LEAST = ["--set", "steps=6", "--set", "calibrate=false", "--set", "validate_every=0"]


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> Path:
    """NK cells of the demo under another name; one perturbation that no model knows; half of the genes in another order."""
    cells = anndata.read_h5ad(DEMO / "demo.h5ad")
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    labels = np.where(labels == "CRISPRi STAT1", NEW, labels)
    kept = (cells.obs["cell_type"] == "NK").to_numpy() & np.isin(labels, ["control", *KNOWN, NEW])
    mine = cells[kept, np.random.default_rng(0).permutation(cells.n_vars)].copy()
    mine.obs["perturbation"], mine.obs["cell_type"] = labels[kept], TYPE
    folder = tmp_path_factory.mktemp("screen")
    mine.write_h5ad(folder / "mine.h5ad")
    held = ", ".join(f'"{p}"' for p in HELD)
    (folder / "split.toml").write_text(
        f'[datasets]\nmine = "{folder / "mine.h5ad"}"\n[training]\nmine = "train"\n[fewshot."mine.{TYPE}"]\ntest = [{held}]\n'
    )
    return folder


@pytest.fixture(scope="module")
def run(screen: Path, tmp_path_factory) -> Path:
    """The demo's model adapted by one command."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    words = ["train", "--adapt", str(DEMO / "model"), "--split", str(screen / "split.toml"), "--output", str(folder), *LEAST]
    assert main(words) == 0
    return folder


def test_the_report_has_every_row(run: Path) -> None:
    found, evaluation = read_adaptation(run), read_evaluation(run / "test")
    assert found is not None and evaluation is not None
    assert (found.tune, found.steps, len(found.against)) == ("lora", 6, 2)
    kinds = {m.name: m.kind for m in evaluation.methods}
    # what was never measured in training cannot be predicted from scratch, but the model as it was knows it
    assert kinds[ADAPTED] == kinds[BEFORE] == "prediction" and SCRATCH not in kinds
    assert {"no change", "mean of other contexts", "likeness-weighted mean", "mean of the context"} <= set(kinds)
    assert [c.perturbation for c in evaluation.conditions] == sorted(HELD) and {c.exposure for c in evaluation.conditions} == {
        "test"
    }
    assert {s.method for s in evaluation.skills} == {ADAPTED, BEFORE}
    assert (
        f"{SCRATCH} is not among the rows." in evaluation.held_out and "none of the held-out perturbations" in evaluation.held_out
    )
    assert found.fit.perturbations.new == (NEW,) and len(found.fit.perturbations.known) == 8 and found.fit.contexts.new == (TYPE,)
    assert found.helps in ("yes", "no", "undecided") and found.verdict.startswith("Adapting ")


def test_the_report_is_printed(screen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With perturbations that the screen trains too, the training from scratch has its row."""
    text = (screen / "split.toml").read_text()
    cells = anndata.read_h5ad(screen / "mine.h5ad")
    # a second context trains what the first one tests
    other = np.random.default_rng(1).random(cells.n_obs) < 0.5
    cells.obs["cell_type"] = np.where(other, "others", TYPE)
    cells.write_h5ad(tmp_path / "mine.h5ad")
    (tmp_path / "split.toml").write_text(text.replace(str(screen), str(tmp_path)))
    words = ["train", "--adapt", str(DEMO / "model"), "--split", str(tmp_path / "split.toml"), "--tune", "last-1", *LEAST]
    assert main([*words, "--set", "cross_fit=false", "--output", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"8 of 9 perturbations known to the model; new: {NEW}." in said
    evaluation, found = read_evaluation(tmp_path / "run" / "test"), read_adaptation(tmp_path / "run")
    assert evaluation is not None and found is not None and found.tune == "last-1"
    assert {ADAPTED, SCRATCH, BEFORE} == {m.name for m in evaluation.methods if m.kind == "prediction"}
    assert [a.other for a in found.against][:2] == [SCRATCH, BEFORE] and found.against[-1].baseline and found.verdict in said
    assert "Skill (0: the best simple baseline" in said
    scratch = read_record(tmp_path / "run" / "scratch")
    assert (scratch.steps, scratch.init_from, scratch.request.optimiser.tune) == (6, "", "")
    assert read_card(tmp_path / "run" / "scratch" / "model").config.backbone == read_card(DEMO / "model").config.backbone


def test_the_adapted_model_predicts_and_replays_like_any_other(run: Path, screen: Path, tmp_path: Path) -> None:
    words = ["predict", "--model", str(run / "model"), "--data", str(screen / "mine.h5ad"), "--output", str(tmp_path / "p.h5ad")]
    # its own new perturbation, one that was held out, and one that only its start knew
    assert main([*words, "--perturbation", NEW, "--perturbation", "TNF", "--perturbation", "CRISPRi MYC", "--cells", "16"]) == 0
    assert {p for p, _ in open_result(tmp_path / "p.h5ad").conditions()} >= {NEW, "TNF", "CRISPRi MYC"}
    replay(ReplayRequest(str(screen / "mine.h5ad"), str(run / "model")), tmp_path / "r.h5ad")
    assert (tmp_path / "r.h5ad").is_file()


def test_a_stopped_comparison_goes_on(run: Path, screen: Path, tmp_path: Path) -> None:
    asked = read_record(run).request
    split = open_training_split(run)

    def stop(progress: Progress) -> None:
        if progress.stage.startswith("From scratch, to compare: training") and progress.done == 3:
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        adapt(split, asked, tmp_path / "run", DEMO / "model", stop)
    assert read_adaptation(tmp_path / "run") is None
    hashed = read_card(tmp_path / "run" / "model").weights_hash
    words = ["train", "--resume", "--output", str(tmp_path / "run")]
    assert main(words) == 0
    assert read_card(tmp_path / "run" / "model").weights_hash == hashed  # it was done, and is left as it is
    one, other = read_adaptation(tmp_path / "run"), read_adaptation(run)
    assert one is not None and other is not None and len(one.against) == len(other.against)
    assert [a.value for a in one.against] == pytest.approx([a.value for a in other.against], rel=1e-3)


KILLED = """
import os, signal, sys
import torch
from state_engine.cli import main as cli
stage, step, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
def killing():
    def told(progress):
        if progress.stage == stage and progress.done >= step:
            os.kill(os.getpid(), signal.SIGKILL)
    return told
cli._on_terminal = killing
sys.exit(cli.main(sys.argv[4:]))
"""


@pytest.mark.slow
def test_an_adaptation_that_is_killed_ends_with_the_report_of_one_that_was_not(run: Path, screen: Path, tmp_path: Path) -> None:
    """Killed before its first checkpoint, behind its second, and in the training from scratch; the processes are ones of their own."""
    folder = tmp_path / "run"
    asked = ["--adapt", str(DEMO / "model"), "--split", str(screen / "split.toml"), *LEAST, "--set", "checkpoint_every=2"]
    moments = ("Training", 1), ("Training", 5), ("From scratch, to compare: training", 3)
    for number, (stage, step) in enumerate(moments):
        words = ["train", "--output", str(folder), *(["--resume"] if number else asked)]
        command = [sys.executable, "-c", KILLED, stage, str(step), str(torch.get_num_threads()), *words]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert read_adaptation(folder) is None
    assert main(["train", "--resume", "--output", str(folder)]) == 0
    one, other = read_adaptation(folder), read_adaptation(run)
    assert one is not None and other is not None and (one.steps, one.fit, one.helps) == (other.steps, other.fit, other.helps)
    # the last bits of sums depend on the threads that a process has
    assert [a.value for a in one.against] == pytest.approx([a.value for a in other.against], rel=1e-3)
    metrics = [read_metrics(place / "test" / "metrics.csv") for place in (folder, run)]
    pd.testing.assert_frame_equal(*metrics, rtol=1e-3, atol=1e-5)
    for name in ("model", "scratch/model"):
        weights = [load_file(place / name / "model.safetensors") for place in (folder, run)]
        torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert {p.name for p in folder.iterdir()} == {p.name for p in run.iterdir()}
    assert not [p for p in folder.rglob("*") if PART_PREFIX in p.name or p.name.endswith("lock")]


def test_nothing_is_compared_where_nothing_is_held_out_or_it_is_not_wanted(run: Path, screen: Path, tmp_path: Path) -> None:
    words = ["train", "--adapt", str(DEMO / "model"), "--split", str(screen / "split.toml"), *LEAST]
    assert main([*words, "--no-compare", "--output", str(tmp_path / "run")]) == 0
    assert read_adaptation(tmp_path / "run") is None and not (tmp_path / "run" / "scratch").exists()
    assert (tmp_path / "run" / "model" / "model.json").is_file()


def test_the_command_of_a_job_adapts_the_same(tmp_path: Path) -> None:
    model = DEMO / "model"
    asked = adapting(resolve("default"), read_card(model)).with_settings(tune="last-2", steps=9)
    said = command_of(TrainJob("", asked, init_from=str(model)))
    assert f"--adapt {model}" in said and "--tune last-2" in said and "--max-steps 9" in said and "hidden" not in said
    gone = command_of(TrainJob("", asked, init_from=str(tmp_path / "gone")))
    assert "--init-from" in gone and "hidden=128" in gone


def against(other: str, low: float, high: float, n: int = 8, baseline: bool = False) -> Against:
    return Against(other, baseline, 0.05, 0.06, (low + high) / 2, low, high, n)


@pytest.mark.parametrize(
    ("found", "helps", "words"),
    [
        (
            [against(SCRATCH, 0.1, 0.3), against("mean", 0.1, 0.2, baseline=True)],
            "yes",
            "Adapting helps here. Closer than a training",
        ),
        (
            [against(SCRATCH, 0.1, 0.3), against("mean", -0.3, -0.1, baseline=True)],
            "no",
            r"the best simple baseline \(mean\) is closer",
        ),
        (
            [against(SCRATCH, -0.3, -0.1), against(BEFORE, -0.2, -0.1)],
            "no",
            "a training from scratch and the model as it was are closer",
        ),
        ([against(SCRATCH, -0.1, 0.1)], "undecided", "not shown to help here: it cannot be told from a training from scratch"),
        (
            [against(SCRATCH, 0.1, 0.3, n=3)],
            "too few",
            "cannot be told: there are 3 conditions to compare, and a verdict needs 5",
        ),
        ([], "too few", "there are 0 conditions"),
    ],
)
def test_the_verdict_says_when_adapting_does_not_help(found, helps, words) -> None:
    import re

    said, text = judge_adaptation(found)
    assert said == helps and re.search(words, text), text


def test_the_report_of_a_run_is_read_strictly(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / adaptation.REPORT, tmp_path / adaptation.REPORT)
    plain = json.loads((tmp_path / adaptation.REPORT).read_text())
    assert plain["format"] == 1 and set(plain) == {"format", "tune", "steps", "fit", "against", "helps", "verdict"}
