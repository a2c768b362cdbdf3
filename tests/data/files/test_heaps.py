"""A heap whose objects have no end is refused before libhdf5 reads it; good files of every layout pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.config import DEMO
from state_engine.data.files.heaps import HEAD, OBJECT, START, check_heaps
from state_engine.data.files.safety import check_file
from state_engine.errors import UnreadableFileError
from tests.data.good_files import cells, write


def first_free(raw: bytes) -> int:
    """Return where the free space of the first heap begins."""
    place = raw.index(START) + HEAD.size
    while OBJECT.unpack_from(raw, place)[0]:
        place += OBJECT.size + (OBJECT.unpack_from(raw, place)[3] + 7) // 8 * 8
    return place


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_heap_without_end_is_refused_at_once(tmp_path: Path, size: int) -> None:
    path = write(cells(), tmp_path / "cells.h5ad")
    raw = bytearray(path.read_bytes())
    place = first_free(raw)
    raw[place : place + OBJECT.size] = OBJECT.pack(0, 0, 0, size)
    path.write_bytes(raw)
    with pytest.raises(UnreadableFileError, match=rf"cells\.h5ad is damaged.*heap at byte {raw.index(START):,}"):
        check_file(path)


@pytest.mark.parametrize("cut", [8, 12, 20, 40])
def test_a_heap_that_is_cut_off_ends(tmp_path: Path, cut: int) -> None:
    path = write(cells(), tmp_path / "cells.h5ad")
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(START) + cut])
    check_heaps(path, path.stat().st_size)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_good_files_pass(tmp_path: Path, layout: str) -> None:
    for path in (write(cells(layout=layout), tmp_path / "cells.h5ad"), DEMO / "demo.h5ad"):
        assert START in path.read_bytes()
        check_heaps(path, path.stat().st_size)
