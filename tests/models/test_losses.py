"""Distances between sets: against geomloss' numbers, against the definition, and what training needs of them."""

from __future__ import annotations

import inspect
import json
import subprocess
from pathlib import Path

import pytest
import torch

from state_engine.models.losses import energy_distance

# geomloss 0.3.1, SamplesLoss("energy") in float64 on `sets(...)`: arguments, losses, norm of the gradient
GEOMLOSS = [
    ((0, 3, 5, 4, 7, 0.3), [0.45016712860150976, 0.5239061879390459, 0.5675476470336981], 0.5962628118403114),
    ((1, 2, 32, 32, 50, 0.0), [0.08276795764376166, 0.09086698367580315], 0.04265072878190499),
    ((2, 1, 1, 3, 4, 1.0), [1.8345922898642735], 0.9841005704639951),
    ((3, 2, 16, 16, 200, 0.05), [0.43116673559538743, 0.45621487844076114], 0.10536510457611614),
]


def sets(seed: int, b: int, s: int, t: int, g: int, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(b, s, g, generator=generator, dtype=torch.float64)
    return x, torch.rand(b, t, g, generator=generator, dtype=torch.float64) + shift


PEER = f"""
import json, torch
from geomloss import SamplesLoss
{inspect.getsource(sets)}
arguments = [(7, 2, 64, 48, 300, 0.1), (8, 3, 6, 6, 9, 0.0)]
print(json.dumps([(a, SamplesLoss(loss="energy", blur=0.05)(*sets(*a)).tolist()) for a in arguments]))
"""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("arguments", "losses", "gradient"), GEOMLOSS)
def test_the_energy_distance_is_that_of_geomloss(arguments, losses, gradient, dtype):
    predicted, observed = (x.to(dtype) for x in sets(*arguments))
    predicted.requires_grad_()
    loss = energy_distance(predicted, observed)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx(losses, abs=1e-5)
    assert float(predicted.grad.norm()) == pytest.approx(gradient, abs=1e-5)


@pytest.mark.parity
def test_the_energy_distance_is_that_of_geomloss_live(peer_python: Path):
    answer = subprocess.run([peer_python, "-c", PEER], capture_output=True, text=True, check=True)
    for arguments, losses in json.loads(answer.stdout):
        assert energy_distance(*sets(*arguments)).tolist() == pytest.approx(losses, abs=1e-5)


def test_it_is_the_definition():
    x, y = sets(4, 1, 3, 4, 2, 0.5)

    def mean(a, b):
        return sum(float((p - q).norm()) for p in a for q in b) / (len(a) * len(b))

    expected = mean(x[0], y[0]) - mean(x[0], x[0]) / 2 - mean(y[0], y[0]) / 2
    assert float(energy_distance(x, y)) == pytest.approx(expected, abs=1e-4)


def test_it_has_no_order_and_no_origin_and_is_zero_for_equal_sets():
    x, y = (t.float() for t in sets(5, 2, 16, 16, 30, 0.2))
    loss = energy_distance(x, y)
    assert torch.allclose(energy_distance(x[:, torch.randperm(16)], y.flip(1)), loss, atol=1e-6)
    assert torch.allclose(energy_distance(x + 100, y + 100), loss, atol=1e-4)
    assert energy_distance(x, x.flip(1)).abs().max() < 1e-3 < 0.05 < loss.min()


def test_identical_cells_have_a_finite_gradient():
    x = torch.ones(1, 4, 6, requires_grad=True)
    energy_distance(x, torch.ones(1, 4, 6)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_following_its_gradient_brings_the_sets_together():
    x, y = (t.float() for t in sets(6, 1, 24, 24, 5, 2.0))
    moving = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([moving], lr=0.1)
    before = float(energy_distance(x, y))
    for _ in range(60):
        optimiser.zero_grad()
        energy_distance(moving, y).sum().backward()
        optimiser.step()
    assert float(energy_distance(moving.detach(), y)) < 0.1 * before
