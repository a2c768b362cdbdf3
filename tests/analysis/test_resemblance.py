"""Predictions that look alike are told: the median correlation of effects, by hand, beside that of measured ones."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from state_engine.analysis.resemblance import RESEMBLANCE, Resemblance, read_resemblance, resemblance
from state_engine.errors import RunError
from state_engine.files import write_json
from state_engine.plain import to_plain
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result

NAMES = ("drugA", "drugB", "drugC", "drugD")


def test_by_hand(tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "result.h5ad", perturbations=NAMES))
    found = resemblance(result)
    assert found is not None and (found.pairs, found.measured_pairs) == (12, 12)
    expected = []
    for context in ("B", "T"):
        base = result.read(result.rows("predicted control", context)).mean(axis=0)
        effects = [result.read(result.rows("predicted", context, p)).mean(axis=0) - base for p in NAMES]
        expected += [np.corrcoef(a, b)[0, 1] for a, b in combinations(effects, 2)]
    assert found.predicted == pytest.approx(float(np.median(expected)), abs=1e-5)
    assert found.measured is not None and not found.alike and "hardly differ" not in found.words()


def test_predictions_that_are_alike_are_told() -> None:
    alike = Resemblance(0.99, 12, 0.2, 12)
    assert alike.alike and "0.99" in alike.words() and "measured ones 0.20" in alike.words() and "hardly differ" in alike.words()
    assert not Resemblance(0.95, 12, 0.9, 12).alike  # so are the measured ones
    assert Resemblance(0.95, 12).alike


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert resemblance(open_result(make_result(tmp_path / "two.h5ad"))) is None  # two perturbations make one pair
    assert read_resemblance(tmp_path) is None
    write_json(tmp_path / RESEMBLANCE, to_plain(Resemblance(0.9, 3)))
    assert read_resemblance(tmp_path) == Resemblance(0.9, 3)
    (tmp_path / RESEMBLANCE).write_text("{")
    with pytest.raises(RunError):
        read_resemblance(tmp_path)
