"""Pretraining beside the reference: the loss and gradient of a step, and checkpoints that go from here to there and back.

Needs the reference in its own environment (STATE_PEER_PYTHON).
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from state_engine.checkpoints.arc.embedding import _translate
from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.checkpoints.embedding_store import load_embedding
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.models.embedding_losses import build_task_loss
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.module import CellBatch, EmbeddingTraining
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes, Task
from tests.parity.embedding_variants import LARGER
from tests.parity.make_embedding_fixtures import embedding_of, make_jobs, run_peer, transform_arguments
from tests.parity.test_embedding_fixtures import TOLERANCE

pytestmark = [pytest.mark.parity, pytest.mark.slow]

HERE = Path(__file__).parent
SIZES = {"P": 5, "N": 4, "S": 6}
CASES = {
    "tabular": {"loss": "tabular", "together": 1, **SIZES},
    "tabular_pairs": {"loss": "tabular", "together": 2, **SIZES},
    "mmd": {"loss": "mmd", "together": 3, **SIZES},
    "mse": {"loss": "mse", "together": 1, **SIZES},
    "cross_entropy": {"loss": "cross_entropy", "together": 1, **SIZES},
    "wasserstein": {"loss": "wasserstein", "together": 1, **SIZES},
}


@pytest.fixture(scope="module")
def steps(peer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    (folder / "jobs.json").write_text(json.dumps([{"name": name, **case} for name, case in CASES.items()]))
    command = [peer_python, HERE / "peer_pretraining.py", folder / "jobs.json", folder]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_gradient_of_a_step_are_those_of_the_reference(name: str, steps: Path) -> None:
    case, theirs = CASES[name], load_torch(steps / f"{name}.pt")
    batch, weights = theirs["batch"], theirs["state_dict"]
    config = EmbeddingConfig(len(batch["vectors"]), 12, 16, 2, 4, 32, 16, 14, dropout=0.0)
    request = PretrainRequest(("d",), task=Task(case["P"], case["N"], case["S"], case["loss"]))
    training = EmbeddingTraining(request, EmbeddingModel(config), batch["vectors"], 3)
    training.network.load_state_dict(_translate(weights, []))
    names = {"0": "up", "2": "norm", "4": "out"}
    own = {n.removeprefix("dataset_encoder."): t for n, t in weights.items() if n.startswith("dataset_encoder.")}
    assert training.classifier is not None
    training.classifier.load_state_dict({f"{names[n[0]]}{n[1:]}": t for n, t in own.items()})
    training.classifier.drop.p = 0.0
    training.loss = build_task_loss(case["loss"], case["S"], case["together"])
    training.train()
    rows = batch["sentences"].clone()
    given = CellBatch(rows, batch["counts"].float(), batch["genes"], batch["values"].float(), batch["datasets"])
    training.vectors = training.vectors.float()
    terms = training.terms(given)
    total = terms["decoding"] + terms["dataset"]
    assert terms["dataset"].item() == pytest.approx(theirs["dataset"], rel=1e-4)
    assert total.item() == pytest.approx(theirs["loss"], rel=1e-4)
    total.backward()
    gradient = torch.stack([p.grad.norm() for p in training.parameters() if p.grad is not None]).norm()
    assert float(gradient) == pytest.approx(theirs["gradient"], rel=1e-3)


CELLS = 60


@pytest.fixture(scope="module")
def there_and_back(peer_python: Path, oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells; a model of the reference, and one that goes on from it; a model that was pretrained here; all embedded by the reference."""
    folder = tmp_path_factory.mktemp("checkpoints")
    data = folder / "cells.h5ad"
    arguments = [str(data), "--cells", str(CELLS), "--genes", "900", "--hvg", "10", "--dense-sentences"]
    variant = LARGER["b"]
    made = make_jobs(variant, oracle, folder / "theirs", 7)
    run_peer(peer_python, [{"kind": "script", "path": str(oracle / "make_cells.py"), "arguments": arguments}, *made], folder)
    request = PretrainRequest(
        (str(data),), sizes=Sizes(24, 2, 4, 48, 12, 40, 16), task=Task(9, 8, 7), schedule=Schedule(12, 8),
        running=Running(device="cpu", validation=0),
    )  # fmt: skip
    pretrain_embedding(request, folder / "ours")
    pretrain_embedding(replace(request, init_from=str(folder / "theirs")), folder / "further")
    jobs = [
        {"kind": "transform", "arguments": transform_arguments(folder / name / "arc", data, folder / f"{name}.h5ad")}
        for name in ("ours", "further")
    ]
    run_peer(peer_python, jobs, folder)
    return folder


@pytest.mark.parametrize("name", ["ours", "further"])
def test_the_reference_embeds_with_what_was_pretrained_here(name: str, there_and_back: Path, tmp_path: Path) -> None:
    """ours: genes and weights made here; further: a checkpoint of the reference that went on here."""
    embed(
        EmbedRequest(str(there_and_back / "cells.h5ad"), str(there_and_back / name / "model"), device="cpu"), tmp_path / "o.npy"
    )
    ours, theirs = np.load(tmp_path / "o.npy"), embedding_of(there_and_back / f"{name}.h5ad")
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < TOLERANCE
    assert theirs.std(axis=0).max() > 0.01
    embed(EmbedRequest(str(there_and_back / "cells.h5ad"), str(there_and_back / name / "arc"), device="cpu"), tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), ours)


def test_what_went_on_is_no_longer_what_it_was(there_and_back: Path) -> None:
    one, other = (load_embedding(there_and_back / name).module.state_dict() for name in ("theirs", "further/model"))
    moved = {name: float((one[name] - other[name]).abs().max()) for name in one}
    assert max(moved.values()) > 1e-3 and min(moved.values()) > 0
