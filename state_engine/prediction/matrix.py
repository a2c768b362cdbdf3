"""The predicted cells of a result as one .npy matrix, with their labels in a .csv beside it: what a program reads without AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from state_engine import keys
from state_engine.data.dataset import Dataset
from state_engine.data.files.npy import NpyRows
from state_engine.errors import RequestError
from state_engine.files import replacing
from state_engine.prediction.result import Result
from state_engine.progress import OnProgress, Progress, silent

FILE_NAME: Final = "predicted.npy"  # in the folder of a run
BLOCK = 2048  # rows in memory at once
LABELS = (keys.PERTURBATION, keys.CONTEXT, keys.BATCH, keys.CELL_SET, keys.FALLBACK, keys.BASAL_CELL)


def labels_beside(output: Path) -> Path:
    """Return where the labels of a matrix go."""
    return output.with_suffix(".csv")


def write_predicted(result: Result, output: Path, on_progress: OnProgress = silent) -> tuple[int, int]:
    """Write the predicted cells, corrected, in the order of the result: (n, g) float32, log1p; without genes the embedding.

    Returns:
        Rows and columns.

    Raises:
        RequestError: it has no predicted cells.
    """
    rows = result.rows(keys.PREDICTED)
    if not len(rows):
        raise RequestError("There are no predicted cells.", "The result has none.", "Predict again.")
    labels = result.obs.iloc[rows][[c for c in LABELS if c in result.obs]]
    _write_labels(labels, labels_beside(output))  # before the matrix: where that is, they are
    width = result.n_genes if result.has_expression else result.embedding_width
    with replacing(output) as beside, beside.open("wb") as file:
        matrix = NpyRows(file, len(rows), width)
        for first in range(0, len(rows), BLOCK):
            on_progress(Progress("Writing the matrix", first, len(rows)))
            part = rows[first : first + BLOCK]
            values = result.read(part) if result.has_expression else result.features(part)
            matrix.write(np.arange(first, first + len(part)), values)
    return len(rows), width


def write_replayed(dataset: Dataset, representation: str, output: Path, on_progress: OnProgress = silent) -> tuple[int, int]:
    """Write one matrix of a replayed data set, all cells in its order, with their columns of labels beside it.

    Returns:
        Rows and columns.
    """
    width = dataset.representation(representation).width
    _write_labels(dataset.obs, labels_beside(output))
    with replacing(output) as beside, beside.open("wb") as file:
        matrix = NpyRows(file, dataset.n_cells, width)
        for first in range(0, dataset.n_cells, BLOCK):
            on_progress(Progress("Writing the matrix", first, dataset.n_cells))
            rows = np.arange(first, min(first + BLOCK, dataset.n_cells))
            matrix.write(rows, dataset.read(representation, rows))
    return dataset.n_cells, width


def _write_labels(labels: pd.DataFrame, path: Path) -> None:
    with replacing(path) as beside:
        labels.to_csv(beside, index_label="cell")
