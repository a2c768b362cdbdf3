"""The sample of cells behind the map of a comparison: what is kept is bounded, however many pairs and genes there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from state_engine.comparison.cells_map import LEAST_EACH, MAP_BYTES, MAP_CELLS, MapSample
from state_engine.comparison.report import read_map
from state_engine.comparison.sides import Cells
from state_engine.progress import silent


def cells(genes: int, n: int = 40, m: int = 60, seed: int = 0) -> tuple[Cells, Cells]:
    rng = np.random.default_rng(seed)
    return tuple(Cells(rng.random((n, genes), np.float32), rng.random((m, genes), np.float32)) for _ in range(2))  # type: ignore[return-value]


def test_what_is_kept_is_bounded_and_no_view_of_all_cells() -> None:
    pairs, genes = 60, 100_000
    sample, both = MapSample(pairs, genes, 42), cells(genes)
    for place in range(pairs):
        sample.add(place, both)
    kept = sample._values
    assert sum(values.nbytes for values in kept) <= MAP_BYTES and all(values.base is None for values in kept)
    shown = len(kept) // 4
    assert {len(values) for values in kept} == {LEAST_EACH} and 1 < shown < pairs and sample.left_out == pairs - shown
    assert sample.remarks == [f"The map has the cells of the first {shown} pairs; {pairs - shown} more would be too many cells."]


def test_few_pairs_fill_the_map(tmp_path: Path) -> None:
    sample = MapSample(3, 20, 42)
    for place in range(3):
        sample.add(place, cells(20, 500, 700, place))
    assert not sample.remarks
    sample.write(tmp_path, silent)
    place = read_map(tmp_path / "map.npz")
    stored = np.load(tmp_path / "cells.npy")
    each = MAP_CELLS // 6
    assert len(place.xy) == len(stored) == 12 * each and np.isfinite(place.xy).all()
    for pair in range(3):
        for side, one in enumerate(cells(20, 500, 700, pair)):
            for control, values in ((False, one.own), (True, one.control)):
                rows = stored[(place.pair == pair) & (place.side == side) & (place.control == control)]
                assert len(rows) == each and {row.tobytes() for row in rows} <= {row.tobytes() for row in values}
