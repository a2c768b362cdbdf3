"""A prediction in shards: each is some perturbations of one part of a context's basal cells.

A shard has the numbers that it has in a prediction in one piece: basal cells are drawn by context before anything is predicted, and what is
predicted of a part depends on the part and the perturbation alone (`Source`).

Notation: b blocks of a shard, m cells of all its blocks, g genes, e width of an embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from state_engine.checkpoints.card import model_id
from state_engine.checkpoints.load import card_of, load_model
from state_engine.data.dataset import open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.effects.store import effects_hash
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result_writer import size_of
from state_engine.prediction.sources import STAGE, Part, PredictedBlock, Source, parts_of
from state_engine.prediction.start import Start, source_of, start
from state_engine.progress import OnProgress, Progress, silent
from state_engine.shards.ledger import Ledger, held
from state_engine.shards.plan import Arrays, Plan, Recipe, Shard, Tick, Write, writing
from state_engine.shards.run import InShards, arrays_in_order, complete
from state_engine.versions import package_versions

FACTS: Final = 1  # of how a shard is computed: change it, and unfinished predictions begin from the start


class PredictionBench:
    """Computes shards of one prediction. See `state_engine.shards.plan.Bench`.

    Args:
        begun: the prediction.
        source: who predicts; its progress goes to `tick`, and its remarks to `remarks`.
        remarks: sentences that the source adds.
    """

    def __init__(self, begun: Start, source: Source, remarks: list[str]) -> None:
        self.begun, self.source, self.remarks = begun, source, remarks

    def compute(self, shard: Shard, tick: Tick) -> Write:
        """See `Bench`."""
        part, labels, control = _asked(shard)
        before, passes = len(self.remarks), itertools.count(1)
        # passes under the control label, where they are needed again, are no progress
        self.source.on_progress = lambda progress: tick(min(next(passes), shard.units))
        blocks = list(self.source.predict(part, labels, control))
        return writing(packed(blocks, self.begun.keeps_raw), tuple(self.remarks[before:]))


def open_bench(request: PredictionRequest) -> PredictionBench:
    """Return a bench of a request in a process of its own."""
    device, loaded = choose_device(request.device if request.by_network else "cpu"), None
    if request.by_network:
        loaded = load_model(Path(request.model), device.kind, dtype_of(request.precision), request.attention)
    card = loaded.card if loaded is not None else card_of(Path(request.model))
    begun, remarks = start(request, card, open_dataset(Path(request.data), request.choices)), list[str]()
    return PredictionBench(begun, source_of(begun, loaded, remarks, silent), remarks)


@contextmanager
def predicted_blocks(
    begun: Start, source: Source | None, device: str, shards: InShards | None, remarks: list[str], on_progress: OnProgress
) -> Iterator[Iterator[PredictedBlock]]:
    """Give all predicted cells of a result, block by block; shards are removed when what is written of them inside the block is complete.

    Args:
        begun: the prediction.
        source: who predicts in this process; None where others do.
        device: name of the device.
        shards: None: in one piece, as are predictions of a single shard.
        remarks: gets what was done differently on the way.
        on_progress: told for each shard, at least.
    """
    plan = plan_of(begun, device, shards.size) if shards is not None else None
    if shards is None or plan is None or (len(plan.shards) == 1 and source is not None):
        assert source is not None  # only other processes predict in its place
        with closing(_in_one_piece(source, begun)) as blocks:  # its threads end with it
            yield blocks
        return
    with held(shards.folder, plan, temporary=shards.temporary) as ledger:
        bench = PredictionBench(begun, source, remarks) if source is not None else None
        complete(ledger, shards.executor, on_progress, bench)
        yield _of_shards(ledger, remarks, on_progress)
        ledger.clear()


def plan_of(begun: Start, device: str, size: int) -> Plan:
    """Return the shards of a prediction.

    Args:
        begun: the prediction.
        device: name of the device.
        size: bytes of a shard, about.
    """
    import torch

    request, shards = begun.request, list[Shard]()
    for context in begun.drawn.contexts:
        for part in parts_of(begun.card, begun.cells.genes, begun.drawn, context, request.by_network):
            shards += _shards_of(begun, part, size, len(shards))
    facts = {
        "format": FACTS, "request": to_plain(request), "data": begun.dataset.hash(), "model": begun.card.weights_hash,
        "card": model_id(begun.card), "effects": "" if request.by_network else effects_hash(Path(request.model)), "device": device,
        "versions": package_versions(),
    }  # fmt: skip
    width = begun.card.config.output_dim if begun.has_embedding else 0
    merged = (1 + begun.keeps_raw) * (size_of(begun.rows.n, len(begun.cells.genes)) + size_of(begun.rows.n, width))
    return Plan(
        "predict", STAGE, Recipe(open_bench, request), tuple(shards), facts, threads=torch.get_num_threads(), merged=merged,
        device=request.device if request.by_network else "cpu",
    )  # fmt: skip


def _shards_of(begun: Start, part: Part, size: int, number: int) -> list[Shard]:
    """Return the shards of one part: as many perturbations in each as have the size together, the control with the first."""
    drawn = begun.drawn
    width = len(begun.cells.genes) + (begun.card.config.output_dim if begun.has_embedding else 0)
    row = 4 * width * (1 + begun.keeps_raw)
    cells = {p: min(part.cells, drawn.counts[p] - part.first) for p in drawn.perturbations if drawn.counts[p] > part.first}
    groups, filled = [list[str]()], row * min(part.cells, drawn.cells - part.first)
    sizes = [filled]
    for label, n in cells.items():
        if groups[-1] and sizes[-1] + row * n > size:
            groups.append([])
            sizes.append(0)
        groups[-1].append(label)
        sizes[-1] += row * n
    found = []
    for i, (labels, bytes_) in enumerate(zip(groups, sizes, strict=True)):
        what = {"context": part.context, "first": part.first, "cells": part.cells, "labels": labels, "control": i == 0}
        passes = sum(-(-cells[label] // drawn.set_size) for label in labels) + (i == 0) * -(-part.cells // drawn.set_size)
        found.append(Shard(number + i, what, max(1, passes), bytes_))
    return found


def _asked(shard: Shard) -> tuple[Part, tuple[str, ...], bool]:
    what = shard.what
    labels = what["labels"]
    assert isinstance(labels, list) and isinstance(what["first"], int) and isinstance(what["cells"], int)
    return Part(str(what["context"]), what["first"], what["cells"]), tuple(labels), bool(what["control"])


def _in_one_piece(source: Source, begun: Start) -> Generator[PredictedBlock, None, None]:
    drawn = begun.drawn
    for context in drawn.contexts:
        for part in parts_of(begun.card, begun.cells.genes, drawn, context, begun.request.by_network):
            yield from source.predict(part, drawn.perturbations)


def _of_shards(ledger: Ledger, remarks: list[str], on_progress: OnProgress) -> Iterator[PredictedBlock]:
    total = len(ledger.plan.shards)
    for number, (arrays, said) in enumerate(arrays_in_order(ledger)):
        on_progress(Progress("Putting the parts together", number, total))
        remarks += [remark for remark in said if remark not in remarks]
        yield from unpacked(arrays)


def packed(blocks: Iterable[PredictedBlock], keep_raw: bool) -> Arrays:
    """Return blocks as arrays: starts, cells and confidence (b,), and corrected and raw expression (m, g) and embedding (m, e)."""
    blocks = list(blocks)
    arrays = {
        "starts": np.array([block.start for block in blocks], np.int64),
        "cells": np.array([block.cells for block in blocks], np.int64),
        "confidence": np.array([block.confidence for block in blocks], np.float64),
    }
    for name in ("expression", "embedding"):
        pairs = [getattr(block, name) for block in blocks]
        if blocks and pairs[0] is not None:
            arrays[name] = np.concatenate([corrected for corrected, _ in pairs])
            if keep_raw:
                arrays[f"{name}_raw"] = np.concatenate([raw for _, raw in pairs])
    return arrays


def unpacked(arrays: Arrays) -> Iterator[PredictedBlock]:
    """Yield the blocks that were packed; without a raw prediction the corrected one stands there, and is not written."""
    ends = np.cumsum(arrays["cells"])
    for start_, n, end, confidence in zip(arrays["starts"], arrays["cells"], ends, arrays["confidence"], strict=True):
        here = slice(int(end - n), int(end))
        pairs = {
            name: (arrays[name][here], arrays.get(f"{name}_raw", arrays[name])[here])
            for name in ("expression", "embedding")
            if name in arrays
        }
        yield PredictedBlock(int(start_), pairs.get("expression"), pairs.get("embedding"), float(confidence))
