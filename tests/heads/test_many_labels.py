"""Thousands of labels: what a report leaves out, said in words; the memory does not grow with the square of the labels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from state_engine.heads import metrics
from state_engine.heads.split import Division
from state_engine.heads.tables import MOST_IN_MATRIX, confusion_of, label_counts, left_out, places_of
from state_engine.heads.targets import Targets

K, EACH = 1000, 3


@pytest.fixture(scope="module")
def many() -> tuple[Targets, Division, np.ndarray]:
    values = np.repeat(np.arange(K), EACH)
    targets = Targets("classification", np.arange(K * EACH), values, tuple(f"t{i}" for i in range(K)))
    place = np.arange(K * EACH) % EACH
    train, validation, test = (np.flatnonzero(place == i) for i in range(3))
    called = np.full((K, K), 0.1 / K)
    called[np.arange(K), (np.arange(K) + (np.arange(K) < 30)) % K] = 0.9  # the first thirty are called their neighbour
    return targets, Division(train, validation, test, np.full(K * EACH, "", object)), called


def test_the_table_is_left_out_and_each_label_counted_without_a_table_of_all(many) -> None:
    targets, parts, called = many
    assert confusion_of(targets, targets.values[parts.test], called) == ()
    (said,) = left_out(targets, called)
    assert f"{K:,} labels" in said and f"{MOST_IN_MATRIX:,} at most" in said
    tracemalloc.start()
    counts = label_counts(targets, parts, called)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < K * K  # bytes: a table of cells by labels would take eight a value, and three of them stood here
    assert [c.recall for c in counts[:31]] == [0.0] * 30 + [1.0] and counts[0].precision is None and counts[30].precision == 0.5
    assert all((c.train, c.validation, c.test) == (1, 1, 1) for c in counts)


def test_too_many_cells_and_labels_give_no_interval_of_the_area(many, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, _, called = many
    monkeypatch.setattr(metrics, "MOST_ORDERED", 100)
    assert any("AUROC has no interval" in said for said in left_out(targets, called))
    truth, small = np.array([0, 1, 2, 1]), np.eye(3)[[0, 1, 2, 2]]
    monkeypatch.setattr(metrics, "MOST_ORDERED", 2)
    found = {s.metric: s for s in metrics.scores("classification", truth, small, 20, 0)}
    assert found["auroc"].value is not None and found["auroc"].low is None and found["recall"].low is not None


def test_places_of_few_cells_and_of_one_column() -> None:
    assert places_of(np.ones((1, 4), np.float32), 0).tolist() == [[0.0, 0.0]]
    assert places_of(np.array([[1.0], [3.0]], np.float32), 0)[:, 1].tolist() == [0.0, 0.0]
    rng = np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32)
    assert np.array_equal(places_of(rng, 5), places_of(rng, 5)) and places_of(rng, 5).shape == (50, 2)
