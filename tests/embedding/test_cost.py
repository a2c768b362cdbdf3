"""The time of a cell: by what was embedded here where there is any, and more for larger networks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from state_engine.embedding.cost import embedding_cost
from tests.small_embedding import embedding_config


def test_larger_networks_take_longer_and_what_was_measured_counts() -> None:
    small = embedding_config(layers=2, tokens=64)
    for change in ({"layers": 4}, {"tokens": 256}, {"hidden": 4 * small.hidden}, {"feed_forward": 8 * small.feed_forward}):
        assert embedding_cost(replace(small, **change)).seconds_a_cell > embedding_cost(small).seconds_a_cell
    large = replace(small, layers=9)
    assert not embedding_cost(large).measured
    same = embedding_cost(large, [(small, 0.001), (large, 0.5)])
    assert same.measured and same.seconds_a_cell == 0.5
    scaled = embedding_cost(large, [(small, 0.001)])
    ratio = embedding_cost(large).seconds_a_cell / embedding_cost(small).seconds_a_cell
    assert scaled.measured and scaled.seconds_a_cell == pytest.approx(0.001 * ratio)
