"""Two devices share the cells of a step (DDP), and learn what one learns alone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from state_engine.checkpoints.embedding_store import read_embedding
from state_engine.options import command
from state_engine.pretrain.fit import pretrain_embedding
from tests.pretrain.small import make_files, small_request
from tests.test_architecture import ROOT


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """The squared error is a mean over cells, so the mean of two halves is that of the whole; `tabular` also compares cells of a device."""
    one, _ = make_files(tmp_path)
    request = small_request(one, steps=4, test=False, validation=0.0)
    request = replace(request, task=replace(request.task, loss="mse"))
    pretrain_embedding(request, tmp_path / "alone")
    both = replace(request, running=replace(request.running, devices=2))
    words = command(both, output=str(tmp_path / "both")).split()
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = (read_embedding(tmp_path / name / "model")[1] for name in ("alone", "both"))
    start = pretrain_embedding(replace(request, schedule=replace(request.schedule, steps=1)), tmp_path / "start")
    assert start.card.training.steps == 1
    first = read_embedding(tmp_path / "start" / "model")[1]
    for name, tensor in mine.items():
        assert torch.allclose(tensor, theirs[name], atol=5e-4), name
    moved = max(float((mine[name] - first[name]).abs().max()) for name in mine)
    assert moved > 3e-3  # what the steps changed is more than what is allowed
