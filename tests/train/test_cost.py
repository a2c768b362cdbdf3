"""The estimate of a training: the number of parameters is exact, time and memory grow with what is asked."""

from __future__ import annotations

import pytest

from state_engine.models.transition import TransitionModel
from state_engine.train.cost import count_parameters, estimate_training
from state_engine.train.network import network_config
from state_engine.train.request import TrainRequest

SMALL = TrainRequest().with_settings(hidden=16, layers=2, heads=4, set_size=8)
VARIANTS = {
    "plain": {},
    "one linear": {"encoder_layers": 1, "decoder_layers": 1, "basal_mlp": False},
    "deep": {"encoder_layers": 4, "decoder_layers": 3, "layers": 3, "intermediate": 20},
    "shared keys": {"kv_heads": 2, "head_dim": 6},
    "gpt2": {"backbone": "gpt2"},
    "tokens": {"confidence_token": True, "batch_token": True, "control_mapping": "batch"},
    "batches": {"batch_encoder": True},
    "genes": {"output_space": "genes"},
    "embedding": {"embedding": "X_state"},
    "decoder": {"embedding": "X_state", "gene_decoder": True, "decoder_hidden": (12, 10)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_of_the_network(name: str) -> None:
    config = network_config(SMALL.with_settings(**VARIANTS[name]), 24, 5, batches=3, decoded=9)
    assert count_parameters(config) == sum(weight.numel() for weight in TransitionModel(config).parameters())


def test_time_and_memory_grow_with_what_is_asked() -> None:
    def guess(**changes):
        request = SMALL.with_settings(**changes)
        return estimate_training(request, network_config(request, 2000, 30), 5000)

    base = guess()
    assert guess(steps=3000).seconds > 1.6 * base.seconds and guess(hidden=256).seconds > 2 * base.seconds
    assert guess(set_size=256).seconds > 4 * base.seconds and guess(hidden=256).memory_bytes > base.memory_bytes
    on_gpu = estimate_training(SMALL, network_config(SMALL, 2000, 30), 5000, "cuda")
    assert on_gpu.seconds < base.seconds and on_gpu.parameters == base.parameters
