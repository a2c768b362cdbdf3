"""The command that a run shows makes the run again, bit for bit, from data that are read wrongly without what was chosen."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.store import read_card, save_model
from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot, plan_text
from state_engine.errors import StateError
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks import results
from state_engine.jobs.tasks import train as train_tasks
from state_engine.jobs.train_job import TrainJob, training_folder
from state_engine.models.transition import TransitionModel
from state_engine.plain import to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.progress import silent
from state_engine.train.request import resolve
from tests.small import card_of, config, write_cells

CHOICES = Choices(
    context_key="cell_type", batch_key="", scale="counts", gene_column="symbol", expression="layers/counts", normalise=False
)
TINY = {
    "name": "Tiny", "hvgs": 0, "hidden": 8, "layers": 1, "heads": 2, "set_size": 8, "steps": 3, "seed": 5, "device": "cpu",
    "calibrate": False, "cross_fit": False, "freeze": ("perturbation_encoder",), "loss": "combined", "dropout": 0.25,
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path / "my data"))
    (tmp_path / "my data").mkdir()
    return Settings(tmp_path / "home", (tmp_path / "my data",))


@pytest.fixture
def data(settings: Settings) -> Path:
    """Half counts in a layer beside an X of log1p values of other cells, and gene names in a column that the index contradicts."""
    path = write_cells(settings.data_folders[0] / "cells.h5ad")
    cells = anndata.read_h5ad(path)
    cells.layers["counts"] = cells.X * 0.5
    cells.X = np.log1p(np.random.default_rng(1).poisson(3, cells.shape)).astype(np.float32)
    cells.var["symbol"] = [str(name) for name in cells.var_names]
    cells.var_names = [str(name) for name in reversed(cells.var_names)]
    cells.write_h5ad(path)
    return path


def begun(settings: Settings, kind: str, request: object) -> RunFolder:
    run = RunFolder.create(settings, kind, to_plain(request), "a run")
    run.start()
    return run


def again(command: str, **places: object) -> int:
    """Run a command as it is shown, with other places for what it writes."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "state_engine"]
    for flag, place in places.items():
        words[words.index(f"--{flag}") + 1] = str(place)
    return main(words[3:])


def test_a_prediction_is_made_again_bit_for_bit(settings: Settings, data: Path, tmp_path: Path) -> None:
    made = config()
    torch.manual_seed(0)
    model = TransitionModel(made)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    folder = settings.data_folders[0] / "a model"
    save_model(folder, replace(card_of(made), scale="counts"), model.state_dict())
    asked = PredictionRequest(
        str(data), str(folder), ("TNF", "JUN,FOS"), ("B",), 20, 7, CHOICES, set_size=4, device="cpu", precision="bf16",
        attention="causal", keep_raw=False, observed=9,
    )  # fmt: skip
    run = begun(settings, "predict", asked)
    results.predict(asked, run, silent, WarmCache())
    first = anndata.read_h5ad(run.result)
    assert again(run.manifest.command, output=tmp_path / "again.h5ad") == 0
    second = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert first.X.dtype == second.X.dtype and np.array_equal(np.asarray(first.X), np.asarray(second.X))
    assert first.obs.equals(second.obs) and list(first.layers) == list(second.layers)
    # what was chosen mattered: with the suggestions the file is refused, or gives other numbers
    for field in ("expression", "gene_column", "scale"):
        other = replace(asked, choices=replace(CHOICES, **{field: None}))
        try:
            predict(other, tmp_path / "other.h5ad")
        except StateError:
            continue
        assert not np.array_equal(np.asarray(first.X), np.asarray(anndata.read_h5ad(tmp_path / "other.h5ad").X)), field


def test_a_training_is_made_again_bit_for_bit(settings: Settings, data: Path, tmp_path: Path) -> None:
    plan = SplitPlan(
        (("pbmc", str(data)),), ("pbmc",), (ZeroShot("pbmc", "NK", "test"),), (FewShot("pbmc", "B", test=("JUN,FOS",)),)
    )
    request = resolve("default", TINY)
    job = TrainJob(plan_text(plan), request, CHOICES)
    run = begun(settings, "train", job)
    train_tasks.train(job, run, silent, WarmCache())
    first = read_card(training_folder(run) / "model")
    assert again(run.manifest.command, split=run.file("split.toml"), output=tmp_path / "again") == 0
    assert read_card(tmp_path / "again").weights_hash == first.weights_hash
    assert first.scale == "counts" and "GENE0" in (first.input_genes or ())
