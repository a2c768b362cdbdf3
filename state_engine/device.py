"""Choose device and precision: explicit, reported, never changed in silence. Imports torch only when a function is called."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from state_engine.errors import DeviceError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]
DEVICE_NAMES: tuple[str, ...] = get_args(DeviceName)
PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class Device:
    """A device of this machine. `kind` is cpu, cuda or mps; `name` is for people; `memory` is in bytes (0: unknown)."""

    kind: str
    name: str
    memory: int

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        import torch

        return torch.device(self.kind)


def choose_device(wanted: str = "auto") -> Device:
    """Return the device to compute on.

    Args:
        wanted: "auto" takes CUDA, then MPS, then the CPU; any other name must be present.

    Raises:
        DeviceError: the name is not one of `DEVICE_NAMES`, or that device is not there.
    """
    import torch

    if wanted not in DEVICE_NAMES:
        raise DeviceError(f"There is no device called '{wanted}'.", f"Known: {', '.join(DEVICE_NAMES)}.", "Choose one.")
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(k for k in ("cuda", "mps", "cpu") if has[k]) if wanted == "auto" else wanted
    if not has[kind]:
        raise DeviceError(f"This machine has no {kind.upper()} device.", "PyTorch does not see one.", "Choose 'auto'.")
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return Device("cuda", properties.name, properties.total_memory)
    label = "Apple GPU" if kind == "mps" else f"CPU, {os.cpu_count()} cores"
    # Linux and macOS answer this without psutil, whose import would be a thirtieth of a small prediction
    return Device(kind, label, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def start_compiled_threads() -> None:
    """Start the threads of compiled loops (numba) so that no other number of threads changes; call it before the first loop.

    Numba's OpenMP layer sets the number of the thread that starts it, which is torch's number too: sums are then taken in another
    order, and a training after an evaluation would differ in its last bits. A short thread of its own takes that number with it.
    """
    import numba

    starter = threading.Thread(target=numba.get_num_threads)
    starter.start()
    starter.join()


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Compute with so many threads inside the block: the last bits of a sum depend on it. 0: as it is."""
    import torch

    before = torch.get_num_threads()
    if threads in (0, before):
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch dtype of a precision name.

    Raises:
        DeviceError: the name is not one of `PRECISIONS`.
    """
    import torch

    if precision not in PRECISIONS:
        raise DeviceError(f"There is no precision '{precision}'.", f"Known: {', '.join(PRECISIONS)}.", "Choose one.")
    return torch.bfloat16 if precision == "bf16" else torch.float32
