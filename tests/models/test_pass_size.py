"""A pass that does not fit into memory is halved; one that cannot be cut is an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from state_engine.errors import DeviceError
from state_engine.models.pass_size import PassSize

CPU_TEXT = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def failing(error: Exception) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError(CPU_TEXT)])
def test_a_pass_is_halved_and_reported_once(error: Exception) -> None:
    remarks: list[str] = []
    passes = PassSize(100, torch.device("cpu"), remarks.append)
    assert passes.attempt(lambda: 7, 100) == 7 and passes.cells == 100
    assert passes.attempt(failing(error), 60) is None and passes.cells == 30
    assert passes.attempt(failing(error), 60) is None and passes.cells == 30
    assert remarks == ["Out of memory: going on with 30 cells a pass, half as many as before."]


def test_a_pass_that_cannot_be_cut_is_an_error() -> None:
    passes = PassSize(4, torch.device("cpu"))
    with pytest.raises(DeviceError, match=r"One set of 512 cells does not fit into the memory of the CPU") as caught:
        passes.attempt(failing(RuntimeError(CPU_TEXT)), 512, "One set of 512 cells", "Choose a smaller set.")
    assert caught.value.fix == "Choose a smaller set."


def test_other_errors_are_not_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        PassSize(4, torch.device("cpu")).attempt(failing(RuntimeError("shapes differ")), 4)
