"""Predict the blocks of a screen: each by the verb `predict`, of which means and a sample of cells are kept and the file is removed.

So the numbers of a screen are those of Predict with the same seed, to the bit, whatever the model's card recommends as output.

Notation: k perturbations of a block, g genes, s cells of a sample.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anndata as ad
import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.analysis.effects import condition_effects
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import LoadedModel
from state_engine.data.dataset import Dataset
from state_engine.effects.store import effects_hash
from state_engine.files import PART_PREFIX, replacing
from state_engine.plain import to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.result import Layer, Result, open_result
from state_engine.progress import OnProgress, Progress, silent
from state_engine.screening.cost import MOST_CONTROLS, block_size
from state_engine.screening.request import ScreenRequest
from state_engine.screening.shards import CONTROL, Block, ShardKey, Shards

if TYPE_CHECKING:
    from state_engine.prediction.predict import PredictionSummary

STAGE: Final = "Predicting perturbations"


@dataclass(frozen=True)
class Predicted:
    """What predicting gave.

    Args:
        device: where it was computed; "" when all was there already.
        blocks, done_before: shards, and those of them that were there already.
        remarks: sentences worth showing.
    """

    device: str
    blocks: int
    done_before: int
    remarks: tuple[str, ...]


def key_of(
    request: ScreenRequest, dataset: Dataset, card: ModelCard, perturbations: tuple[str, ...], contexts: tuple[str, ...]
) -> ShardKey:
    """Return what the predictions of a screen depend on."""
    return ShardKey(
        dataset.hash(), card.weights_hash, effects_hash(Path(request.model)), json.dumps(to_plain(request.choices)), perturbations, contexts,
        block_size(request, card), request.cells, request.sample, request.seed, request.set_size or card.set_size, request.method,
        request.precision, request.allow_other_embedding,
    )  # fmt: skip


def predict_controls(
    request: ScreenRequest, shards: Shards, dataset: Dataset, loaded: LoadedModel | None, on_progress: OnProgress = silent
) -> str:
    """Keep control cells of each context, as a prediction writes them; return the kind of prediction, see `keys.X_KIND`.

    Args:
        as `predict_blocks`.
    """
    contexts = shards.key.contexts
    for number, context in enumerate(contexts):
        on_progress(Progress("Reading control cells", number, len(contexts)))
        if not shards.done(context, CONTROL):
            _control(request, shards, dataset, loaded, context)
    return str(sample_of(shards, contexts[0], CONTROL).uns[keys.X_KIND])


def predict_blocks(
    request: ScreenRequest, shards: Shards, dataset: Dataset, loaded: LoadedModel | None, on_progress: OnProgress = silent
) -> Predicted:
    """Predict what is not done yet.

    Args:
        request: the screen.
        shards: where it goes.
        dataset: its data, open.
        loaded: its model; None for a baseline.
        on_progress: called for each block; may raise `JobCancelled`.
    """
    contexts, blocks = shards.key.contexts, shards.blocks
    total, before, device = len(contexts) * len(blocks), 0, ""
    remarks: dict[str, None] = {}
    for number, context in enumerate(contexts):
        for place, names in enumerate(blocks):
            on_progress(Progress(STAGE, number * len(blocks) + place, total))
            if shards.done(context, place):
                before += 1
                continue
            found = _block(request, shards, dataset, loaded, context, place, names)
            device, remarks = found.device, remarks | dict.fromkeys(found.remarks)
    on_progress(Progress(STAGE, total, total))
    return Predicted(device, total, before, tuple(remarks))


def _block(
    request: ScreenRequest, shards: Shards, dataset: Dataset, loaded: LoadedModel | None, context: str, place: int,
    names: tuple[str, ...],
) -> PredictionSummary:  # fmt: skip
    whole = _whole(shards, context, place)
    try:
        done = predict(request.prediction(names, context, request.cells), whole, loaded=loaded, dataset=dataset)
        result = open_result(whole)
        layer: Layer = "calibrated" if result.recommends_calibrated else "corrected"
        found = list(condition_effects(result, layer))
        shards.write(context, place, Block(
            tuple(one.perturbation for one in found),
            np.array([one.effect for one in found], np.float32), np.array([one.fold for one in found], np.float32),
            np.array([one.up for one in found], np.int64), np.array([one.down for one in found], np.int64),
        ))  # fmt: skip
        if request.sample:
            firsts = [result.rows(keys.PREDICTED, context, p)[: request.sample] for p in names]
            basal = result.rows(keys.PREDICTED_CONTROL, context)[: request.sample]
            write_sample(shards.place(context, place, ".h5ad"), result, np.concatenate([*firsts, basal]))
        shards.finish(context, place)
    finally:
        whole.unlink(missing_ok=True)
    return done


def _whole(shards: Shards, context: str, block: int | str) -> Path:
    """Return where the prediction of a block is while its means are taken; what a killed process left there is removed at the start."""
    return shards.folder / f"{PART_PREFIX}whole-{shards.place(context, block, '.h5ad').name}"


def _control(request: ScreenRequest, shards: Shards, dataset: Dataset, loaded: LoadedModel | None, context: str) -> None:
    """Keep control cells of a context, as a prediction writes them."""
    whole = _whole(shards, context, CONTROL)
    name, wanted = shards.key.perturbations[0], min(MOST_CONTROLS, 2 * request.cells)
    try:
        predict(request.prediction((name,), context, 1, wanted), whole, loaded=loaded, dataset=dataset)
        result = open_result(whole)
        write_sample(shards.place(context, CONTROL, ".h5ad"), result, result.rows(keys.OBSERVED_CONTROL, context))
        shards.finish(context, CONTROL)
    finally:
        whole.unlink(missing_ok=True)


def write_sample(path: Path, result: Result, rows: np.ndarray) -> None:
    """Write some cells of a result: its default output, labels, embedding and manifest."""
    layer: Layer = "calibrated" if result.recommends_calibrated else "corrected"
    obs = pd.DataFrame({n: result.obs[n].astype(str).to_numpy()[rows] for n in (keys.PERTURBATION, keys.CONTEXT, keys.KIND)})
    obs.index = obs.index.map(lambda i: f"cell {i}")
    cells = ad.AnnData(result.read(rows, layer=layer), obs, pd.DataFrame(index=list(result.genes)))
    if result.embedding is not None:
        cells.obsm[result.embedding] = result.features(rows, "corrected" if result.has_expression else layer)
    cells.uns[keys.MANIFEST] = json.dumps(dict(result.manifest))
    cells.uns[keys.X_KIND] = str(result.manifest.get(keys.X_KIND, ""))
    with replacing(path) as beside:
        cells.write_h5ad(beside, compression="lzf")


def sample_of(shards: Shards, context: str, block: int | str) -> ad.AnnData:
    """Return the sample of a shard, or the control cells of a context."""
    return ad.read_h5ad(shards.place(context, block, ".h5ad"))
