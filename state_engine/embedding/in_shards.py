"""An embedding in shards: each is a block of cells, in whole blocks of reading, so that its forward passes are those of an embedding in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from state_engine.checkpoints.embedding_card import embedding_id
from state_engine.checkpoints.embedding_store import LoadedEmbedding, load_embedding
from state_engine.data.cell_sentences import Sentences
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.embedding.forward import EmbeddingRunner, Timing, block_of, stream
from state_engine.embedding.request import EmbedRequest, gene_map_of, sentence_maker
from state_engine.plain import to_plain
from state_engine.shards.plan import Arrays, Plan, Recipe, Shard, Tick, Write, writing
from state_engine.versions import package_versions

STAGE = "Embedding cells"


class EmbedBench:
    """Embeds blocks of cells of one request. See `state_engine.shards.plan.Bench`.

    Args:
        request: what is embedded.
        dataset: its data set.
        loaded: its model.
    """

    def __init__(self, request: EmbedRequest, dataset: Dataset, loaded: LoadedEmbedding) -> None:
        self.dataset, self.timing, self.remarks = dataset, Timing(), list[str]()
        self.maker = sentence_maker(dataset, loaded.card, gene_map_of(dataset, loaded.card), request.seed)
        self.runner = EmbeddingRunner(loaded.module, request.batch_size, self.remarks.append, request.compile)

    def compute(self, shard: Shard, tick: Tick) -> Write:
        """See `Bench`. Cells without an embedding are NaN, and named in `empty`."""
        rows = np.arange(int(str(shard.what["first"])), int(str(shard.what["last"])))
        values = np.full((len(rows), self.runner.model.config.width), np.nan, np.float32)
        empty, negative, finished, before = list[int](), 0, 0, len(self.remarks)

        def noted() -> Iterator[Sentences]:
            nonlocal negative, finished
            for block in stream(self.dataset, self.maker, self.timing, rows):
                empty.extend(block.empty.tolist())
                negative += block.negative
                finished += len(block.empty)
                yield block

        for part in self.runner.run(noted()):
            values[part.sentences.cells - rows[0]] = part.embedding
            finished += len(part.sentences)
            tick(finished)
        arrays: Arrays = {"embedding": values, "empty": np.array(empty, np.int64), "negative": np.array([negative], np.int64)}
        return writing(arrays, tuple(self.remarks[before:]))


def open_bench(request: EmbedRequest) -> EmbedBench:
    """Return a bench of a request in a process of its own."""
    device = choose_device(request.device).kind
    loaded = load_embedding(Path(request.model), device, dtype_of(request.precision), request.checkpoint)
    return EmbedBench(request, open_dataset(Path(request.data), request.choices), loaded)


def plan_of(request: EmbedRequest, dataset: Dataset, loaded: LoadedEmbedding, device: str, size: int) -> Plan:
    """Return the shards of an embedding.

    Args:
        request: what is embedded.
        dataset: its data set.
        loaded: its model.
        device: name of the device.
        size: bytes of a shard, about.
    """
    import torch

    width, block = 4 * loaded.card.width, block_of(dataset)
    rows = max(1, size // width // block) * block
    starts = range(0, dataset.n_cells, rows)
    ends = [min(first + rows, dataset.n_cells) for first in starts]
    shards = tuple(
        Shard(number, {"first": first, "last": last}, last - first, (last - first) * width)
        for number, (first, last) in enumerate(zip(starts, ends, strict=True))
    )
    facts = {
        "request": to_plain(request), "data": dataset.hash(), "model": embedding_id(loaded.card), "device": device,
        "versions": package_versions(),
    }  # fmt: skip
    merged = dataset.n_cells * width
    recipe = Recipe(open_bench, request)
    return Plan("embed", STAGE, recipe, shards, facts, torch.get_num_threads(), merged, request.device)
