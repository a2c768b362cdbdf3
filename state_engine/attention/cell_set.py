"""The attention of one cell set: which cell's prediction draws on which cells, by layer and head.

Attention is a property of the set that was drawn, not a mechanism in the cell. The set is predicted again as in its run (same basal
cells, same order), under the perturbation and under the control, and the weights of all heads are kept.
Notation: l layers, h heads, s cells in the set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.data.dataset import open_dataset
from state_engine.data.expression import read_features
from state_engine.device import choose_device
from state_engine.errors import RequestError
from state_engine.files import replacing
from state_engine.models.config import AttentionMode
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.draw import basal
from state_engine.prediction.outputs import batch_indices
from state_engine.prediction.request import PredictionRequest, contexts_of
from state_engine.progress import OnProgress, Progress, silent


@dataclass(frozen=True)
class AttentionRequest:
    """Which set: of a prediction, a perturbation, a context, and the set's number (0 is the first)."""

    prediction: PredictionRequest
    perturbation: str
    context: str
    number: int = 0


def attention_of_set(
    request: AttentionRequest, output: Path, on_progress: OnProgress = silent, loaded: LoadedModel | None = None
) -> None:
    """Compute the maps of one set, and write them as .npz (see `attention.maps.load_maps`).

    Raises:
        RequestError: the run has no such set, perturbation or context.
    """
    prediction = request.prediction
    dataset = open_dataset(Path(prediction.data), prediction.choices)
    if loaded is None:
        loaded = load_model(Path(prediction.model), choose_device(prediction.device).kind, torch.float32, prediction.attention)
    card = loaded.card
    contexts = contexts_of(prediction, dataset)
    if request.context not in contexts or request.perturbation not in prediction.perturbations:
        raise RequestError("The run has no such condition.", f"{request.perturbation} in {request.context} was not predicted.")
    size = prediction.set_size or card.set_size
    rows = _rows_of_set(request, dataset.control_rows(request.context), size, card.control)
    allowed = prediction.allow_unknown, prediction.allow_other_embedding
    source = require_compatible(check_compatibility(dataset, card, prediction.perturbations, contexts, *allowed))
    features = read_features(dataset, source, rows)
    indices = batch_indices(dataset, card, allow_unknown=True)
    batches = None if indices is None else indices[rows]
    mode = prediction.attention or card.attention
    maps = []
    # the same cells under both labels: the difference of the two maps is due to the perturbation alone
    for number, label in enumerate((request.perturbation, card.control)):
        on_progress(Progress("Computing attention", number, 2))
        maps.append(_maps(loaded, features, label, batches, mode))
    weights, shares = zip(*maps, strict=True)
    names = card.input_genes or tuple(f"feature {i}" for i in range(features.shape[1]))
    with replacing(output) as beside, beside.open("wb") as file:
        np.savez_compressed(
            file,
            perturbed=weights[0],
            control=weights[1],
            cells=dataset.obs_names[rows].astype(str),
            rows=rows,
            batches=dataset.batch_labels()[rows].astype(str),
            # float16: for sorting and distances on a page, not for computing with
            basal=features.astype(np.float16),
            genes=np.array(names),
            token_share=shares[0],
            about=json.dumps({"mode": mode, "perturbation": request.perturbation, "context": request.context}),
        )


def _rows_of_set(request: AttentionRequest, pool: np.ndarray, size: int, control: str) -> np.ndarray:
    prediction, number = request.prediction, request.number
    sets = -(-prediction.count(request.perturbation) // size)
    if not 0 <= number < sets:
        raise RequestError(f"There is no set {number + 1}.", f"The run has {sets} of this condition.", "Choose one of them.")
    drawn = basal(prediction.seed, request.context, pool, prediction.most(control), size)
    return drawn[number * size : (number + 1) * size]


@torch.inference_mode()
def _maps(
    loaded: LoadedModel, features: np.ndarray, label: str, batches: np.ndarray | None, mode: AttentionMode
) -> tuple[np.ndarray, np.ndarray]:
    """Return (l, h, s, s) float32 weights between cells and the mean weight (l, h) on tokens."""
    card, model = loaded.card, loaded.module
    parameter = next(model.parameters())
    row = card.perturbations.index(label) if label in card.perturbations else card.perturbations.index(card.control)
    output = model(
        # [None]: a batch of one set, (1, s, g)
        torch.from_numpy(features)[None].to(parameter.device, parameter.dtype),
        loaded.perturbation_features[row : row + 1].to(parameter.device, parameter.dtype),
        None if batches is None else torch.from_numpy(batches)[None].to(parameter.device),
        attention=mode,
        maps=True,
    )
    whole = torch.cat(output.attention or ()).float().cpu().numpy()  # (l, h, t, t): b is 1
    # t counts the tokens before and after the cells as well; a row sums to one over all t
    cells = slice(model.tokens_before, model.tokens_before + len(features))
    between = whole[:, :, cells, cells]
    # what a row lacks to one went to tokens: sum over the cells attended to, mean over the s attending cells
    return between, 1.0 - between.sum(-1).mean(-1)
