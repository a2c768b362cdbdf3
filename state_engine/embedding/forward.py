"""Cells of a data set through an embedding model: sentences are made in a thread while the model computes.

Notation: m cells, p positions of a sentence, h heads, t positions of the transformer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from state_engine.data.ahead import Ahead
from state_engine.data.cell_sentences import SentenceMaker, Sentences
from state_engine.data.dataset import Dataset
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.pass_size import PassSize

# tokens a forward pass: what stays in the caches of one core; a GPU wants many more
TOKENS_A_PASS = {"cpu": 4096, "cuda": 131072, "mps": 16384}
MOST_WORKERS = 32
VALUES_A_BLOCK = 4_000_000


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
        self.model = model.eval()
        self.device = model.cls_token.device
        usual = TOKENS_A_PASS.get(self.device.type, 4096) // model.config.tokens
        self.passes = PassSize(batch_size or usual, self.device, on_remark)
        self.workers = min(torch.get_num_threads(), MOST_WORKERS) if self.device.type == "cpu" else 1

    @property
    def batch_size(self) -> int:
        """Cells in a forward pass."""
        return self.passes.cells

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
        """The cells of a pass; when they did not fit into memory, in passes half as large."""
        result = self._attempt(part, future.result)
        yield from [result] if result is not None else self._in_halves(part, attention)

    def _in_halves(self, part: Sentences, attention: bool) -> Iterator[Embedded]:
        half = len(part) // 2
        for start in range(0, len(part), half):
            piece = part[start : start + half]
            result = self._attempt(piece, partial(self._forward, piece, attention))
            yield from [result] if result is not None else self._in_halves(piece, attention)

    def _attempt(self, part: Sentences, run: Callable[[], Embedded]) -> Embedded | None:
        whole = "One cell" if len(part) == 1 else ""
        return self.passes.attempt(run, len(part), whole, "Choose bf16, or another device.")

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
    with Ahead(read_sentences(dataset, maker, cells, timing), name="cell sentences") as blocks:
        for block in blocks:
            timing.waited = blocks.waited_first + blocks.waited
            yield block
