"""One step of a training: sets of several sizes give the numbers of each set alone; schedules and the mean of the weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from state_engine.models.distances import energy_distance
from state_engine.models.losses import set_means
from state_engine.models.transition import TransitionModel
from state_engine.train.mini_batches import SetCells
from state_engine.train.module import TransitionTraining, learning_rate
from state_engine.train.network import network_config
from state_engine.train.watch import mini_batch, validation_scores
from tests.train.small import SMALL


def training(**changes: object) -> TransitionTraining:
    request = SMALL.with_settings(control_mapping="batch", batch_token=True, confidence_token=True, **changes)
    torch.manual_seed(0)
    network = TransitionModel(network_config(request, 6, 3, 2)).eval()
    return TransitionTraining(request, network, torch.eye(3), 2)


def cells(*sizes: int) -> SetCells:
    rng = np.random.default_rng(0)
    n = sum(sizes)
    basal, observed = (rng.random((n, 6)).astype(np.float32) for _ in range(2))
    return SetCells(np.array(sizes), np.arange(len(sizes)) % 3, basal, observed, np.zeros(n, np.int64), None)


def one(many: SetCells, which: int) -> SetCells:
    first = int(many.sizes[:which].sum())
    here = slice(first, first + int(many.sizes[which]))
    label = many.perturbations[which : which + 1]
    return SetCells(many.sizes[which : which + 1], label, many.basal[here], many.observed[here], many.batches[here], None)


def test_sets_of_several_sizes_are_each_as_alone():
    made, many = training(), cells(5, 3, 8)
    batch = mini_batch(many, False)
    together = made.predict(batch)
    distances = made.objective.distances(together.predicted, batch.observed, batch.sizes)
    for i, predicted in enumerate(together.predicted.split(batch.sizes)):
        alone = mini_batch(one(many, i), False)
        output = made.predict(alone)
        assert torch.allclose(output.predicted, predicted, atol=1e-5)
        assert torch.allclose(output.confidence, together.confidence[i : i + 1], atol=1e-5)
        assert torch.allclose(output.token, together.token[i : i + 1], atol=1e-5)
        assert torch.allclose(distances[i], energy_distance(predicted[None], alone.observed[None])[0], atol=1e-6)
    assert torch.equal(set_means(batch.observed, batch.sizes)[1], batch.observed[5:8].mean(0))


def test_validation_scores_are_means_over_sets_however_they_come():
    made, many = training(), cells(4, 4, 7)
    whole, apart = validation_scores(made, [many]), validation_scores(made, [one(many, i) for i in range(3)])
    assert whole == pytest.approx(apart, rel=1e-5)
    truth = [abs(one(many, i).basal.mean(0) - one(many, i).observed.mean(0)).mean() for i in range(3)]
    assert whole["mae_none"] == pytest.approx(np.mean(truth), rel=1e-5)


def test_the_learning_rate_rises_and_falls():
    cosine = SMALL.with_settings(steps=100, warmup=10, learning_rate=2.0)
    assert learning_rate(cosine.optimiser, 0) == pytest.approx(0.2) and learning_rate(cosine.optimiser, 100) == pytest.approx(0)
    assert learning_rate(cosine.optimiser, 50) == pytest.approx(2 * (1 + math.cos(math.pi / 2)) / 2)
    constant = cosine.with_settings(schedule="constant")
    assert [learning_rate(constant.optimiser, k) for k in (9, 60)] == [2.0, 2.0]


def test_the_mean_of_the_weights_follows_and_steps_in_for_them():
    made = training(ema=0.9)
    made.on_train_start()
    name, weight = next(iter(made.network.named_parameters()))
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    made.follow(1)
    assert torch.allclose(made.mean[name], before + 0.9)  # young means forget faster: a tenth of the first weights is left
    made.follow(1000)
    assert torch.allclose(made.mean[name], before + 0.9 + 0.1 * 0.1)
    with made.final_weights() as final:
        assert torch.allclose(dict(final.named_parameters())[name], made.mean[name])
    assert torch.allclose(weight, before + 1)
