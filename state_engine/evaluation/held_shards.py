"""Held-out cells predicted in shards: each is some held-out perturbations of one context, for one model and one draw, as `predict` writes them.

What a shard holds does not depend on the others: `predict` gives the same numbers for some perturbations as for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.checkpoints.card import model_id
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.data.embedding_record import result_depth
from state_engine.device import choose_device, dtype_of
from state_engine.effects.store import effects_hash
from state_engine.evaluation.held_blocks import HeldBlock, HeldOut, Tested, held_out_of
from state_engine.evaluation.request import HeldOutRequest, PredictedFile
from state_engine.files import part_beside, replacing
from state_engine.plain import to_plain
from state_engine.prediction.draw import MOST_SCORED
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result_writer import ResultWriter, new_array
from state_engine.progress import OnProgress, Progress
from state_engine.shards.ledger import Ledger
from state_engine.shards.plan import Plan, Recipe, Shard, Tick, Write
from state_engine.versions import package_versions

STAGE: Final = "Predicting held-out cells"
BLOCK: Final = 1024
LAYERS: Final = 4  # at most, of a prediction: X, corrected, raw, calibrated
CORRECTED, RAW, CALIBRATED = "corrected", "raw", "calibrated"


@dataclass(frozen=True)
class Asked:
    """What another process needs to compute shards of a test.

    Args:
        request: the test.
        folder: of the shards; predictions lie there until they are whole.
    """

    request: HeldOutRequest
    folder: str


class HeldOutBench:
    """Predicts shards of one test. See `state_engine.shards.plan.Bench`.

    Args:
        asked: the test.
        held: what is tested.
        loaded: its model when it is in memory already.
    """

    def __init__(self, asked: Asked, held: HeldOut, loaded: LoadedModel | None = None) -> None:
        self.held, self.folder = held, Path(asked.folder)
        self._loaded = (0, loaded) if loaded is not None else None

    def compute(self, shard: Shard, tick: Tick) -> Write:
        """See `Bench`."""
        model, number, seed, labels = _what(shard)
        tested = self.held.tested[model]
        block = tested.blocks[number]

        def told(progress: Progress) -> None:
            tick(shard.units * progress.done // progress.total if progress.total else 0)

        asked = _prediction(tested, block, labels, seed)
        with ExitStack() as stack:
            part = stack.enter_context(part_beside(self.folder / f"{shard.number:05d}.h5ad"))
            predict(asked, part, told, self._model(model), block.source.dataset)
            until = stack.pop_all()  # the file stays until it is taken

        def write(path: Path) -> None:
            with until:
                part.replace(path)

        return write

    def _model(self, number: int) -> LoadedModel:
        """Return a model; the last one stays in memory."""
        if self._loaded is None or self._loaded[0] != number:
            request = self.held.tested[number].request
            self._loaded = None
            self._loaded = number, load_model(request.folder, choose_device(request.device).kind, dtype_of(request.precision))
        return self._loaded[1]


def open_bench(asked: Asked) -> HeldOutBench:
    """Return a bench of a test in a process of its own."""
    return HeldOutBench(asked, held_out_of(asked.request))


def plan_of(request: HeldOutRequest, held: HeldOut, folder: Path, device: str, size: int) -> Plan:
    """Return the shards of a test.

    Args:
        request: the test.
        held: what is tested.
        folder: of the shards.
        device: name of the device.
        size: bytes of a shard, about.
    """
    import torch

    shards, merged = list[Shard](), 0
    for model, tested in enumerate(held.tested):
        for seed in request.seeds:
            for number, block in enumerate(tested.blocks):
                row = 4 * LAYERS * len(tested.genes[0]) * _cells(request, block)
                step = max(1, size // max(1, row))
                for first in range(0, len(block.perturbations), step):
                    labels = list(block.perturbations[first : first + step])
                    what = {"model": model, "block": number, "seed": seed, "labels": labels}
                    shards.append(Shard(len(shards), what, len(labels), row * (len(labels) + 1)))
                    merged += row * (len(labels) + 1)
    models = [tested.request.folder for tested in held.tested]
    facts = {
        "request": to_plain(request), "data": [source.dataset.hash() for source in held.split.sources],
        "models": [model_id(tested.card) for tested in held.tested], "effects": [effects_hash(folder) for folder in models],
        "device": device, "versions": package_versions(),
    }  # fmt: skip
    recipe = Recipe(open_bench, Asked(request, str(folder)))
    return Plan("test", STAGE, recipe, tuple(shards), facts, torch.get_num_threads(), merged, request.device)


def put_together(
    ledger: Ledger, held: HeldOut, model: int, names: Sequence[Path], on_progress: OnProgress
) -> list[PredictedFile]:
    """Write the predicted cells of a model, a file for each draw; return what is to be scored.

    Args:
        ledger: all of whose shards are done.
        held: what is tested.
        model: which one.
        names: files to write, one for each seed.
        on_progress: told block by block.
    """
    tested, found = held.tested[model], list[PredictedFile]()
    for seed, path in zip(tested.request.seeds, names, strict=True):
        with replacing(path) as beside:
            layers = _join(_parts(ledger, model, seed), beside, tested, on_progress)
        if tested.method:
            found.append(PredictedFile(str(path), tested.method))
            continue
        found += [PredictedFile(str(path), CORRECTED), PredictedFile(str(path), RAW, f"layers/{keys.RAW_LAYER}")]
        found += [PredictedFile(str(path), CALIBRATED, f"layers/{keys.CALIBRATED_LAYER}")] if layers else []
    return found


def _parts(ledger: Ledger, model: int, seed: int) -> list[tuple[Path, str]]:
    """Return files and the kind of cells to take of each, in the order of a prediction in one piece: predicted ones of a block, then its controls."""
    blocks: dict[int, list[Path]] = {}
    for shard in ledger.plan.shards:
        of, number, drawn, _ = _what(shard)
        if (of, drawn) == (model, seed):
            blocks.setdefault(number, []).append(ledger.path(shard))
    found = []
    for paths in blocks.values():
        found += [(path, keys.PREDICTED) for path in paths]
        # the same in all of them, but for the layer that only some have
        whole = [path for path in paths if _has(path, f"layers/{keys.CALIBRATED_LAYER}")]
        found.append(((whole or paths)[0], keys.PREDICTED_CONTROL))
    return found


def _what(shard: Shard) -> tuple[int, int, int, tuple[str, ...]]:
    what = shard.what
    model, number, seed, labels = what["model"], what["block"], what["seed"], what["labels"]
    assert isinstance(model, int) and isinstance(number, int) and isinstance(seed, int) and isinstance(labels, list)
    return model, number, seed, tuple(labels)


def _cells(request: HeldOutRequest, block: HeldBlock) -> int:
    return request.cells or min(len(block.source.dataset.control_rows(block.context)), MOST_SCORED)


def _prediction(tested: Tested, block: HeldBlock, labels: tuple[str, ...], seed: int) -> PredictionRequest:
    request, dataset = tested.request, block.source.dataset
    return PredictionRequest(
        str(dataset.path), str(request.folder), labels, (block.context,), _cells(request, block), seed, dataset.choices,
        device=request.device, precision=request.precision, observed=0,
    )  # fmt: skip


def _join(parts: list[tuple[Path, str]], path: Path, tested: Tested, on_progress: OnProgress) -> bool:
    """Predicted cells and their controls of several results, in one file. Returns whether it has a calibrated layer."""
    frames, chosen, depths = [], [], set[float | None]()
    for part, kind in parts:
        with h5py.File(part) as file:
            obs = ad.io.read_elem(file["obs"])
            depths.add(result_depth(file))
        chosen.append(np.flatnonzero((obs[keys.KIND] == kind).to_numpy()))
        columns = [keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.KIND, keys.BASAL_CELL, keys.CELL_SET]
        frames.append(obs.iloc[chosen[-1]][columns].astype({c: str for c in columns if c != keys.CELL_SET}))
    obs = pd.concat(frames, ignore_index=True)
    obs.loc[obs[keys.KIND] == keys.PREDICTED_CONTROL, keys.PERTURBATION] = tested.control
    for column in (keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.KIND, keys.BASAL_CELL):
        obs[column] = pd.Categorical(obs[column])
    obs.index = pd.Index([f"cell {i}" for i in range(len(obs))], dtype=object)
    (names, columns_kept), card = tested.genes, tested.card
    writer = ResultWriter(path, obs, list(names))
    calibrated = card.calibration is not None
    start = 0
    # every part is of the model's depth; where its card records none, of the data set's own
    depth = depths.pop() if len(depths) == 1 else None
    try:
        for (part, _), rows in zip(parts, chosen, strict=True):
            corrected = f"layers/{keys.CORRECTED_LAYER}"
            main = corrected if _has(part, corrected) and not tested.method else "X"  # X is what the model's card recommends
            for at, n, x, raw in _read(part, rows, main, f"layers/{keys.RAW_LAYER}"):
                on_progress(Progress("Writing predicted cells", start + at, len(obs)))
                writer.write(start + at, x[:, columns_kept], raw[:, columns_kept])
                assert n == len(x)
            start += len(rows)
        writer.finish(np.full(len(obs), np.nan), {"model": {"id": card.id, "name": card.name}, "scale": "log1p", "depth": depth})
    finally:
        writer.close()
    return calibrated and not tested.method and _add_calibrated([p for p, _ in parts], chosen, path, columns_kept, len(obs))


def _add_calibrated(parts: list[Path], chosen: list[np.ndarray], path: Path, columns: np.ndarray, n: int) -> bool:
    """The calibrated layer; cells of results that have none are NaN. False when none has."""
    layer = f"layers/{keys.CALIBRATED_LAYER}"
    has = [_has(part, layer) for part in parts]
    if not any(has):
        return False
    with h5py.File(path, "r+") as file:
        target = new_array(file["layers"], keys.CALIBRATED_LAYER, (n, len(columns)))
        start = 0
        for part, rows, there in zip(parts, chosen, has, strict=True):
            if there:
                for at, size, values, _ in _read(part, rows, layer, layer):
                    target[start + at : start + at + size] = values[:, columns]
            else:
                target[start : start + len(rows)] = np.nan
            start += len(rows)
    return True


def _has(path: Path, name: str) -> bool:
    with h5py.File(path) as file:
        return name in file


def _read(path: Path, rows: np.ndarray, one: str, other: str) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Blocks of two matrices: where the block begins among `rows`, its size, and its values. Rows are consecutive."""
    with h5py.File(path) as file:
        for first in range(0, len(rows), BLOCK):
            part = slice(int(rows[first]), int(rows[min(first + BLOCK, len(rows)) - 1]) + 1)
            values = file[one][part]
            yield first, len(values), values, values if one == other else file[other][part]
