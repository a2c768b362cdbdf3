"""Embed the cells of a data set with a State Embedding model: from disk to disk, with memory that does not grow with the cells.

Every cell's embedding depends on the cell, the model and the seed alone: not on the batch size, nor on the other cells.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.checkpoints.embedding_store import LoadedEmbedding, load_embedding
from state_engine.data.behind import Behind
from state_engine.data.cell_sentences import Sentences
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.embedding_record import EMBEDDINGS, EmbeddingFacts, stored_records
from state_engine.data.files.npy import NpyRows
from state_engine.data.files.replaced_copy import ReplacedCopy
from state_engine.data.gene_vocabulary import GeneMap
from state_engine.device import choose_device, dtype_of
from state_engine.embedding.forward import EmbeddingRunner, Timing, stream
from state_engine.embedding.in_shards import EmbedBench, plan_of
from state_engine.embedding.request import EmbedRequest, EmbedSummary, check_output, gene_map_of, sentence_maker
from state_engine.files import replacing, write_json
from state_engine.progress import OnProgress, Progress, silent
from state_engine.shards.ledger import Ledger, held
from state_engine.shards.run import InShards, arrays_in_order, complete
from state_engine.versions import package_versions

__all__ = ["EmbedRequest", "EmbedSummary", "embed"]

_Rows = tuple[np.ndarray, np.ndarray]  # numbers of cells, and their embedding


class _Writer(Protocol):
    """Take rows in any order."""

    def write(self, cells: np.ndarray, values: np.ndarray) -> None: ...


@dataclass
class _Done:
    """What happened while embedding."""

    empty: list[int]
    remarks: list[str]
    negative: int = 0


def embed(
    request: EmbedRequest,
    output: Path,
    on_progress: OnProgress = silent,
    loaded: LoadedEmbedding | None = None,
    shards: InShards | None = None,
) -> EmbedSummary:
    """Embed a data set.

    Args:
        request: what to embed.
        output: a copy of the data set with the embedding in obsm (.h5ad), or the embedding alone (.npy, with a .json beside that
            says how it was made); it appears only when complete. It may be the data set itself.
        on_progress: called once a forward pass; may raise `JobCancelled`.
        loaded: the model of the request when it is in memory already.
        shards: work in shards, so that an interrupted embedding goes on; None: in one piece. It changes no number.

    Raises:
        DataError, ModelError, RequestError, DeviceError: what each says.
    """
    check_output(output, request.model)
    dataset = open_dataset(Path(request.data), request.choices)
    device = choose_device(request.device)
    device_name = shards.executor.device_name(request.device) if shards is not None else device.name
    if loaded is None:
        on_progress(Progress("Loading the model"))
        loaded = load_embedding(Path(request.model), device.kind, dtype_of(request.precision), request.checkpoint)
    card, genes = loaded.card, gene_map_of(dataset, loaded.card)
    maker = sentence_maker(dataset, card, genes, request.seed)
    done = _Done([], [genes.warning] if genes.warning else [])
    for remark in done.remarks:
        on_progress(Progress("Embedding cells", 0, dataset.n_cells, remark))

    def note(text: str) -> None:
        done.remarks.append(text)
        on_progress(Progress("Embedding cells", message=text))

    runner = EmbeddingRunner(loaded.module, request.batch_size, note, request.compile)
    timing, start = Timing(), time.perf_counter()
    on_progress(Progress("Reading the data set"))
    record = _record(request, dataset, card, genes, device_name)
    plan = plan_of(request, dataset, loaded, device_name, shards.size) if shards is not None else None
    if shards is not None and plan is not None and len(plan.shards) > 1:
        bench = EmbedBench(request, dataset, loaded)
        timing = bench.timing
        with held(shards.folder, plan, temporary=shards.temporary) as ledger:
            complete(ledger, shards.executor, on_progress, bench)
            with _writer(dataset, output, request.key, card.width, record) as writer:
                _put_together(ledger, writer, done, on_progress)
            ledger.clear()
    else:
        with _writer(dataset, output, request.key, card.width, record) as writer:
            _run(dataset, stream(dataset, maker, timing), runner, writer, done, on_progress)
    if done.empty:
        names = ", ".join(str(name) for name in dataset.obs_names[done.empty[:3]])
        done.remarks.append(
            f"{len(done.empty):,} of {dataset.n_cells:,} cells express no gene that the model knows and have no embedding (NaN), "
            f"such as {names}."
        )
    if done.negative:
        done.remarks.append(f"{done.negative:,} values below 0 were taken as 0.")
    seconds = time.perf_counter() - start
    return EmbedSummary(
        dataset.n_cells, len(done.empty), card.width, card.cell_width, f"{genes.numbers}. {genes.how}", genes.overlap, maker.scale,
        runner.batch_size, device_name, seconds, timing.sentences, timing.waited, tuple(done.remarks),
    )  # fmt: skip


def _run(
    dataset: Dataset,
    blocks: Iterator[Sentences],
    runner: EmbeddingRunner,
    writer: _Writer,
    done: _Done,
    on_progress: OnProgress,
) -> None:
    finished = 0
    width = runner.model.config.width

    def noted() -> Iterator[Sentences]:
        nonlocal finished
        for block in blocks:
            done.empty += block.empty.tolist()
            done.negative += block.negative
            finished += len(block.empty)
            behind.put((block.empty, np.full((len(block.empty), width), np.nan, np.float32)))
            yield block

    with closing(runner.run(noted())) as parts, Behind[_Rows](lambda rows: writer.write(*rows), name="embedding") as behind:
        for part in parts:
            behind.put((part.sentences.cells, part.embedding))
            finished += len(part.sentences)
            on_progress(Progress("Embedding cells", finished, dataset.n_cells))


def _put_together(ledger: Ledger, writer: _Writer, done: _Done, on_progress: OnProgress) -> None:
    total = len(ledger.plan.shards)
    with Behind[_Rows](lambda rows: writer.write(*rows), name="embedding") as behind:
        for number, (shard, (arrays, remarks)) in enumerate(zip(ledger.plan.shards, arrays_in_order(ledger), strict=True)):
            on_progress(Progress("Putting the parts together", number, total))
            behind.put((np.arange(int(str(shard.what["first"])), int(str(shard.what["last"]))), arrays["embedding"]))
            done.empty += arrays["empty"].tolist()
            done.negative += int(arrays["negative"][0])
            done.remarks += [remark for remark in remarks if remark not in done.remarks]


def _record(request: EmbedRequest, dataset: Dataset, card: EmbeddingCard, genes: GeneMap, device: str) -> dict[str, object]:
    """What the file says about its embedding: enough to make it again, and to know what it can be compared with."""
    facts = EmbeddingFacts(
        model=card.weights_hash,
        model_name=card.name,
        vocabulary=card.vocabulary_hash,
        data_hash=dataset.hash(),
        cell_width=card.cell_width,
        scale=dataset.scale.require(),
        seed=request.seed,
        simulated=card.simulated,
    )
    more = {
        "genes": genes.numbers,
        "how": genes.how,
        "scale_by": dataset.scale.by,
        "expression": dataset.expression,
        "precision": request.precision,
        "device": device,
        "versions": package_versions(),
    }
    return {**asdict(facts), **more}


@contextmanager
def _writer(dataset: Dataset, output: Path, key: str, width: int, record: Mapping[str, object]) -> Iterator[_Writer]:
    """The open output; it appears under its name when the block ends well."""
    with replacing(output) as beside:
        if output.suffix == ".npy":
            with beside.open("wb") as file:
                yield NpyRows(file, dataset.n_cells, width)
        else:
            records = {**stored_records(dataset.path), key: record}
            place = f"obsm/{key}"
            with ReplacedCopy(dataset.path, beside, {place: width}, dataset.n_cells, (EMBEDDINGS, records)) as copy:
                yield _Matrix(copy, place)
    if output.suffix == ".npy":
        write_json(output.with_suffix(".json"), {"key": key, **record})


class _Matrix:
    """One matrix of a copied data set."""

    def __init__(self, copy: ReplacedCopy, place: str) -> None:
        self.copy, self.place = copy, place

    def write(self, cells: np.ndarray, values: np.ndarray) -> None:
        self.copy.write(self.place, cells, values)
