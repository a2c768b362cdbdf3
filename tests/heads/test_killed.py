"""A fitting whose process is killed leaves no half of a head, and is done again as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from state_engine.checkpoints.head_card import read_head_card
from state_engine.heads.annotate import annotate
from state_engine.heads.finetune import finetune
from state_engine.heads.request import AnnotateRequest
from tests.heads.cells import asked, write_labelled

ROOT = Path(__file__).resolve().parents[2]
ANNOTATE = """
import sys, time
from pathlib import Path
from state_engine.heads.annotate import annotate
from state_engine.heads.request import AnnotateRequest

def stand_still(progress):
    if progress.stage == sys.argv[3]:
        print("there", flush=True)
        time.sleep(60)  # until it is killed

folder = Path(sys.argv[2]).parent
annotate(AnnotateRequest(sys.argv[2], sys.argv[1], device="cpu"), folder / "z.h5ad", stand_still, labels=folder / "l.csv")
"""
SCRIPT = """
import sys, time
from pathlib import Path
from state_engine.heads.finetune import finetune
from tests.heads.cells import asked

def stand_still(progress):
    if progress.stage == sys.argv[3]:
        print("there", flush=True)
        time.sleep(60)  # until it is killed

finetune(asked(Path(sys.argv[1])), Path(sys.argv[2]), stand_still)
"""


def killed(script: str, cells: Path, folder: Path, stage: str) -> None:
    """Run a script until it is at a stage, and kill it there."""
    command = [sys.executable, "-c", script, str(cells), str(folder), stage]
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("stage", ["Fitting the head", "Testing"])
def test_after_kill_9_the_same_head_is_fitted(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    cells = write_labelled(tmp_path / "cells.h5ad")
    before, folder = cells.read_bytes(), tmp_path / "head"
    killed(SCRIPT, cells, folder, stage)
    assert not folder.exists() and cells.read_bytes() == before
    finetune(asked(cells), folder)
    assert not list(tmp_path.glob(".*"))  # what the killed one left is gone
    finetune(asked(cells), tmp_path / "other")
    assert read_head_card(folder).weights_hash == read_head_card(tmp_path / "other").weights_hash


@pytest.mark.parametrize("stage", ["Calling cells", "Copying the data set"])
def test_after_kill_9_the_cells_and_an_annotation_of_before_are_whole(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    cells, output = write_labelled(tmp_path / "cells.h5ad"), tmp_path / "z.h5ad"
    finetune(asked(cells, max_epochs=1), tmp_path / "head")
    request = AnnotateRequest(str(tmp_path / "head"), str(cells), device="cpu")
    annotate(request, output, labels=tmp_path / "l.csv")
    before = [path.read_bytes() for path in (cells, output, tmp_path / "l.csv")]
    killed(ANNOTATE, cells, tmp_path / "head", stage)
    assert [path.read_bytes() for path in (cells, output, tmp_path / "l.csv")] == before
    annotate(request, output, labels=tmp_path / "l.csv")
    assert (tmp_path / "l.csv").read_bytes() == before[2] and not list(tmp_path.glob(".*"))
