"""Cells of a data set through an embedding model: sentences are made in a thread while the model computes.

Notation: m cells, p positions of a sentence, h heads, t positions of the transformer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from state_engine.data.cell_sentences import SentenceMaker, Sentences
from state_engine.data.dataset import Dataset
from state_engine.errors import DeviceError
from state_engine.models.embedding import EmbeddingModel

# tokens a forward pass: where a CPU's caches still help; a GPU wants many more
TOKENS_A_PASS = {"cpu": 8192, "cuda": 131072, "mps": 16384}
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
        usual = TOKENS_A_PASS.get(self.device.type, 8192) // model.config.tokens
        self.batch_size = batch_size or max(1, usual)

    def run(self, sentences: Sentences, attention: bool = False) -> Iterator[Embedded]:
        """Embeds cells in their order, a forward pass at a time.

        Raises:
            DeviceError: not even one cell fits into memory.
        """
        start = 0
        while start < len(sentences):
            part = sentences[start : start + self.batch_size]
            made = self._try(part, attention)
            if made is not None:
                start += len(part)
                yield made

    def _try(self, part: Sentences, attention: bool) -> Embedded | None:
        """The cells, or None after the pass was made smaller for lack of memory."""
        try:
            return self._forward(part, attention)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            if len(part) == 1:
                raise DeviceError(
                    f"One cell does not fit into the memory of the {self.device.type.upper()}.",
                    str(error).splitlines()[0],
                    "Choose bf16, or another device.",
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_size = max(1, len(part) // 2)
        self.on_remark(f"Out of memory: going on with {self.batch_size:,} cells a pass, half as many as before.")
        return None

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
