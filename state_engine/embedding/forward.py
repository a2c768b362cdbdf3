"""Cells of a data set through an embedding model: sentences are made in a thread while the model computes.

Notation: m cells, p positions of a sentence, h heads, t positions of the transformer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from state_engine.data.ahead import Ahead
from state_engine.data.cell_sentences import SentenceMaker, Sentences
from state_engine.data.dataset import Dataset
from state_engine.models.compiled import Compiled
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.passes import Passes, require_finite
from state_engine.models.transfer import transfer_of

# tokens a forward pass: what stays in the caches of one core; a GPU wants many more
TOKENS_A_PASS = {"cpu": 4096, "cuda": 131072, "mps": 16384}
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
    """Run sentences through a loaded model.

    Args:
        model: prepared, in eval mode, on its device, in its precision.
        batch_size: cells a forward pass; None for the device's usual number.
        on_remark: told when a pass had to be made smaller, and when the network is not compiled.
        compile: have torch compile the network, on a device apart.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        batch_size: int | None = None,
        on_remark: Callable[[str], None] = lambda text: None,
        compile: bool = False,
    ) -> None:
        self.model = model.eval()
        self.device = model.cls_token.device
        usual = TOKENS_A_PASS.get(self.device.type, 4096) // model.config.tokens
        self.transfer = transfer_of(self.device)
        self._network = Compiled(model.__call__, on_remark) if compile and self.transfer.apart else model
        self.passes: Passes[Sentences] = Passes(batch_size or usual, self.device, on_remark, apart=self.transfer.apart)

    @property
    def batch_size(self) -> int:
        """Cells in a forward pass."""
        return self.passes.cells

    def run(self, blocks: Iterable[Sentences], attention: bool = False) -> Generator[Embedded, None, None]:
        """Embed cells in their order, one forward pass at a time.

        Raises:
            DeviceError: not even one cell fits into memory.
        """
        parts = (part for block in blocks for part in self.passes.cut(block))
        return self.passes.run_begun(partial(self._forward, attention=attention), parts)

    @torch.inference_mode()
    def _forward(self, part: Sentences, attention: bool) -> Callable[[], Embedded]:
        """Begin a pass; what is returned waits for its result."""
        rows, counts = (self.transfer.put(torch.from_numpy(values)) for values in (part.rows, part.counts))
        output = self._network(rows, counts, attention=attention)
        embedding = self.transfer.fetch(output.embedding)
        seen = [self.transfer.fetch(layer) for layer in output.cls_attention or ()]

        def wait() -> Embedded:
            values = require_finite(embedding().numpy(), "gives embeddings")
            return Embedded(part, values, tuple(layer().numpy() for layer in seen))

        return wait


def block_of(dataset: Dataset) -> int:
    """Return the cells of a block: the more genes, the fewer, so that a block takes about the same memory."""
    return int(np.clip(VALUES_A_BLOCK // max(dataset.n_genes, 1), 64, 1024))


def read_sentences(dataset: Dataset, maker: SentenceMaker, cells: np.ndarray | None, timing: Timing) -> Iterator[Sentences]:
    """Yield sentences of some cells (None: all) in blocks, in their order; of a block without expression only `empty` is filled."""
    assert dataset.expression is not None
    for part, values in dataset.iter_blocks(dataset.expression, cells, block_of(dataset)):
        start = time.perf_counter()
        made = maker.make(values, part)
        timing.sentences += time.perf_counter() - start
        yield made


def stream(dataset: Dataset, maker: SentenceMaker, timing: Timing, cells: np.ndarray | None = None) -> Iterator[Sentences]:
    """Do `read_sentences` ahead in a thread; memory of a few blocks."""
    with Ahead(read_sentences(dataset, maker, cells, timing), name="cell sentences") as blocks:
        for block in blocks:
            timing.waited = blocks.waited_first + blocks.waited
            yield block
