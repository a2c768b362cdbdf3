"""A pretraining whose process is killed in the middle goes on to the same weights; a folder that is none of its own is refused in words."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anndata
import pytest
import torch
from threadpoolctl import threadpool_limits

from state_engine.cli.main import main
from state_engine.errors import RunError, StateError
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.run_folder import read_pretraining
from state_engine.progress import Progress
from state_engine.train.place import AGAIN
from tests.pretrain.small import make_files, small_request
from tests.small_embedding import write_embedding_model

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


def test_one_that_fell_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    data, _ = make_files(tmp_path, cells=120)
    request, said = small_request(data, steps=3, test=False), list[str]()

    def fall(progress: Progress) -> None:
        if progress.stage == "Pretraining" and progress.done == 1:
            raise RuntimeError("the power went")

    with one_thread():
        with pytest.raises(RuntimeError):
            pretrain_embedding(request, tmp_path / "cut", fall)
        assert read_pretraining(tmp_path / "cut").state == "failed"
        again = pretrain_embedding(request, tmp_path / "cut", lambda progress: said.append(progress.message), resume=True)
        whole = pretrain_embedding(request, tmp_path / "whole")
    assert AGAIN in said and again.card.weights_hash == whole.card.weights_hash


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


def test_only_one_process_pretrains_in_a_folder(tmp_path: Path) -> None:
    """Neither a second one nor one that would go on; afterwards the lock is gone, and nothing of the first is lost."""
    data, _ = make_files(tmp_path, cells=120)
    request, folder, said = small_request(data, steps=3, test=False), tmp_path / "run", list[str]()

    def meanwhile(progress: Progress) -> None:
        if progress.stage != "Pretraining" or progress.done != 2 or said:
            return
        for resume in (False, True):
            with pytest.raises(StateError) as caught:
                pretrain_embedding(request, folder, resume=resume)
            said.append(str(caught.value))

    made = pretrain_embedding(replace(request, running=replace(request.running, checkpoint_every=1)), folder, meanwhile)
    assert "is there already" in said[0] and "Another process pretrains in" in said[1]
    assert made.computed and read_pretraining(folder).state == "done" and not list(folder.glob("*.lock"))


def test_the_output_is_apart_from_what_is_read(tmp_path: Path) -> None:
    data, _ = make_files(tmp_path, cells=120)
    store, model = tmp_path / "cells.zarr", tmp_path / "model"
    store.mkdir()
    write_embedding_model(model)
    (tmp_path / "file").write_text("mine")
    before = sorted(path for path in tmp_path.rglob("*"))
    for request, output, words in (
        (small_request(data), data, "written over an input"),
        (small_request(store), store / "run", "written over an input"),
        (replace(small_request(data), init_from=str(model)), model / "run", "written over an input"),
        (small_request(data), tmp_path / "file", "is there already"),
        (small_request(data), tmp_path / "file" / "run", "cannot be made"),
        (small_request(data), model, "is there already"),
    ):
        with pytest.raises(StateError, match=words):
            pretrain_embedding(request, output)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert pretrain_embedding(small_request(data, steps=1, test=False), tmp_path / "empty").card.training.steps == 1


def test_hundreds_of_batches_are_tested_without_a_number_for_those_of_one_cell(tmp_path: Path) -> None:
    data, _ = make_files(tmp_path, cells=400)
    cells = anndata.read_h5ad(data)
    cells.obs["batch"] = [f"plate {i}" for i in range(cells.n_obs)]
    cells.write_h5ad(data)
    measures = {t.measure for t in pretrain_embedding(small_request(data, steps=1), tmp_path / "run").report.tests}
    assert "label transfer" in measures and "batch mixing" not in measures
