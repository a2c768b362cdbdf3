"""Cells of a data set through an embedding model: sentences are made in a thread while the model computes.

Notation: m cells, p positions of a sentence, h heads, t positions of the transformer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from state_engine.data.cell_sentences import SentenceMaker, Sentences
from state_engine.data.dataset import Dataset
from state_engine.errors import DeviceError
from state_engine.models.embedding import EmbeddingModel

# tokens a forward pass: what stays in the caches of one core; a GPU wants many more
TOKENS_A_PASS = {"cpu": 4096, "cuda": 131072, "mps": 16384}
MOST_WORKERS = 32
VALUES_A_BLOCK = 4_000_000
AHEAD = 2  # blocks that wait for the model
TURN = 0.1  # seconds after which a full queue is tried again


@dataclass(frozen=True, eq=False)
class Embedded:
    """Some embedded cells: `sentences` as they went in, (m, width) float32, and a (m, h, t) float32 a layer when asked for."""

    sentences: Sentences
    embedding: np.ndarray
    cls_attention: tuple[np.ndarray, ...] = ()


@dataclass
class Timing:
    """Seconds spent on sentences, and spent waiting for them."""

    sentences: float = 0.0
    waited: float = 0.0


class EmbeddingRunner:
    """Runs sentences through a loaded model.

    On a CPU every core embeds cells of its own (cores that share one pass wait for each other at every step); another device gets
    one thread, so that results are written while it computes.

    Args:
        model: prepared, in eval mode, on its device, in its precision.
        batch_size: cells a forward pass; None for the device's usual number.
        on_remark: told when a pass had to be made smaller.
    """

    def __init__(
        self, model: EmbeddingModel, batch_size: int | None = None, on_remark: Callable[[str], None] = lambda text: None
    ) -> None:
        self.model, self.on_remark = model.eval(), on_remark
        self.device = model.cls_token.device
        usual = TOKENS_A_PASS.get(self.device.type, 4096) // model.config.tokens
        self.batch_size = batch_size or max(1, usual)
        self.workers = min(torch.get_num_threads(), MOST_WORKERS) if self.device.type == "cpu" else 1

    def run(self, blocks: Iterable[Sentences], attention: bool = False) -> Iterator[Embedded]:
        """Embeds cells in their order, a forward pass at a time.

        Raises:
            DeviceError: not even one cell fits into memory.
        """
        threads = torch.get_num_threads()
        pending: deque[tuple[Sentences, Future[Embedded]]] = deque()
        pool = ThreadPoolExecutor(self.workers, "embedding", self._start_worker, (max(1, threads // self.workers),))
        try:
            for part in self._parts(blocks):
                pending.append((part, pool.submit(self._forward, part, attention)))
                if len(pending) > self.workers:
                    yield from self._result(*pending.popleft(), attention)
            while pending:
                yield from self._result(*pending.popleft(), attention)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # a worker's number becomes that of threads to come

    def _start_worker(self, threads: int) -> None:
        if self.device.type == "cpu":
            torch.set_num_threads(threads)

    def _parts(self, blocks: Iterable[Sentences]) -> Iterator[Sentences]:
        for block in blocks:
            start = 0
            while start < len(block):
                size = self.batch_size  # may shrink meanwhile
                yield block[start : start + size]
                start += size

    def _result(self, part: Sentences, future: Future[Embedded], attention: bool) -> Iterator[Embedded]:
        try:
            yield future.result()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            yield from self._in_halves(part, attention, error)

    def _in_halves(self, part: Sentences, attention: bool, error: BaseException) -> Iterator[Embedded]:
        """The cells in passes half as large, and those to come as well."""
        if len(part) == 1:
            raise DeviceError(
                f"One cell does not fit into the memory of the {self.device.type.upper()}.",
                str(error).splitlines()[0],
                "Choose bf16, or another device.",
            ) from error
        half = len(part) // 2
        if half < self.batch_size:
            self.batch_size = half
            self.on_remark(f"Out of memory: going on with {half:,} cells a pass, half as many as before.")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        for start in range(0, len(part), half):
            piece = part[start : start + half]
            try:
                made = self._forward(piece, attention)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as again:
                if not _is_lack_of_memory(again):
                    raise
                yield from self._in_halves(piece, attention, again)
            else:
                yield made

    @torch.inference_mode()
    def _forward(self, part: Sentences, attention: bool) -> Embedded:
        rows = torch.from_numpy(part.rows).to(self.device)
        counts = torch.from_numpy(part.counts).to(self.device)
        output = self.model(rows, counts, attention=attention)
        seen = tuple(layer.cpu().numpy() for layer in output.cls_attention or ())
        return Embedded(part, output.embedding.cpu().numpy(), seen)


def read_sentences(dataset: Dataset, maker: SentenceMaker, cells: np.ndarray | None, timing: Timing) -> Iterator[Sentences]:
    """Sentences of some cells (None: all) in blocks, in their order; of a block without expression only `empty` is filled."""
    assert dataset.expression is not None
    block = int(np.clip(VALUES_A_BLOCK // max(dataset.n_genes, 1), 64, 1024))
    for part, values in dataset.iter_blocks(dataset.expression, cells, block):
        start = time.perf_counter()
        made = maker.make(values, part)
        timing.sentences += time.perf_counter() - start
        yield made


def stream(dataset: Dataset, maker: SentenceMaker, timing: Timing, cells: np.ndarray | None = None) -> Iterator[Sentences]:
    """`read_sentences`, made ahead in a thread; memory of a few blocks."""
    blocks = ahead(read_sentences(dataset, maker, cells, timing))
    try:
        while True:
            start = time.perf_counter()
            block = next(blocks, None)
            timing.waited += time.perf_counter() - start
            if block is None:
                return
            yield block
    finally:
        blocks.close()


def ahead(items: Iterator[Sentences], depth: int = AHEAD) -> Generator[Sentences]:
    """The items of an iterator, made in a thread up to `depth` ahead; an error in the thread is raised here."""
    made: queue.Queue[Sentences | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Sentences | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                made.put(item, timeout=TURN)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            put(error)

    thread = threading.Thread(target=work, name="cell sentences", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _is_lack_of_memory(error: BaseException) -> bool:
    """The CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
