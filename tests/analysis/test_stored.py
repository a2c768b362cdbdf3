"""Comparisons kept in a run folder: written once, read back whole, made again when the result changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from state_engine.analysis import differential as de
from state_engine.analysis import stored
from state_engine.analysis.effects import compare, effect_sizes
from state_engine.errors import RunError
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_result(tmp_path / "result.h5ad")
    return tmp_path


def test_what_is_read_is_what_was_compared(run: Path) -> None:
    found = stored.read_comparison(stored.comparison_for(run, "drugA", "B"))
    direct = compare(open_result(run / "result.h5ad"), "drugA", "B")
    assert replace(found, genes=direct.genes) == replace(direct, genes=direct.genes)
    assert found.genes.equals(direct.genes)
    assert [s.reason for s in found.scores if s.method == "mean of other contexts"] == [
        "The run has no means of the measured cells."
    ]


def test_a_stored_comparison_is_not_made_twice(run: Path) -> None:
    path = stored.comparison_for(run, "drugA", "B")
    before = path.stat().st_mtime_ns
    assert stored.comparison_for(run, "drugA", "B").stat().st_mtime_ns == before


def test_a_new_result_has_no_old_comparison(run: Path) -> None:
    path = stored.comparison_for(run, "drugA", "B")
    os.utime(run / "result.h5ad", ns=(1, 1))
    assert stored.comparison_path(run, "drugA", "B") != path


def test_an_answer_is_the_table_and_the_comparison(run: Path) -> None:
    path = stored.answer(run, "drugB", "T")
    assert path == de.table_path(run, "drugB", "T")
    assert path.exists() and stored.comparison_path(run, "drugB", "T").exists()


def test_what_was_not_measured_is_not_compared(tmp_path: Path) -> None:
    make_result(tmp_path / "result.h5ad", observed=False)
    assert stored.answer(tmp_path, "drugA", "B").exists()
    assert not stored.comparison_path(tmp_path, "drugA", "B").exists()
    assert not stored.is_measured(open_result(tmp_path / "result.h5ad"), "drugA", "B")


def test_a_damaged_comparison_is_named(run: Path) -> None:
    path = stored.comparison_for(run, "drugA", "B")
    path.with_suffix(".parquet").write_bytes(b"nothing")
    with pytest.raises(RunError, match="cannot be read"):
        stored.read_comparison(path)
    path.write_text("{}")
    with pytest.raises(RunError, match="cannot be read"):
        stored.read_comparison(path)


def test_the_sizes_of_effects_are_stored_once(run: Path) -> None:
    path = stored.effects_for(run)
    pd.testing.assert_frame_equal(de.read_table(path), effect_sizes(open_result(run / "result.h5ad")))
    made = path.stat().st_mtime_ns
    assert stored.effects_for(run) == path == stored.effects_path(run) and path.stat().st_mtime_ns == made
    os.utime(run / "result.h5ad", ns=(1, 1))
    assert stored.effects_path(run) != path
