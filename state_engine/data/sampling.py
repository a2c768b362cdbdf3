"""Looking at a part of a file's expression to decide its scale: runs of neighbouring cells, spread from the first to the last.

Source: the file, through `matrices`. Boundary: chooses and reads the sample; `scale` judges it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from state_engine.data.files.hdf5 import open_h5
from state_engine.data.files.matrices import BLOCK, read_rows
from state_engine.data.files.safety import FileFacts
from state_engine.data.scale import Scale, ScaleDecision, decide_scale

SAMPLE_CELLS = 2_000  # most cells looked at to decide the scale
SAMPLE_VALUES = 10_000_000
SAMPLE_PIECES = 20
CSC_SAMPLE = BLOCK  # a matrix stored by gene with more values is not read whole to decide the scale


def sample_rows(n_cells: int, n_genes: int) -> np.ndarray:
    """Cells to look at: up to `SAMPLE_PIECES` runs of neighbours, evenly spread from the first cell to the last."""
    most = int(np.clip(SAMPLE_VALUES // max(n_genes, 1), 100, SAMPLE_CELLS))
    if n_cells <= most:
        return np.arange(n_cells)
    length = most // SAMPLE_PIECES
    starts = np.linspace(0, n_cells - length, SAMPLE_PIECES).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(length))


def scale_of_file(facts: FileFacts, expression: str | None, marked: bool, wanted: Scale | None) -> ScaleDecision:
    """Decide the scale from complete cells; of a large matrix stored by gene, from values alone.

    Args:
        facts: the file.
        expression: the matrix; None when there is none.
        marked: the file carries scanpy's mark that log1p was applied to X.
        wanted: the user's word.

    Raises:
        ScaleError: the user's word contradicts the values.
    """
    if expression is None:
        return ScaleDecision(
            None, ("The file has no expression matrix (no X and no layers).",), fix="Embeddings can still be used."
        )
    matrix = next(m for m in facts.matrices if m.name == expression)
    marked = marked and expression == "X"
    if matrix.layout == "csc" and matrix.stored > CSC_SAMPLE:
        starts = np.linspace(0, matrix.stored - BLOCK // SAMPLE_PIECES, SAMPLE_PIECES).astype(np.int64)
        with open_h5(facts.path) as file:
            data = file[expression]["data"]
            values = np.concatenate([data[s : s + BLOCK // SAMPLE_PIECES] for s in starts.tolist()])
        return decide_scale(values, None, 0, marked, wanted)
    rows = sample_rows(facts.n_cells, facts.n_genes)
    stored = sp.coo_matrix(read_rows(facts.path, matrix, rows))
    return decide_scale(stored.data, stored.row, len(rows), marked, wanted)
