"""The two rules by which genes are called, and that every count says its own."""

from __future__ import annotations

import numpy as np
import pytest

from state_engine.metrics.profile import Metric
from state_engine.metrics.profiles import HOUSE
from state_engine.metrics.rules import BY_CHANGE, BY_FDR, change_words, changed, detected, significant


def test_the_rules_by_hand() -> None:
    assert significant(np.array([0.049, 0.05, 1.0])).tolist() == [True, False, False]
    there = detected(np.array([0.0, 0.01, 0.0099]), np.array([0.02, 0.0, 0.0]))
    assert there.tolist() == [True, True, False]
    change = np.array([0.25, -0.3, 5.0])
    assert changed(change, there).tolist() == [1, -1, 0]
    assert changed(change, there, fold=0.28).tolist() == [0, -1, 0]


@pytest.mark.parametrize("name", ["de_called", "de_genes", "de_null"])
def test_a_count_of_evaluate_says_its_rule(name: str) -> None:
    metric: Metric | None = HOUSE["full"].metric(name)
    assert metric is not None and metric.title.endswith(f"({BY_FDR})")


def test_the_words_hold_the_numbers() -> None:
    assert (BY_FDR, BY_CHANGE) == ("FDR < 0.05", "|log2FC| ≥ 0.25")
    assert change_words(0.5) == "|log2 fold change| ≥ 0.5, detected in 1% of the cells of one side"
