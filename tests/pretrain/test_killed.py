"""A pretraining whose process is killed in the middle goes on to the same weights; a folder that is none of its own is refused in words."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from state_engine.cli.main import main
from state_engine.errors import RunError
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.run_folder import read_pretraining
from tests.pretrain.small import make_files, small_request

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
SCRIPT = f"""
import sys, time
from pathlib import Path
from state_engine.pretrain.fit import pretrain_embedding
from tests.pretrain.small import small_request
from tests.pretrain.test_killed import one_thread

def slow(progress):
    if progress.stage == "Pretraining" and progress.done >= 12:
        time.sleep(60)  # until it is killed

with one_thread():
    pretrain_embedding(small_request(Path(sys.argv[1]), steps={STEPS}, checkpoint_every=10), Path(sys.argv[2]), slow)
"""


@contextmanager
def one_thread() -> Iterator[None]:
    """The last bits of sums depend on the threads of torch and of numpy's products, which the two processes need not share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def test_after_kill_9_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data, _ = make_files(tmp_path, cells=120)
    request = small_request(data, steps=STEPS, checkpoint_every=10)
    cut = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(data), str(cut)], cwd=ROOT)
    end = time.monotonic() + 120
    log = cut / "log.csv"
    while time.monotonic() < end and not (log.is_file() and log.read_text().count("\n") > 11):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_pretraining(cut).state == "running" and (cut / "checkpoints" / "last.ckpt").is_file()
    with one_thread():
        went_on = pretrain_embedding(request, cut, resume=True).card
        whole = pretrain_embedding(request, tmp_path / "whole").card
    assert went_on.weights_hash == whole.weights_hash and read_pretraining(cut).state == "done"


def test_resuming_where_no_pretraining_was_begun_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, _ = make_files(tmp_path, cells=120)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    for folder in (tmp_path / "other", tmp_path / "nothing"):
        with pytest.raises(RunError, match="No pretraining was begun in"):
            pretrain_embedding(small_request(data), folder, resume=True)
        assert main(["pretrain", "--output", str(folder), "--resume"]) != 0
        assert "No pretraining was begun in" in capsys.readouterr().err
    assert (tmp_path / "other" / "mine.txt").read_text() == "kept" and not (tmp_path / "nothing").exists()
