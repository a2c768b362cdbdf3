"""Passes come in order; one that does not fit into memory is halved; one that cannot be cut is an error that says what to do."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest
import torch

from state_engine.errors import DeviceError
from state_engine.models.passes import Passes

CPU = torch.device("cpu")
CPU_TEXT = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
ERRORS = [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError(CPU_TEXT)]


def limited(room: int, error: Exception) -> Callable[[range], list[int]]:
    """A pass that has room for a few cells."""

    def forward(part: range) -> list[int]:
        if len(part) > room:
            raise error
        return list(part)

    return forward


def together(passes: Passes, forward: Callable[[range], list[int]], cells: int, known: bool = False) -> list[int]:
    parts = passes.run(forward, passes.cut(range(cells)), cells if known else None)
    return [cell for part in parts for cell in part]


@pytest.mark.parametrize("known", [False, True])
def test_passes_come_in_order_on_all_cores(known: bool) -> None:
    before, names = torch.get_num_threads(), set[str]()

    def forward(part: range) -> list[int]:
        names.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1
        return list(part)

    torch.set_num_threads(2)
    try:
        passes = Passes(7, CPU)
        assert passes.workers == 2
        assert together(passes, forward, 100, known) == list(range(100))
        assert torch.get_num_threads() == 2 and all(name.startswith("passes") for name in names)
    finally:
        torch.set_num_threads(before)


def test_the_cores_share_a_single_pass() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        made = Passes(64, CPU).run(lambda part: seen.append(torch.get_num_threads()), [range(60)], 60)
        assert list(made) == [None] and seen == [2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("known", [False, True])
def test_a_pass_is_halved_and_reported_once(error: Exception, known: bool) -> None:
    remarks: list[str] = []
    passes = Passes(60, CPU, remarks.append)
    assert together(passes, limited(30, error), 300, known) == list(range(300))
    assert passes.cells == 30
    assert remarks == ["Out of memory: going on with 30 cells a pass, half as many as before."]


def test_a_pass_that_cannot_be_cut_is_an_error() -> None:
    passes = Passes(4, CPU, one="One set of {cells} cells", fix="Choose a smaller set.", size=lambda part: 512 * len(part))
    with pytest.raises(DeviceError, match=r"One set of 512 cells does not fit into the memory of the CPU") as caught:
        list(passes.run(limited(0, RuntimeError(CPU_TEXT)), [range(1)]))
    assert caught.value.fix == "Choose a smaller set."


def test_other_errors_are_not_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(Passes(4, CPU).run(limited(0, RuntimeError("shapes differ")), [range(4)]))


class Tensors:
    """Something large that lies in a variable of a pass."""


@pytest.mark.parametrize("apart", [False, True])
def test_what_a_failed_pass_held_is_given_back_before_its_halves_are_computed(apart: bool) -> None:
    held: list[weakref.ref[Tensors]] = []
    passes = Passes(8, CPU, apart=apart)

    def forward(part: range) -> list[int]:
        assert not any(reference() for reference in held)
        if len(part) > 4:
            large = Tensors()
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(part)

    assert together(passes, forward, 8) == list(range(8)) and len(held) == 1


def test_a_device_apart_begins_the_next_pass_while_a_result_is_waited_for() -> None:
    begun = [threading.Event() for _ in range(4)]

    def begin(part: range) -> Callable[[], int]:
        begun[part[0]].set()

        def wait() -> int:
            following = begun[min(part[0] + 1, 3)]
            assert following.wait(60)  # without it this result would never come
            return part[0]

        return wait

    passes = Passes(1, CPU, apart=True)
    assert list(passes.run_begun(begin, passes.cut(range(4)))) == [0, 1, 2, 3]


def test_out_of_memory_while_waiting_for_a_result_halves_the_pass_too() -> None:
    remarks: list[str] = []
    passes = Passes(8, CPU, remarks.append, apart=True)
    found = passes.run_begun(lambda part: lambda: limited(2, ERRORS[0])(part), passes.cut(range(16)))
    assert [cell for part in found for cell in part] == list(range(16)) and passes.cells == 2 and len(remarks) == 2
