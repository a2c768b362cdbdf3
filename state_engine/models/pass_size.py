"""How many cells go through a network at once, and what happens when they do not fit into memory.

Boundary: knows no network; what a pass computes is a function of the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from state_engine.errors import DeviceError

T = TypeVar("T")


class PassSize:
    """The number of cells in one forward pass; it is halved when a pass needs more memory than there is.

    Args:
        cells: the number to start with.
        device: where the network is.
        on_remark: told about each halving.
    """

    def __init__(self, cells: int, device: torch.device, on_remark: Callable[[str], None] = lambda text: None) -> None:
        self.cells, self.device, self.on_remark = max(1, cells), device, on_remark

    def attempt(self, run: Callable[[], T], cells: int, whole: str = "", fix: str = "") -> T | None:
        """Return the result of a pass, or None when it ran out of memory and has to be cut into smaller ones.

        Args:
            run: the pass.
            cells: cells in it.
            whole: what the pass consists of ("One cell") when it cannot be cut any further, else empty.
            fix: advice for that case.

        Raises:
            DeviceError: out of memory, and the pass cannot be cut any further.
        """
        try:
            return run()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            # the allocator of the CPU raises a plain RuntimeError
            lacks = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
            if not lacks:
                raise
            if whole:
                what = f"{whole} does not fit into the memory of the {self.device.type.upper()}."
                raise DeviceError(what, str(error).partition("\n")[0], fix) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = max(1, cells // 2)
        if half < self.cells:  # passes that were under way with the old number fail too; one remark is enough
            self.cells = half
            self.on_remark(f"Out of memory: going on with {half:,} cells a pass, half as many as before.")
        return None
