"""What torch compiles gives the same numbers; a compiler that fails is told, and the work goes on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.models.compiled import Compiled
from state_engine.prediction import forward
from state_engine.prediction.predict import predict
from tests.prediction.test_in_shards import asked, same
from tests.slow_device import SlowDevice, installed


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are traced as for compiling, and then run by torch itself: no compiler is needed."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDevice]:
    monkeypatch.setattr(forward, "CELLS_A_PASS", {"cpu": 24})
    device = installed(monkeypatch, SlowDevice())
    yield device
    device.close()


@pytest.mark.slow  # torch takes a while to import what traces
def test_a_prediction_has_the_same_numbers(traced: None, device: SlowDevice, tmp_path: Path) -> None:
    request = asked(tmp_path)
    predict(request, tmp_path / "usual.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracing
        summary = predict(replace(request, compile=True), tmp_path / "compiled.h5ad")
    assert not [remark for remark in summary.remarks if "compiled" in remark]
    usual, compiled = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("usual", "compiled"))
    np.testing.assert_allclose(compiled.X, usual.X, rtol=1e-5, atol=1e-6)


def test_a_compiler_that_fails_is_told_and_the_prediction_goes_on(
    device: SlowDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def compile(function: object, dynamic: bool) -> object:
        def fails(*given: object, **named: object) -> object:
            raise RuntimeError("Cannot find a working triton installation.\nMore lines.")

        return fails

    request = asked(tmp_path, compile=True)
    monkeypatch.setattr(torch, "compile", compile)
    summary = predict(request, tmp_path / "fallen.h5ad")
    told = [remark for remark in summary.remarks if "compiled" in remark]
    assert told == ["The network could not be compiled, and computes as it is: Cannot find a working triton installation."]
    predict(replace(request, compile=False), tmp_path / "usual.h5ad")
    fallen, plain = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("fallen", "usual"))
    assert np.array_equal(fallen.X, plain.X)


def test_memory_and_errors_of_the_function_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    remarks: list[str] = []

    def full(x: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def wrong(x: int) -> int:
        raise ValueError("shapes differ")

    with pytest.raises(torch.OutOfMemoryError):
        Compiled(full, remarks.append)(1)
    with pytest.raises(ValueError, match="shapes differ"):
        Compiled(wrong, remarks.append)(1)
    assert not remarks


def test_on_a_cpu_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(torch, "compile")
    request = asked(tmp_path)
    predict(request, tmp_path / "one.h5ad")
    predict(replace(request, compile=True), tmp_path / "other.h5ad")
    one, other = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("one", "other"))
    assert np.array_equal(one.X, other.X) and not same(
        tmp_path / "one.h5ad", tmp_path / "other.h5ad"
    )  # its manifest names the option
