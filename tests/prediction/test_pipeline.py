"""On a device apart copies, passes and writing overlap, and change no number; tried with a slow fake device on the CPU.

Overlap is shown by the order of events: a write waits for a later pass to begin, which a pipeline without overlap never does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.errors import JobCancelled, RequestError
from state_engine.files import disk_full
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.transition import TransitionModel
from state_engine.prediction import forward
from state_engine.prediction.predict import predict
from state_engine.prediction.replay import replay
from state_engine.prediction.request import PredictionRequest, ReplayRequest
from state_engine.prediction.result_writer import ResultWriter
from state_engine.progress import Progress
from state_engine.shards.run import InShards
from tests.prediction.test_in_shards import asked, same
from tests.slow_device import SlowDevice, installed
from tests.small import embedding_changes, write_cells, write_model
from tests.small_embedding import write_embedding_model

THREADS = ("passes", "result", "embedding", "cell sentences")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDevice]:
    """A slow device in the place of the CPU, with a set of the tiny model in a pass."""
    monkeypatch.setattr(forward, "CELLS_A_PASS", {"cpu": 8})
    device = installed(monkeypatch, SlowDevice(0.001))
    yield device
    device.close()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


def noted(monkeypatch: pytest.MonkeyPatch, device: SlowDevice, owner: type, name: str, what: str) -> None:
    """Note each call of a method before it begins."""
    whole: Callable = getattr(owner, name)

    def wrapper(*given: object, **named: object) -> object:
        device.events.note(what)
        return whole(*given, **named)

    monkeypatch.setattr(owner, name, wrapper)


@pytest.fixture
def request_(tmp_path: Path) -> PredictionRequest:
    """Five sets under the control label, then five under each of three perturbations."""
    return asked(tmp_path, contexts=("B",), observed=0)


def test_a_pass_begins_while_results_of_the_one_before_travel_and_those_before_that_are_written(
    request_: PredictionRequest, device: SlowDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events, control, last, whole = device.events, 5, 20, ResultWriter.write
    noted(monkeypatch, device, TransitionModel, "transform", "pass")

    def write(writer: ResultWriter, start: int, corrected: np.ndarray, raw: np.ndarray) -> None:
        number = events.note("write begins")
        # the result of pass n is written while pass n + 2 begins: n + 1 was begun before the result was waited for
        if number >= control:
            events.wait("pass", min(number + 3, last))
        whole(writer, start, corrected, raw)
        events.note("write ends")

    monkeypatch.setattr(ResultWriter, "write", write)
    predict(request_, tmp_path / "slow.h5ad")
    assert events.count("pass") == last and events.count("write ends") == last + 1  # measured cells come at the end
    for n in range(control, last - 2):
        assert events.at("pass", n + 1) < events.at("pass", n + 2) < events.at("write ends", n)


def test_a_result_travels_back_while_the_next_pass_begins(
    request_: PredictionRequest, device: SlowDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events, begun = device.events, SlowDevice.fetch
    noted(monkeypatch, device, TransitionModel, "transform", "pass")

    def fetch(self: SlowDevice, values: torch.Tensor) -> Callable[[], torch.Tensor]:
        landing, number = begun(self, values), events.note("fetch")

        def wait() -> torch.Tensor:
            if number not in (4, 19):  # the last passes under the control label, and of all
                events.wait("pass", number + 2)
            return landing()

        return wait

    monkeypatch.setattr(SlowDevice, "fetch", fetch)
    predict(request_, tmp_path / "slow.h5ad")
    assert events.count("fetch") == events.count("landed") == 20


@pytest.mark.parametrize(
    "changes",
    [{}, {"set_size": 5, "cells": 23}, {"contexts": ("B", "NK"), "observed": 16}, {"precision": "bf16"}],
    ids=["one context", "sets that are not full", "two contexts", "bf16"],
)
@pytest.mark.parametrize("passes", [8, 64])
def test_overlap_changes_no_number(
    passes: int, changes: dict[str, object], request_: PredictionRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = replace(request_, **changes)
    predict(request, tmp_path / "usual.h5ad")
    monkeypatch.setattr(forward, "CELLS_A_PASS", {"cpu": passes})
    for name, seconds in (("quick", 0.0), ("slow", 0.002)):
        device = installed(monkeypatch, SlowDevice(seconds))
        predict(request, tmp_path / f"{name}.h5ad")
        device.close()
    assert same(tmp_path / "quick.h5ad", tmp_path / "slow.h5ad")
    usual, slow = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("usual", "slow"))
    # the order of the rows is the same; last bits of a product may depend on how many rows it has
    np.testing.assert_allclose(slow.layers["raw"], usual.layers["raw"], rtol=2e-5, atol=1e-5)
    assert slow.obs.drop(columns="confidence", errors="ignore").equals(usual.obs.drop(columns="confidence", errors="ignore"))


def test_shards_of_a_device_have_the_numbers_of_one_piece(
    request_: PredictionRequest, device: SlowDevice, tmp_path: Path
) -> None:
    predict(request_, tmp_path / "whole.h5ad")
    predict(request_, tmp_path / "parts.h5ad", shards=InShards(tmp_path / "shards", size=3000))
    whole, parts = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("whole", "parts"))
    np.testing.assert_allclose(parts.X, whole.X, rtol=1e-5, atol=1e-6)


def test_an_embedding_model_with_batches_and_a_decoder(device: SlowDevice, tmp_path: Path) -> None:
    changes = embedding_changes() | {"batch_encoder": True, "batch_dim": 2}
    write_model(tmp_path / "model", **changes)
    data = write_cells(tmp_path / "cells.h5ad", embedding=6)
    request = PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=24, device="cpu")
    predict(request, tmp_path / "slow.h5ad")
    made = anndata.read_h5ad(tmp_path / "slow.h5ad")
    assert np.isfinite(made.X).all() and made.obsm["X_state"].std() > 0 and device.events.count("landed") > 10


def test_memory_runs_out_on_the_device_and_the_prediction_goes_on(
    request_: PredictionRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    predict(request_, tmp_path / "usual.h5ad")
    device = installed(monkeypatch, SlowDevice(room=16))
    monkeypatch.setattr(forward, "CELLS_A_PASS", {"cpu": 64})
    summary = predict(request_, tmp_path / "small.h5ad")
    device.close()
    told = [remark for remark in summary.remarks if remark.startswith("Out of memory: going on with ")]
    assert len(told) >= 2 and "12 cells a pass" in told[-1]  # two sets of 8 have room, three have not
    usual, small = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("usual", "small"))
    np.testing.assert_allclose(small.X, usual.X, rtol=2e-5, atol=1e-5)


def test_the_disk_is_full_in_the_thread_that_writes(
    request_: PredictionRequest, device: SlowDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error, whole, calls = OSError(28, "No space left on device"), ResultWriter.write, list[int]()

    def write(writer: ResultWriter, start: int, corrected: np.ndarray, raw: np.ndarray) -> None:
        calls.append(start)
        if len(calls) == 7:
            raise error
        whole(writer, start, corrected, raw)

    monkeypatch.setattr(ResultWriter, "write", write)
    with pytest.raises(OSError) as caught:
        predict(request_, tmp_path / "out" / "slow.h5ad")
    assert caught.value is error and len(calls) == 7
    told = disk_full(caught.value, tmp_path, RequestError)
    assert told is not None and "The disk is full" in str(told)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("after", [1, 7, 19])
def test_a_cancelled_prediction_leaves_no_file_and_no_thread(
    after: int, request_: PredictionRequest, device: SlowDevice, tmp_path: Path
) -> None:
    def cancel(progress: Progress) -> None:
        if progress.stage == "Predicting cells" and progress.done >= after:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        predict(request_, tmp_path / "out" / "slow.h5ad", cancel)
    assert not list((tmp_path / "out").iterdir())


def test_a_replay_is_the_same(device: SlowDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_model(tmp_path / "model", output_space="hvg")
    data = write_cells(tmp_path / "cells.h5ad", counts=False)
    request = ReplayRequest(str(data), str(tmp_path / "model"), embedding_key="X", device="cpu")
    replay(request, tmp_path / "slow.h5ad")
    monkeypatch.undo()
    replay(request, tmp_path / "usual.h5ad")
    slow, usual = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("slow", "usual"))
    np.testing.assert_allclose(np.asarray(slow.X), np.asarray(usual.X), rtol=2e-5, atol=1e-5)
    assert device.events.count("landed") > 5


@pytest.fixture
def embedding(tmp_path: Path) -> EmbedRequest:
    """160 cells, 16 in a pass."""
    write_embedding_model(tmp_path / "se")
    data = write_cells(tmp_path / "cells.h5ad")
    return EmbedRequest(str(data), str(tmp_path / "se"), device="cpu", batch_size=16)


def test_cells_are_embedded_while_the_ones_before_are_written(
    embedding: EmbedRequest, device: SlowDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from state_engine.data.files.npy import NpyRows

    events, whole = device.events, NpyRows.write
    embed(embedding, tmp_path / "slow.npy")
    events.order.clear()
    noted(monkeypatch, device, EmbeddingModel, "forward", "pass")

    def write(rows: NpyRows, cells: np.ndarray, values: np.ndarray) -> None:
        if len(cells):
            number = events.note("write begins")
            events.wait("pass", min(number + 3, 10))
        whole(rows, cells, values)
        if len(cells):
            events.note("write ends")

    monkeypatch.setattr(NpyRows, "write", write)
    embed(embedding, tmp_path / "overlapped.npy")
    assert events.count("pass") == events.count("write ends") == 10
    assert all(events.at("pass", n + 2) < events.at("write ends", n) for n in range(8))
    monkeypatch.undo()
    embed(embedding, tmp_path / "usual.npy")
    usual, slow, overlapped = (np.load(tmp_path / f"{name}.npy") for name in ("usual", "slow", "overlapped"))
    assert np.array_equal(slow, overlapped, equal_nan=True)
    np.testing.assert_allclose(slow, usual, rtol=2e-5, atol=1e-5)


def test_memory_runs_out_on_the_device_and_the_embedding_goes_on(
    embedding: EmbedRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embed(embedding, tmp_path / "usual.npy")
    device = installed(monkeypatch, SlowDevice(room=5))
    summary = embed(embedding, tmp_path / "small.npy")
    device.close()
    assert summary.batch_size == 4 and sum("Out of memory" in remark for remark in summary.remarks) == 2
    np.testing.assert_allclose(np.load(tmp_path / "small.npy"), np.load(tmp_path / "usual.npy"), rtol=2e-5, atol=1e-5)
