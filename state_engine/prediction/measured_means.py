"""What the data set measured, as pseudobulks in the genes of a prediction: what baselines and comparisons stand on.

One pass over all cells of a data set of up to `ALL_CELLS`, so that baselines are those of the training and of a test; of a larger one over at most
`CELLS_A_CONDITION` of every perturbation and context, drawn by the seed of the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import FeatureSource, iter_features
from state_engine.effects.means import Means, condition_codes, means_by_condition
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.outputs import expression_source, gene_names
from state_engine.prediction.request import PredictionRequest
from state_engine.progress import OnProgress, Progress, silent

ALL_CELLS = 100_000
CELLS_A_CONDITION = 400


def measure(request: PredictionRequest, card: ModelCard, output: Path, on_progress: OnProgress = silent) -> Means | None:
    """Write the mean log1p expression of every measured condition; return None when the genes of the model are not in the data set.

    Args:
        request: the prediction it belongs to.
        card: its model.
        output: the .npz; it appears only when complete.
        on_progress: called for each block; may raise `JobCancelled`.
    """
    dataset = open_dataset(Path(request.data), request.choices)
    source = require_compatible(check_compatibility(dataset, card, allow_unknown=True, allow_other_embedding=True))
    genes = gene_names(dataset, card, source)
    expression = expression_source(dataset, card, source)
    if not genes or expression is None:
        return None
    rows = _sample(dataset, request.seed)
    conditions, codes = condition_codes(dataset, card.control)
    blocks = _blocks(dataset, expression, rows, on_progress)
    means = means_by_condition(blocks, codes, conditions, card.control, tuple(genes))
    means.save(output)
    return means


def _sample(dataset: Dataset, seed: int) -> np.ndarray:
    if dataset.n_cells <= ALL_CELLS:
        return np.arange(dataset.n_cells, dtype=np.int64)
    rng = np.random.default_rng([seed, 1])
    parts = []
    for perturbation in dataset.perturbations:
        for context in dataset.contexts:
            rows = dataset.rows(perturbation, context)
            parts.append(rng.permutation(rows)[:CELLS_A_CONDITION])
    return np.sort(np.concatenate(parts)).astype(np.int64) if parts else np.array([], dtype=np.int64)


def _blocks(
    dataset: Dataset, source: FeatureSource, rows: np.ndarray, on_progress: OnProgress
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    done = 0
    # what is not finite stays so in the mean of its condition and is shown as that; the prediction beside it has refused its own cells
    for part, values in iter_features(dataset, source, rows, checked=False):
        on_progress(Progress("Averaging measured cells", done, len(rows)))
        yield part, values
        done += len(part)
