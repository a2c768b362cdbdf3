"""Forward passes over many cells: how many cells each has, on which threads it runs, and what happens when memory runs out.

Boundary: knows no network; what a pass computes is a function of the caller.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch

from state_engine.errors import DeviceError, ModelError

MOST_WORKERS = 32


class Part(Protocol):
    """What goes through a pass: cells or sets of cells, which can be cut into fewer."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> Self: ...


P = TypeVar("P", bound=Part)
R = TypeVar("R")
Begin = Callable[[P], Callable[[], R]]


class Passes(Generic[P]):
    """Run forward passes, in order; a pass that does not fit into memory is cut in half, and so are those to come.

    On a CPU each core computes passes of its own, because cores that share a pass wait for each other at every step. A device apart
    gets one thread that begins passes, so that the next one is under way while results of the last one travel and are written.

    Args:
        cells: in a pass, to start with.
        device: where the network is.
        on_remark: told when passes become smaller.
        one: words for a part of length 1, which cannot be cut; "{cells}" in it is replaced by the number of its cells.
        fix: advice when even that does not fit.
        size: the number of cells in a part.
        apart: the device computes by itself (`transfer.Transfer.apart`); None: it is no CPU.
    """

    def __init__(
        self,
        cells: int,
        device: torch.device,
        on_remark: Callable[[str], None] = lambda text: None,
        one: str = "One cell",
        fix: str = "Choose bf16, or another device.",
        size: Callable[[P], int] = len,
        apart: bool | None = None,
    ) -> None:
        self.cells, self.device, self.on_remark = max(1, cells), device, on_remark
        self.one, self.fix, self.size = one, fix, size
        self.apart = device.type != "cpu" if apart is None else apart
        self.workers = 1 if self.apart else min(torch.get_num_threads(), MOST_WORKERS)

    def cut(self, block: P) -> Iterator[P]:
        """Yield pieces of as many cells as a pass has; the number may shrink meanwhile."""
        start = 0
        while start < len(block):
            size = self.cells
            yield block[start : start + size]
            start += size

    def run(self, forward: Callable[[P], R], parts: Iterable[P], cells: int | None = None) -> Generator[R, None, None]:
        """Compute passes whose results are there at once; see `run_begun`."""

        def begin(part: P) -> Callable[[], R]:
            result = forward(part)
            return lambda: result

        return self.run_begun(begin, parts, cells)

    def run_begun(self, begin: Begin[P, R], parts: Iterable[P], cells: int | None = None) -> Generator[R, None, None]:
        """Begin passes ahead of their results, and yield these in order; threads end when all were taken, or it is closed.

        Args:
            begin: begins a pass; what it returns waits for the result. On a CPU both run in one thread after the other.
            parts: asked for one by one, so they can follow `cells` when it shrinks.
            cells: in all parts together, when that is known: the cores share passes that are fewer than themselves.

        Raises:
            DeviceError: out of memory, and the pass cannot be cut any further.
        """
        threads = torch.get_num_threads()
        workers = self.workers if cells is None else max(1, min(self.workers, cells // self.cells))
        if workers == 1 and not self.apart:
            for part in parts:
                yield from self._results(begin, part)
            return
        task = begin if self.apart else partial(_to_its_end, begin)
        start = (lambda share: None) if self.apart else torch.set_num_threads
        pool = ThreadPoolExecutor(workers, "passes", start, (max(1, threads // workers),))
        pending: deque[tuple[P, Future[Callable[[], R]]]] = deque()
        try:
            for part in parts:
                pending.append((part, pool.submit(task, part)))
                if len(pending) > workers:
                    yield from self._results(begin, *pending.popleft())
            while pending:
                yield from self._results(begin, *pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # a worker's number becomes that of threads to come

    def _results(self, begin: Begin[P, R], part: P, begun: Future[Callable[[], R]] | None = None) -> Iterator[R]:
        """The result of a pass, or those of its halves when it ran out of memory."""
        try:
            result = (begin(part) if begun is None else begun.result())()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            # the allocator of the CPU raises a plain RuntimeError
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
                raise
            cells = self.size(part)
            if len(part) == 1:
                one = self.one.format(cells=cells)
                what = f"{one} does not fit into the memory of the {self.device.type.upper()}."
                raise DeviceError(what, str(error).partition("\n")[0], self.fix) from error
            traceback.clear_frames(error.__traceback__)  # tensors of the pass that failed lie in them
        else:
            yield result
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if cells // 2 < self.cells:  # passes that were under way with the old number fail too; one remark is enough
            self.cells = max(1, cells // 2)
            self.on_remark(f"Out of memory: going on with {self.cells:,} cells a pass, half as many as before.")
        half = len(part) // 2
        for piece in (part[:half], part[half:]):
            yield from self._results(begin, piece)


def _to_its_end(begin: Begin[P, R], part: P) -> Callable[[], R]:
    result = begin(part)()
    return lambda: result


def require_finite(values: np.ndarray, what: str) -> np.ndarray:
    """Return what a model computed.

    Args:
        values: (cells, features).
        what: what the model does, "predicts values" or "gives embeddings", for the message.

    Raises:
        ModelError: a value is NaN or infinite.
    """
    if math.isfinite(values.sum(dtype=np.float64)):  # one sum: a mask would be a quarter as large as the values
        return values
    bad = int((~np.isfinite(values)).any(1).sum())
    raise ModelError(
        f"The model {what} that are not finite (NaN or infinite).",
        f"{bad:,} of {len(values):,} cells of a pass have them: its weights are no numbers, or too large for its precision.",
        "Compute in fp32, or download or convert the model again.",
    )
