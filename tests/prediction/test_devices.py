"""What a prediction must be on every device; the cases on a GPU run where there is one (`make gpu`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from benchmarks import gpu as benchmark
from state_engine.errors import JobCancelled
from state_engine.models.transfer import transfer_of
from state_engine.prediction.predict import predict
from state_engine.progress import Progress
from state_engine.shards.run import InShards
from tests.devices import DEVICES
from tests.prediction.test_in_shards import asked, same


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2)])
def test_numbers_are_those_of_the_cpu(device: str, precision: str, tolerance: float, tmp_path: Path) -> None:
    request = asked(tmp_path)
    predict(request, tmp_path / "cpu.h5ad")
    predict(replace(request, device=device, precision=precision), tmp_path / "device.h5ad")
    usual, other = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("cpu", "device"))
    spread = usual.layers["raw"].std()
    assert np.abs(other.layers["raw"] - usual.layers["raw"]).mean() < tolerance * spread
    assert other.obs_names.equals(usual.obs_names) and other.obs["perturbation"].equals(usual.obs["perturbation"])


@pytest.mark.parametrize("device", DEVICES)
def test_a_prediction_that_went_on_has_the_bits_of_one_that_was_not_interrupted(device: str, tmp_path: Path) -> None:
    request = replace(asked(tmp_path), device=device)
    predict(request, tmp_path / "whole.h5ad", shards=InShards(tmp_path / "one", size=3000))

    def interrupt(progress: Progress) -> None:
        if progress.stage == "Predicting cells" and progress.done > 12:
            raise JobCancelled("Cancelled.")

    shards = InShards(tmp_path / "two", size=3000)
    with pytest.raises(JobCancelled):
        predict(request, tmp_path / "parts.h5ad", interrupt, shards=shards)
    predict(request, tmp_path / "parts.h5ad", shards=shards)
    assert same(tmp_path / "whole.h5ad", tmp_path / "parts.h5ad")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_values_get_to_the_device_and_back(device: str, dtype: torch.dtype) -> None:
    transfer = transfer_of(torch.device(device))
    given = [torch.randint(0, 1000, (64, 30 + i)).to(dtype) for i in range(20)]
    # many at once, so that a copy that is not waited for would be seen
    landings = [transfer.fetch((transfer.put(values) * 3).T) for values in given]
    for values, landing in zip(given, landings, strict=True):
        assert torch.equal(landing(), values.T * 3)
    assert torch.equal(transfer.fetch(transfer.put(given[0], torch.bfloat16).float())(), given[0].to(torch.bfloat16).float())


@pytest.mark.parametrize("device", DEVICES)
def test_the_benchmark_runs_and_memory_that_runs_out_is_handled(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = list(benchmark.PARTS) if device == "cuda" else ["rate", "predict", "embed", "memory"]
    code = benchmark.main(["--device", device, "--small", "--scratch", str(tmp_path), "--only", *parts])
    table = capsys.readouterr().out
    assert code == 0, table
    for row in ("matrix rate, bf16", "predict, bf16: shares", "SE, bf16: matrix units", "out of memory handled"):
        assert row in table
    assert "yes: " in table and not list(tmp_path.iterdir())


def test_a_part_that_fails_is_a_row_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(bench: benchmark.Bench) -> None:
        raise RuntimeError("no such kernel\nmore words")

    monkeypatch.setitem(benchmark.PARTS, "rate", fails)
    assert benchmark.main(["--device", "cpu", "--small", "--scratch", str(tmp_path), "--only", "rate"]) == 1
    assert "failed: RuntimeError: no such kernel\n" in capsys.readouterr().out
    assert benchmark.main(["--device", "cpu", "--small", "--scratch", str(tmp_path), "--only", "rate", "--minutes", "0.1"]) == 1
    assert "not run: the time is up" in capsys.readouterr().out
