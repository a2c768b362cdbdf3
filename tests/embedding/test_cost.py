"""The time of a cell: by what was embedded here where there is any, and more for larger networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.embedding.cost import SPEEDS, embedding_cost, remember_speed, speeds_here
from state_engine.embedding.speed import measure_speed
from state_engine.errors import JobCancelled
from state_engine.models.embedding import EmbeddingModel
from state_engine.progress import Progress
from tests.small_embedding import embedding_config, random_model, random_vectors


def test_larger_networks_take_longer_and_what_was_measured_counts() -> None:
    small = embedding_config(layers=2, tokens=64)
    for change in ({"layers": 4}, {"tokens": 256}, {"hidden": 4 * small.hidden}, {"feed_forward": 8 * small.feed_forward}):
        assert embedding_cost(replace(small, **change)).seconds_a_cell > embedding_cost(small).seconds_a_cell
    large = replace(small, layers=9)
    assert not embedding_cost(large).measured
    same = embedding_cost(large, [(small, 0.001), (large, 0.5)])
    assert same.measured and same.same and same.seconds_a_cell == 0.5
    scaled = embedding_cost(large, [(small, 0.001)])
    ratio = embedding_cost(large).seconds_a_cell / embedding_cost(small).seconds_a_cell
    assert scaled.measured and not scaled.same and scaled.seconds_a_cell == pytest.approx(0.001 * ratio)


def test_what_was_measured_is_remembered_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = embedding_config(), embedding_config(layers=9)
    assert speeds_here(tmp_path) == []
    for config, seconds in ((small, 0.1), (large, 0.5), (small, 0.2)):
        remember_speed(tmp_path / "home", config, seconds)
    assert speeds_here(tmp_path / "home") == [(small, 0.2), (large, 0.5)]
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert speeds_here(tmp_path / "home") == []
    remember_speed(tmp_path / "home", small, 9.0)
    monkeypatch.undo()
    assert speeds_here(tmp_path / "home") == [(small, 0.2), (large, 0.5)]
    (tmp_path / "home" / SPEEDS).write_text("{")
    assert speeds_here(tmp_path / "home") == []


def test_a_larger_network_is_measured_slower_and_a_wish_to_stop_is_heard() -> None:
    def model(**changes: int) -> EmbeddingModel:
        config = embedding_config(tokens=256, **changes)
        return random_model(config).prepare(random_vectors(config))

    small = measure_speed(model(), seconds=0.0)
    assert 0 < small < measure_speed(model(layers=6, hidden=128, feed_forward=512), seconds=0.0)

    def stop(progress: Progress) -> None:
        raise JobCancelled("Enough.")

    with pytest.raises(JobCancelled):
        measure_speed(model(), stop)
