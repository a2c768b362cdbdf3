"""How tensors get to a device and back: at once where the device shares the memory of the host, else beside the computing.

On CUDA each direction has a stream of its own and memory that the device reads by itself (pinned): the inputs of the next pass and the
results of the last one travel while a pass computes. Boundary: knows no network and no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Landing = Callable[[], Tensor]
"""Wait until values have come to the host, and return them."""


class Transfer(Protocol):
    """Brings tensors to one device and back.

    Attributes:
        apart: the device computes by itself: passes are begun ahead of their results, and hold sets of one size.
    """

    apart: bool

    def put(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return values of the host on the device, in another precision when that is given; what is computed next can use them."""

    def fetch(self, values: Tensor) -> Landing:
        """Begin to bring values of the device to the host, when what was computed before is done."""


class Direct:
    """Copies at once, and none where the device is the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.apart = device, device.type != "cpu"

    def put(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `Transfer`."""
        return values.to(self.device, dtype or values.dtype)

    def fetch(self, values: Tensor) -> Landing:
        """See `Transfer`."""
        here = values.cpu()
        return lambda: here


@dataclass
class CopyEvents:
    """Pairs of events around each copy of a CUDA device, in the order of its stream, and the bytes copied."""

    pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    bytes: int = 0

    def seconds(self) -> float:
        """Return the seconds of all copies, once the device is idle."""
        return sum(begin.elapsed_time(end) for begin, end in self.pairs) / 1e3


class OnStreams:
    """Copies from and to pinned memory of a CUDA device, on a stream for each direction.

    Args:
        device: the device.
        events: gets events around each copy, where its time is to be known.
    """

    apart = True

    def __init__(self, device: torch.device, events: CopyEvents | None = None) -> None:
        self.device, self.events = device, events
        self._there, self._back = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def put(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `Transfer`."""
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._there):  # its own memory too: that of the other stream may still be computed with
            there = torch.empty(values.shape, dtype=values.dtype, device=self.device)
        self._copy(there, _pinned(values), self._there)
        current.wait_stream(self._there)
        there.record_stream(current)  # not given to others before it is computed with
        return there.to(dtype or values.dtype)

    def fetch(self, values: Tensor) -> Landing:
        """See `Transfer`."""
        values = values.contiguous()
        here = _pinned_empty(values)
        self._back.wait_stream(torch.cuda.current_stream(self.device))
        self._copy(here, values, self._back)
        landed = self._back.record_event()
        values.record_stream(self._back)  # not given to others before it is copied

        def wait() -> Tensor:
            landed.synchronize()
            return here

        return wait

    def _copy(self, to: Tensor, values: Tensor, stream: torch.cuda.Stream) -> None:
        with torch.cuda.stream(stream):
            if self.events is None:
                to.copy_(values, non_blocking=True)
                return
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            to.copy_(values, non_blocking=True)
            end.record(stream)
            self.events.pairs.append((begin, end))
            self.events.bytes += values.numel() * values.element_size()


def transfer_of(device: torch.device) -> Transfer:
    """Return how tensors get to a device and back."""
    return OnStreams(device) if device.type == "cuda" else Direct(device)


def _pinned(values: Tensor) -> Tensor:
    try:
        return values.pin_memory()
    except RuntimeError:  # no more memory may be pinned: the copy is slower, and the same
        return values


def _pinned_empty(like: Tensor) -> Tensor:
    try:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
    except RuntimeError:
        return torch.empty(like.shape, dtype=like.dtype)
