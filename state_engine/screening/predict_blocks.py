"""Predict the blocks of a screen: each by the verb `predict`, of which means and a sample of cells are kept and the file is removed.

So the numbers of a screen are those of Predict with the same seed, to the bit, whatever the model's card recommends as output.

Notation: k perturbations of a block, g genes, s cells of a sample.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.analysis.effects import condition_effects
from state_engine.checkpoints.card import ModelCard, model_id
from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.effects.store import effects_hash
from state_engine.files import part_beside
from state_engine.plain import to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.result import Result, open_result
from state_engine.screening.cost import MOST_CONTROLS, block_size
from state_engine.screening.request import ScreenRequest
from state_engine.screening.shards import CONTROL, VERB, Block, ScreenKey, with_block
from state_engine.shards.plan import Plan, Recipe, Shard, Tick, Write

STAGE: Final = "Predicting perturbations"


@dataclass(frozen=True)
class Asked:
    """What another process needs to compute shards of a screen.

    Args:
        request: the screen.
        folder: where the predicted cells of a block lie while their means are taken.
    """

    request: ScreenRequest
    folder: str


class ScreenBench:
    """Computes shards of one screen. See `state_engine.shards.plan.Bench`.

    Args:
        asked: the screen.
        dataset: its data, open.
        loaded: its model; None for a baseline.
    """

    def __init__(self, asked: Asked, dataset: Dataset, loaded: LoadedModel | None) -> None:
        self.request, self.folder, self.dataset, self.loaded = asked.request, Path(asked.folder), dataset, loaded

    def compute(self, shard: Shard, tick: Tick) -> Write:
        """See `Bench`."""
        tick(0)
        labels = shard.what["labels"]
        assert isinstance(labels, list)
        is_control = shard.what["block"] == CONTROL
        with part_beside(self.folder / f"{shard.number:05d}.h5ad") as whole:
            cells = (self._control if is_control else self._block)(labels, str(shard.what["context"]), whole, tick)
        return partial(cells.write_h5ad, compression="lzf")

    def _block(self, labels: list[str], context: str, whole: Path, tick: Tick) -> ad.AnnData:
        """Predict some perturbations; return their means and a sample of their cells."""
        request = self.request
        done = predict(
            request.prediction(tuple(labels), context, request.cells), whole, lambda progress: tick(0), self.loaded, self.dataset
        )
        result = open_result(whole)
        found = list(condition_effects(result, result.default_layer))
        block = Block(
            tuple(one.perturbation for one in found),
            np.array([one.effect for one in found], np.float32), np.array([one.fold for one in found], np.float32),
            np.array([one.up for one in found], np.int64), np.array([one.down for one in found], np.int64),
        )  # fmt: skip
        firsts = [result.rows(keys.PREDICTED, context, p)[: request.sample] for p in labels]
        basal = result.rows(keys.PREDICTED_CONTROL, context)[: request.sample]
        return with_block(sample_of(result, np.concatenate([*firsts, basal])), block, done.remarks)

    def _control(self, labels: list[str], context: str, whole: Path, tick: Tick) -> ad.AnnData:
        """Return control cells of a context, as a prediction writes them."""
        wanted = min(MOST_CONTROLS, 2 * self.request.cells)
        asked = self.request.prediction(tuple(labels), context, 1, wanted)
        predict(asked, whole, lambda progress: tick(0), self.loaded, self.dataset)
        result = open_result(whole)
        return sample_of(result, result.rows(keys.OBSERVED_CONTROL, context))


def open_bench(asked: Asked) -> ScreenBench:
    """Return a bench of a screen in a process of its own."""
    request = asked.request
    dataset, loaded = open_dataset(Path(request.data), request.choices), None
    if request.by_network:
        loaded = load_model(Path(request.model), choose_device(request.device).kind, dtype_of(request.precision))
    return ScreenBench(asked, dataset, loaded)


def key_of(
    request: ScreenRequest, dataset: Dataset, card: ModelCard, perturbations: tuple[str, ...], contexts: tuple[str, ...]
) -> ScreenKey:
    """Return what the predictions of a screen depend on."""
    return ScreenKey(
        dataset.hash(), card.weights_hash, effects_hash(Path(request.model)), json.dumps(to_plain(request.choices)), perturbations, contexts,
        block_size(request, card), request.cells, request.sample, request.seed, request.set_size or card.set_size, request.method,
        request.precision, request.allow_other_embedding, model_id(card),
    )  # fmt: skip


def plan_of(request: ScreenRequest, card: ModelCard, key: ScreenKey, folder: Path) -> Plan:
    """Return the shards of a screen: control cells of each context, then its blocks.

    Args:
        request: the screen.
        card: of its model.
        key: what is predicted.
        folder: of the shards.
    """
    import torch

    genes, embedding = len(card.output_genes or ()), card.config.output_dim if card.reads_embedding else 0
    cell, shards = 4 * (genes + embedding), list[Shard]()
    for context in key.contexts:
        what = {"context": context, "block": CONTROL, "labels": list(key.perturbations[:1])}
        shards.append(Shard(len(shards), what, 0, cell * min(MOST_CONTROLS, 2 * request.cells)))
    for context in key.contexts:
        for block, labels in enumerate(key.labels):
            size = 8 * genes * len(labels) + cell * request.sample * (len(labels) + 1)
            shards.append(Shard(len(shards), {"context": context, "block": block, "labels": list(labels)}, 1, size))
    merged = 8 * genes * len(key.perturbations) * len(key.contexts)
    recipe = Recipe(open_bench, Asked(request, str(folder)))
    device = request.device if request.by_network else "cpu"
    return Plan(VERB, STAGE, recipe, tuple(shards), to_plain(key), torch.get_num_threads(), merged, device)


def sample_of(result: Result, rows: NDArray[np.int64]) -> ad.AnnData:
    """Return some cells of a result: its default output, labels, embedding and manifest."""
    layer = result.default_layer
    obs = pd.DataFrame({n: result.obs[n].astype(str).to_numpy()[rows] for n in (keys.PERTURBATION, keys.CONTEXT, keys.KIND)})
    obs.index = pd.Index([f"cell {i}" for i in range(len(obs))], dtype=object)
    cells = ad.AnnData(result.read(rows, layer=layer), obs, pd.DataFrame(index=list(result.genes)))
    if result.embedding is not None:
        cells.obsm[result.embedding] = result.features(rows, "corrected" if result.has_expression else layer)
    cells.uns[keys.MANIFEST] = json.dumps(dict(result.manifest))
    cells.uns[keys.X_KIND] = str(result.manifest.get(keys.X_KIND, ""))
    return cells
