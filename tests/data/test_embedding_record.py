"""What a file says about its embeddings is a stranger's word: a record that makes no sense counts as none."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from state_engine.data.embedding_record import EMBEDDINGS, embeddings_of
from tests.small import write_cells


@pytest.mark.parametrize(
    "record",
    ['{"X_pca": {"cell_width": 1e999}}', '{"X_pca": {"cell_width": "wide"}}', '{"X_pca": [1]}', "[" * 5000, "{", '"text"', "[1]"],
    ids=["endless", "a word", "a list", "nested", "cut", "text", "numbers"],
)
def test_a_record_that_makes_no_sense_counts_as_none(tmp_path: Path, record: str) -> None:
    path = write_cells(tmp_path / "cells.h5ad")
    with h5py.File(path, "a") as file:
        file[f"uns/{EMBEDDINGS}"] = record
    assert embeddings_of(path) == {}
