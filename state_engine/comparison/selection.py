"""Which genes differ between selected cells of the two sides of a comparison, by the test that is used everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from state_engine.analysis.differential import gene_table
from state_engine.comparison.report import AGAIN, CELLS, EFFECTS
from state_engine.errors import RequestError, RunError, door
from state_engine.files import replacing
from state_engine.metrics.rank_tests import against_reference
from state_engine.progress import OnProgress, silent

LEAST: Final = 3


def selection_path(folder: Path, first: Sequence[int], second: Sequence[int]) -> Path:
    """Return where the table of a selection is kept; it may not be there yet."""
    digest = hashlib.sha256(f"{list(first)} {list(second)}".encode()).hexdigest()[:16]
    return folder / f"selection-{digest}.parquet"


def selection_table(folder: Path, first: Sequence[int], second: Sequence[int], on_progress: OnProgress = silent) -> Path:
    """Write the table of all genes: selected cells of the second side against those of the first, `log2_fold_change` up in the second.

    Args:
        folder: of the comparison.
        first, second: rows of its map.

    Raises:
        RequestError: fewer than three cells on a side, or rows that the map does not have. RunError: a file is damaged.
    """
    path = selection_path(folder, first, second)
    if path.exists():
        return path
    with door(CELLS, RunError, AGAIN):
        cells = np.load(folder / CELLS, mmap_mode="r", allow_pickle=False)
        with np.load(folder / EFFECTS, allow_pickle=False) as stored:
            genes = stored["genes"].tolist()
    rows = [np.array(sorted(set(side)), np.int64) for side in (first, second)]
    for side, name in zip(rows, ("first", "second"), strict=True):
        if len(side) < LEAST:
            raise RequestError(
                f"{len(side)} cells of the {name} side are selected.", f"A test needs {LEAST}.", "Draw around more cells."
            )
        if side[0] < 0 or side[-1] >= len(cells):
            raise RequestError("The selection has cells that the map does not have.", f"It has {len(cells):,}.", "Select again.")
    tests = against_reference({"second": np.asarray(cells[rows[1]])}, np.asarray(cells[rows[0]]), on_progress=on_progress)
    table = gene_table(genes, tests, "second", "first").drop(columns="statistic")
    with replacing(path) as beside:
        table.to_parquet(beside, engine="pyarrow")
    return path
