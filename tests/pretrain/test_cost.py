"""The estimate of a pretraining: weights as they are, time by steps and sizes, and by the rate that was measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.pretrain.cost import Pace, count_parameters, estimate_pretraining, pace_of
from state_engine.pretrain.request import PretrainRequest, Schedule, Sizes, Task
from state_engine.pretrain.run_folder import PretrainRecord, write_pretraining


@pytest.mark.parametrize("sizes", [Sizes(), Sizes(hidden=256, layers=6, heads=8, feed_forward=1024, output_dim=128)])
def test_the_weights_are_those_of_the_network(sizes: Sizes) -> None:
    config = EmbeddingConfig(
        genes=50, token_dim=sizes.gene_width, hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads,
        feed_forward=sizes.feed_forward, output_dim=sizes.output_dim, tokens=sizes.tokens, dropout=0.0,
    )  # fmt: skip
    there = sum(p.numel() for p in EmbeddingModel(config).parameters())
    assert count_parameters(sizes) == pytest.approx(there, rel=0.12)


def test_time_grows_with_steps_and_sizes_and_follows_what_was_measured() -> None:
    request = PretrainRequest(("x.h5ad",))
    short, long, wide = (
        estimate_pretraining(replace(request, **change)).seconds
        for change in (
            {"schedule": Schedule(steps=100)},
            {"schedule": Schedule(steps=1000)},
            {"sizes": Sizes(hidden=512, heads=8)},
        )
    )
    assert short < long < wide
    same = estimate_pretraining(request, before=[Pace(request, 0.2)])
    assert same.measured and 400 <= same.seconds <= 420
    other = replace(request, sizes=Sizes(hidden=512, heads=8))
    usual, slow = (estimate_pretraining(other, before=before).seconds - 12 for before in ((), [Pace(request, 0.2)]))
    here = estimate_pretraining(request).seconds - 12
    assert slow == pytest.approx(usual * 400 / here)
    both = estimate_pretraining(request, before=[Pace(other, 9.0), Pace(request, 0.2)])
    assert both.seconds == same.seconds  # the one of the same size, although it is not the newest


def test_the_pace_is_that_of_the_steps_that_were_done(tmp_path: Path) -> None:
    request = PretrainRequest(("x.h5ad",))
    write_pretraining(tmp_path, PretrainRecord(1, request, state="cancelled", device="cpu"))
    assert pace_of(tmp_path) is None
    seconds = [9.0 + step / 4 for step in range(1, 31)]  # the first step took 9 s more
    lines = ["step,loss,seconds", *(f"{step},1,{value}" for step, value in enumerate(seconds, 1)), ""]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    assert pace_of(tmp_path) == Pace(request, 0.25)
    (tmp_path / "log.csv").write_text("\n".join(lines[:10]) + "\n")
    assert pace_of(tmp_path) is None
    write_pretraining(tmp_path, PretrainRecord(1, request, device="cuda (some GPU)"))
    assert pace_of(tmp_path) is None


@pytest.mark.parametrize(
    ("sizes", "task", "cells", "seconds"),
    [
        (Sizes(hidden=64, layers=1, feed_forward=128, tokens=128, gene_width=64), Task(), 32, 0.119),
        (Sizes(hidden=64, feed_forward=128, output_dim=32, tokens=128, gene_width=64), Task(), 16, 0.073),
        (Sizes(hidden=64, feed_forward=128, tokens=64, gene_width=64), Task(24, 24, 24), 32, 0.086),
        (Sizes(), Task(), 32, 0.591),
    ],
)
def test_without_runs_it_is_within_a_factor_of_two(
    sizes: Sizes, task: Task, cells: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against seconds per step on one core of the machine on which the rate was taken."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    request = PretrainRequest(("x",), sizes=sizes, task=task, schedule=Schedule(steps=1000, cells_per_step=cells))
    assert 0.5 < (estimate_pretraining(request).seconds - 12) / (1000 * seconds) < 2
