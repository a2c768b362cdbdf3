"""Adapters: nothing at first, the numbers of PEFT's merged ones, and only they are trained in the backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from state_engine.checkpoints.arc.names_in import translate
from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.checkpoints.arc.read import read_arc
from state_engine.errors import ConfigError
from state_engine.models.config import BackboneConfig
from state_engine.models.embedding import EmbeddingModel
from state_engine.models.lora import AdaptedLinear, adapters, add_adapters, merge, merged_state_dict, train_only
from state_engine.models.transition import TransitionModel
from tests.small import GENES, config
from tests.small_embedding import embedding_config, random_model, random_vectors

FIXTURES = Path(__file__).resolve().parents[1] / "parity" / "fixtures"
GPT2 = BackboneConfig("gpt2", hidden=8, layers=2, heads=2, kv_heads=2, head_dim=4, intermediate=16)
SHARED = BackboneConfig("llama", hidden=8, layers=2, heads=4, kv_heads=2, head_dim=3, intermediate=16)
PARTS = {"q": 0, "k": 1, "v": 2}


def network(**changes) -> TransitionModel:
    torch.manual_seed(0)
    return TransitionModel(config(**changes)).eval()


def predict(model: TransitionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    basal = torch.rand(2, 5, len(GENES), generator=generator)
    return model(basal, torch.eye(4)[:2], attention="full").predicted


def disturb(model: TransitionModel) -> None:
    """Adapters that do something."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, AdaptedLinear):
            for up in module.b:
                torch.nn.init.normal_(up)


@pytest.mark.parametrize("backbone", [None, GPT2, SHARED])
@pytest.mark.parametrize("feed", [False, True])
def test_adapters_do_nothing_at_first_and_merge_into_plain_weights(backbone, feed):
    model = network(**({"backbone": backbone} if backbone else {}))
    before, names = predict(model), set(model.state_dict())
    assert add_adapters(model, 2, 6.0, feed=feed) == len(adapters(model)) == (8 if feed else 4)
    assert torch.equal(predict(model), before)
    disturb(model)
    adapted = predict(model)
    assert (adapted - before).abs().max() > 1e-3
    plain = merged_state_dict(model)
    assert set(plain) == names
    fresh = network(**({"backbone": backbone} if backbone else {}))
    fresh.load_state_dict(plain)
    assert torch.allclose(predict(fresh), adapted, atol=1e-5)
    assert merge(model) == (8 if feed else 4)
    assert set(model.state_dict()) == names
    assert torch.allclose(predict(model), adapted, atol=1e-5)
    assert (adapters(model), merge(model)) == ((), 0)


def test_only_adapters_are_trained_in_the_backbone():
    model = network(dropout=0.1).train()
    add_adapters(model, 2, 4.0, dropout=0.5)
    disturb(model)
    frozen = {name: p.clone() for name, p in model.backbone.named_parameters() if not p.requires_grad}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".a." in name or ".b." in name for name in trained if name.startswith("backbone."))
    assert any(name.startswith("basal_encoder.") for name in trained)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    predict(model).square().sum().backward()
    optimiser.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.backbone.named_parameters() if name in frozen)
    merge(model)
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_of_adapters_is_for_training_only():
    model = network(dropout=0.0)
    add_adapters(model, 2, 4.0, dropout=0.9)
    disturb(model)
    assert torch.equal(predict(model), predict(model))
    model.train()
    assert not torch.equal(predict(model), predict(model))


@pytest.mark.parametrize("name", ["lora", "lora_mlp"])
def test_adapters_give_the_numbers_of_peft(name):
    """Adapters of the reference, kept apart here, beside the model they were merged into."""
    weights = load_torch(FIXTURES / name / "checkpoints" / "final.ckpt")["state_dict"]
    card, merged, _ = read_arc(FIXTURES / name)
    whole, kept = TransitionModel(card.config).eval(), TransitionModel(card.config).eval()
    whole.load_state_dict(merged)
    kept.load_state_dict(translate({n: t for n, t in weights.items() if ".lora_" not in n}, None, None)[0])
    rank, alpha = (4, 8.0) if name == "lora" else (2, 3.0)
    add_adapters(kept, rank, alpha, feed=name == "lora_mlp")
    take_adapters(kept, weights)
    basal, one = torch.rand(2, 5, card.config.input_dim), torch.eye(4)[:2]
    expected = whole(basal, one, attention="full").predicted
    assert torch.allclose(kept(basal, one, attention="full").predicted, expected, atol=1e-5)
    assert all(torch.allclose(tensor, merged[n], atol=1e-6) for n, tensor in merged_state_dict(kept).items())
    kept.load_state_dict(kept.state_dict())  # adapters are saved and read like other weights


@torch.no_grad()
def take_adapters(model: TransitionModel, weights: dict[str, torch.Tensor]) -> None:
    """Copy PEFT's adapters of a llama backbone into ours."""
    for number, layer in enumerate(model.backbone.layers):
        places = {f"self_attn.{letter}_proj": (layer.attention.qkv, part) for letter, part in PARTS.items()}
        places["self_attn.o_proj"] = (layer.attention.out, 0)
        if isinstance(layer.feed.down, AdaptedLinear):
            places |= {"mlp.gate_proj": (layer.feed.gate_up, 0), "mlp.up_proj": (layer.feed.gate_up, 1)}
            places["mlp.down_proj"] = (layer.feed.down, 0)
        for place, (adapted, part) in places.items():
            stem = f"transformer_backbone.base_model.model.layers.{number}.{place}.lora_"
            adapted.a[part].copy_(weights[f"{stem}A.default.weight"])
            adapted.b[part].copy_(weights[f"{stem}B.default.weight"])


def test_adapters_that_cannot_be():
    model = network()
    with pytest.raises(ConfigError, match="rank must be 1"):
        add_adapters(model, 0, 4.0)
    add_adapters(model, 1, 4.0)
    with pytest.raises(ConfigError, match="adapters already"):
        add_adapters(model, 1, 4.0)


def test_adapters_of_a_state_embedding_network() -> None:
    """The last layer reads weights itself: it sees the adapters too, and gradients reach them; merged, the numbers stay."""
    made = embedding_config()
    model = random_model(made).prepare(random_vectors(made))
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, made.genes, (4, 12), generator=generator)
    rows[:, 0] = model.cls_row
    counts = torch.rand(4, 12, generator=generator)
    before = model(rows, counts).cell
    assert train_only(model, "lora", rank=2) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert torch.equal(model(rows, counts).cell, before) and len(adapters(model)) == 4
    disturb(model)
    after = model(rows, counts).cell
    assert not torch.allclose(after, before, atol=1e-3)
    (after**2 * torch.arange(8.0)).sum().backward()
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    assert wanted == {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert len(wanted) == 2 * (3 + 1) * 2  # layers x parts x both matrices
    plain = EmbeddingModel(made).eval()
    plain.load_state_dict(merged_state_dict(model))
    assert torch.allclose(plain.prepare(random_vectors(made))(rows, counts).cell, after, atol=1e-5)


def test_the_last_layers_are_trained_alone() -> None:
    model = network()
    count = train_only(model, "last", 1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert count > 0 and all(name.startswith(("backbone.layers.1.", "backbone.norm.")) for name in trained)
    with pytest.raises(ConfigError, match="The last 3 layers"):
        train_only(model, "last", 3)
