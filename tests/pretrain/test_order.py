"""The order of cells: every cell once a pass, the same whenever asked, in windows."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.pretrain.order import CellOrder, Position


def cells(order: CellOrder, first: int, n: int) -> list[tuple[int, int]]:
    found = []
    for at, many in order.parts(first, n):
        window = order.window(at.epoch, at.window)
        part = slice(at.cell, at.cell + many)
        found += list(zip(window.files[part].tolist(), window.places[part].tolist(), strict=True))
    return found


@pytest.mark.parametrize("sizes", [(1,), (7, 100), (64, 65, 3), (10, 1, 300)])
def test_every_cell_once_in_each_pass(sizes: tuple[int, ...]) -> None:
    order, total = CellOrder(sizes, 3, run=8, window=4), sum(sizes)
    everyone = {(file, place) for file, size in enumerate(sizes) for place in range(size)}
    for epoch in range(3):
        seen = cells(order, epoch * total, total)
        assert len(seen) == total and set(seen) == everyone
    if total > 50:
        assert cells(order, 0, total) != cells(order, total, total) != sorted(everyone)


def test_it_does_not_matter_from_where_it_is_asked() -> None:
    whole = cells(CellOrder((50, 31), 1, run=4, window=3), 0, 200)
    for first in (0, 1, 47, 80, 81, 82, 161):
        assert cells(CellOrder((50, 31), 1, run=4, window=3), first, 19) == whole[first : first + 19]
    assert cells(CellOrder((50, 31), 2, run=4, window=3), 0, 40) != whole[:40]


def test_a_position_counts_passes_windows_and_cells() -> None:
    order = CellOrder((20,), 0, run=5, window=2)
    assert [order.position(n) for n in (0, 9, 10, 20, 33)] == [
        Position(0, 0, 0), Position(0, 0, 9), Position(0, 1, 0), Position(1, 0, 0), Position(1, 1, 3),
    ]  # fmt: skip


def test_a_window_is_no_more_than_its_runs() -> None:
    order = CellOrder((64 * 200,), 0)
    window = order.window(0, 0)
    assert len(window.files) == 64 * 64 and len(np.unique(window.places // 64)) == 64
    assert not np.array_equal(np.sort(window.places), window.places)
