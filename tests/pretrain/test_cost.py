"""The estimate of a pretraining: weights as they are, time by steps and sizes, and by the rate that was measured here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from state_engine.models.embedding import EmbeddingModel
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.pretrain.cost import count_parameters, estimate_pretraining, operations, rate_of
from state_engine.pretrain.request import PretrainRequest, Schedule, Sizes
from state_engine.pretrain.run_folder import PretrainRecord


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
    record = PretrainRecord(1, request, steps=2000, seconds=400.0)
    rate = rate_of(record)
    assert rate == pytest.approx(operations(request) * 5)
    found = estimate_pretraining(request, rate=rate)
    assert found.measured and 400 <= found.seconds <= 420
    assert rate_of(replace(record, steps=3)) is None and rate_of(replace(record, seconds=0.0)) is None
