"""Tests of an embedding on cells whose answer is known."""

from __future__ import annotations

import numpy as np

from state_engine.pretrain.assess import auroc, mixing, neighbour_labels, vote


def groups(n: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(["a", "b"], n).astype(object)
    centres = np.zeros((2 * n, 6))
    centres[:n, 0], centres[n:, 1] = apart, apart
    return centres + rng.normal(size=(2 * n, 6)), labels


def test_groups_far_apart_are_told_by_neighbours_and_regression_and_not_mixed() -> None:
    x, labels = groups(100, 20)
    assert (neighbour_labels(x, labels, 0) == labels).all()
    assert auroc(x, labels == "a", 0) == 1 and mixing(x, labels) == 0


def test_without_a_difference_there_is_chance() -> None:
    x, labels = groups(400, 0)
    assert 0.4 < np.mean(neighbour_labels(x, labels, 0) == labels) < 0.6
    assert 0.4 < auroc(x, labels == "a", 0) < 0.6 and 0.9 < mixing(x, labels) < 1.1


def test_votes_are_by_direction_and_ties_by_name() -> None:
    known = np.array([[1.0, 0], [2, 0.1], [0, 1], [0.1, 3]])
    asked = np.array([[100.0, 1], [1, 90]])
    assert vote(known, np.array(["x", "x", "y", "y"]), asked, k=2).tolist() == ["x", "y"]
    assert vote(known, np.array(["z", "a", "z", "a"]), asked, k=2).tolist() == ["a", "a"]
