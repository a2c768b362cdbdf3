"""Which genes tell a selection of cells from all other cells of a run: the same table as of a condition (`analysis.differential`).

RUN/differential/cells-DIGEST.npy                rows of a selection, int64
RUN/differential/selected-LAYER-DIGEST.parquet   its table
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.data.files.text import read_rows
from state_engine.errors import RequestError, RunError, listed
from state_engine.files import replacing, write_bytes
from state_engine.plain import first_places
from state_engine.prediction.result import Layer, Result, open_result
from state_engine.progress import OnProgress, silent


def compare_selected(
    result: Result, rows: NDArray[np.int64], layer: Layer = "corrected", on_progress: OnProgress = silent
) -> pd.DataFrame:
    """Return the table of all genes: some cells of a result against all others.

    Predicted control cells, which no map shows, are among the others only where some of them are selected.

    Raises:
        RequestError: the result has no genes, or there are fewer than 3 cells on either side.
    """
    inside = np.zeros(result.n_cells, bool)
    inside[rows] = True
    unseen = result.mask(keys.PREDICTED_CONTROL)
    others = ~inside if (inside & unseen).any() else ~(inside | unseen)
    table = de.compare_groups(result, np.flatnonzero(inside), np.flatnonzero(others), layer, on_progress=on_progress)
    # predicted and measured cells may be on either side: p is of the cells as they are, and calls are those of measured ones
    table.attrs |= {"perturbation": "selection", "context": "all cells", "reference": "other cells", "expression": "observed"}
    return table


def rows_named(result: Result, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows of cells by their names.

    Raises:
        RequestError: names that no cell has.
    """
    place = first_places(map(str, result.obs.index))
    missing = [name for name in names if name not in place]
    if missing:
        raise RequestError(
            f"The result has no cell called {listed(missing, 3)}.", f"{len(missing):,} of {len(names):,} names are not there."
        )
    return np.array([place[name] for name in names], np.int64)


def cells_of(path: Path) -> tuple[str, ...]:
    """Return the names of cells in a list, or in the first column of a table such as Explore's.

    Raises:
        RequestError: the file cannot be read, or has no names.
    """
    rows = [row for row in read_rows(path, "", RequestError) if row and row[0].strip()]
    names = [row[0].strip() for row in rows]
    found = tuple(dict.fromkeys(names[1:] if names and names[0].casefold() in ("cell", "cells", "barcode", "name") else names))
    if not found:
        raise RequestError(f"{path.name} has no names of cells.", "", "Give one name a line.")
    return found


def keep_cells(run_dir: Path, rows: NDArray[np.int64]) -> str:
    """Write the rows of a selection into a run's folder, and return their name there."""
    rows = np.unique(np.asarray(rows, np.int64))
    name = f"cells-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}"
    path = Path(run_dir) / de.FOLDER / f"{name}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        file = io.BytesIO()
        np.save(file, rows, allow_pickle=False)
        write_bytes(path, file.getvalue())
    return name


def selected_path(run_dir: Path, cells: str, layer: Layer = "corrected") -> Path:
    """Return where `selected_for` keeps a table; it may not be there yet."""
    whole = de.table_path(run_dir, cells, layer)  # changes with the result
    return whole.with_name(f"selected-{layer}-{whole.stem[-16:]}.parquet")


def selected_for(run_dir: Path, cells: str, layer: Layer = "corrected", on_progress: OnProgress = silent) -> Path:
    """Make the table of a selection where it is not there, and return its file.

    Args:
        run_dir: folder of the run.
        cells: name of the selection, see `keep_cells`.
        layer: of the predicted cells.
        on_progress: called after each block of genes.

    Raises:
        RunError: no readable result, or no such selection. RequestError: as `compare_selected`.
    """
    path = selected_path(run_dir, cells, layer)
    if not path.exists():
        kept = {place.stem: place for place in (Path(run_dir) / de.FOLDER).glob("cells-*.npy")}
        if cells not in kept:
            raise RunError("This selection is not in the run's folder.", "", "Select the cells again.")
        result = open_result(Path(run_dir) / "result.h5ad")
        rows = np.load(kept[cells], allow_pickle=False)
        if rows.dtype != np.int64 or rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= result.n_cells)):
            raise RunError(
                "This selection does not fit the result.", "Its rows are not those of cells.", "Select the cells again."
            )
        table = compare_selected(result, rows, layer, on_progress)
        with replacing(path) as beside:
            table.to_parquet(beside, engine="pyarrow")
    return path
