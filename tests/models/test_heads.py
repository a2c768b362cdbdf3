"""The network of a head: features are standardised and projected as scikit-learn does it, and a constant feature stays quiet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from state_engine.errors import ConfigError
from state_engine.models.head_config import HeadConfig
from state_engine.models.heads import Head


@pytest.mark.parametrize("shape", [(80, 12), (12, 80)])
def test_components_are_those_of_a_principal_component_analysis(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * np.linspace(3, 1, shape[1], dtype=np.float32)
    head = Head(HeadConfig("linear", shape[1], 3, components=5))
    head.standardise(torch.from_numpy(x))
    found = head.features(torch.from_numpy(x)).numpy()
    expected = PCA(5, svd_solver="full").fit_transform(x.astype(float))
    expected /= expected.std(0)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-3)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-4)


def test_features_are_standardised_and_a_constant_one_stays_zero() -> None:
    x = torch.randn(50, 4) * torch.tensor([1.0, 10.0, 0.1, 0.0]) + 7
    head = Head(HeadConfig("mlp", 4, 2, hidden=3))
    head.standardise(x)
    found = head.features(x)
    assert torch.allclose(found[:, :3].std(0, unbiased=False), torch.ones(3), atol=1e-3) and (found[:, 3].abs() < 1e-5).all()
    assert head(x).shape == (50, 2)


@pytest.mark.parametrize(
    "wrong", [{"inputs": 0}, {"outputs": 1 << 30}, {"hidden": 0, "kind": "mlp"}, {"dropout": 1.0}, {"components": 9}]
)
def test_sizes_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        HeadConfig(**{"kind": "linear", "inputs": 8, "outputs": 2, **wrong})
