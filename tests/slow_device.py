"""A device apart that is this CPU: copies take a moment, and what begins and ends is noted in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from state_engine.embedding import forward as embedding_forward
from state_engine.prediction import forward as prediction_forward

PATIENCE = 60.0  # seconds until what should come is given up


class Events:
    """What happened, in order; `wait` holds a thread until something has happened so many times."""

    def __init__(self) -> None:
        self.order: list[tuple[str, int]] = []
        self._changed = threading.Condition()

    def note(self, what: str) -> int:
        """Note that something happened; return how often it had before."""
        with self._changed:
            number = self._count(what)
            self.order.append((what, number))
            self._changed.notify_all()
            return number

    def wait(self, what: str, times: int) -> None:
        """Wait until it has happened so many times; an `AssertionError` when it does not."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._count(what) >= times, PATIENCE)
            assert came, f"'{what}' happened {self._count(what)} times, {times} were waited for"

    def count(self, what: str) -> int:
        """Return how often something happened."""
        with self._changed:
            return self._count(what)

    def at(self, what: str, number: int) -> int:
        """Return the place of an event in the order."""
        return self.order.index((what, number))

    def _count(self, what: str) -> int:
        return sum(name == what for name, _ in self.order)


class SlowDevice:
    """See `state_engine.models.transfer.Transfer`.

    Args:
        seconds: of each copy.
        room: rows that fit into its memory at once.
    """

    apart = True

    def __init__(self, seconds: float = 0.0, room: int = 1 << 30) -> None:
        self.seconds, self.room, self.events = seconds, room, Events()
        self._engine = ThreadPoolExecutor(1, "copy engine")

    def put(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Copy to the device, slowly."""
        if len(values) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        time.sleep(self.seconds)
        self.events.note("put")
        return values.to(dtype or values.dtype, copy=True)

    def fetch(self, values: Tensor) -> Callable[[], Tensor]:
        """Begin to copy back, slowly."""

        def copy() -> Tensor:
            time.sleep(self.seconds)
            self.events.note("landed")
            return values.clone()

        return self._engine.submit(copy).result

    def close(self) -> None:
        """End its thread."""
        self._engine.shutdown()


def installed(monkeypatch: pytest.MonkeyPatch, device: SlowDevice) -> SlowDevice:
    """Have every runner take it for its device."""
    for module in (prediction_forward, embedding_forward):
        monkeypatch.setattr(module, "transfer_of", lambda _: device)
    return device
