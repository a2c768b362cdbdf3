from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from state_engine.errors import ConfigError
from state_engine.models.backbones import Backbone
from state_engine.models.config import AttentionMode, BackboneConfig, DecoderConfig, TransitionConfig
from state_engine.models.decoders import GeneDecoder
from state_engine.models.transition import TransitionModel

LLAMA = BackboneConfig("llama", hidden=16, layers=2, heads=4, kv_heads=2, head_dim=6, intermediate=24)
GPT2 = BackboneConfig("gpt2", hidden=16, layers=2, heads=4, kv_heads=4, head_dim=4, intermediate=24, norm_eps=1e-5)
PLAIN = TransitionConfig(10, 10, 5, LLAMA, "hvg", set_size=8, final_relu=False)
MODES: tuple[AttentionMode, ...] = ("full", "causal", "causal-rotary")
VARIANTS = {
    "plain": PLAIN,
    "gpt2": dataclasses.replace(PLAIN, backbone=GPT2),
    "batch encoder": dataclasses.replace(PLAIN, batch_encoder=True, batch_dim=3),
    "tokens": dataclasses.replace(PLAIN, batch_token=True, confidence_token=True),
    "no residual": dataclasses.replace(PLAIN, predict_residual=False),
    "all genes": dataclasses.replace(PLAIN, output_space="genes", input_dim=16, output_dim=16),
    "masked": dataclasses.replace(PLAIN, mask_attention=True),
}


def make(config: TransitionConfig, seed: int = 0) -> TransitionModel:
    """A model whose every weight matters: biases and norms are random too."""
    torch.manual_seed(seed)
    model = TransitionModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def inputs(config: TransitionConfig, sets: int = 3, cells: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    basal = torch.randn(sets, cells, config.input_dim, generator=generator)
    perturbation = torch.randn(sets, config.perturbation_dim, generator=generator)
    return basal, perturbation, torch.randint(0, 3, (sets, cells), generator=generator)


@pytest.mark.parametrize("name", VARIANTS)
def test_permuting_the_cells_of_a_set_permutes_the_predictions(name):
    config = VARIANTS[name]
    model, (basal, perturbation, batch) = make(config), inputs(config)
    order = torch.randperm(basal.shape[1], generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        one = model(basal, perturbation, batch, attention="full")
        other = model(basal[:, order], perturbation, batch[:, order], attention="full")
    assert (one.predicted[:, order] - other.predicted).abs().max() < 1e-5
    if one.confidence is not None:
        assert (one.confidence - other.confidence).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["causal", "causal-rotary"])
def test_causal_cells_do_not_see_those_behind_them(mode):
    model, (basal, perturbation, _) = make(PLAIN), inputs(PLAIN)
    changed = basal.clone()
    changed[:, -1] += 1
    with torch.inference_mode():
        one = model(basal, perturbation, attention=mode).predicted
        other = model(changed, perturbation, attention=mode).predicted
        full = model(changed, perturbation, attention="full").predicted
        before = model(basal, perturbation, attention="full").predicted
    assert (one[:, :-1] - other[:, :-1]).abs().max() < 1e-6
    assert (one[:, -1] - other[:, -1]).abs().max() > 1e-3
    assert (full[:, :-1] - before[:, :-1]).abs().max() > 1e-4


def test_the_three_modes_are_three_different_models():
    model, (basal, perturbation, _) = make(PLAIN), inputs(PLAIN)
    with torch.inference_mode():
        outputs = [model(basal, perturbation, attention=mode).predicted for mode in MODES]
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["plain", "gpt2", "tokens", "masked"])
def test_attention_maps_are_those_of_the_prediction_and_rows_sum_to_one(name, mode):
    config = VARIANTS[name]
    model, (basal, perturbation, _) = make(config), inputs(config)
    with torch.inference_mode():
        plain = model(basal, perturbation, attention=mode)
        mapped = model(basal, perturbation, attention=mode, maps=True)
    assert plain.attention is None
    assert torch.allclose(plain.predicted, mapped.predicted, atol=1e-5)
    t = basal.shape[1] + config.batch_token + config.confidence_token
    assert [w.shape for w in mapped.attention] == [(3, 4, t, t)] * 2
    assert torch.allclose(mapped.attention[0].sum(-1), torch.ones(3, 4, t), atol=1e-6)
    if mode != "full":
        assert mapped.attention[1].triu(1).abs().max() == 0


def test_masked_cells_do_not_change_one_another():
    config = VARIANTS["masked"]
    model, (basal, perturbation, _) = make(config), inputs(config)
    with torch.inference_mode():
        together = model(basal, perturbation, attention="full").predicted
        alone = model(basal[:, 2:3], perturbation, attention="full").predicted
    assert torch.allclose(together[:, 2:3], alone, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_three_steps_give_what_forward_gives(name):
    """A control cell encoded once and used in every set, a perturbation once a set."""
    config = VARIANTS[name]
    model = make(config)
    cells, perturbation, batch = inputs(config)
    pool = cells[0]  # (7, g)
    sets = torch.tensor([[0, 1, 2], [2, 6, 4]])
    with torch.inference_mode():
        whole = model(pool[sets], perturbation[:2], batch[:2, :3], attention="full")
        encoded = model.encode_basal(pool)[sets]
        raw = pool[sets] if model.needs_basal else None
        split = model.transform(encoded, model.encode_perturbation(perturbation)[:2], raw, batch[:2, :3], attention="full")
    assert torch.allclose(whole.predicted, split.predicted, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "batch encoder", "tokens"])
def test_many_sets_in_one_pass_are_the_same_numbers(name):
    config = VARIANTS[name]
    model, (basal, perturbation, batch) = make(config), inputs(config)
    with torch.inference_mode():
        together = model(basal, perturbation, batch, attention="full").predicted
        single = [model(basal[i : i + 1], perturbation[i : i + 1], batch[i : i + 1], attention="full") for i in range(3)]
    assert torch.allclose(together, torch.cat([one.predicted for one in single]), atol=1e-5)


def test_one_batch_a_set_is_the_batch_of_its_cells():
    config = VARIANTS["batch encoder"]
    model, (basal, perturbation, batch) = make(config), inputs(config)
    with torch.inference_mode():
        whole = model(basal, perturbation, batch[:, 0], attention="full").predicted
        cells = model(basal, perturbation, batch[:, :1].expand(3, 7), attention="full").predicted
    assert torch.equal(whole, cells)


def test_confidence_is_a_number_a_set_and_never_negative():
    config = VARIANTS["tokens"]
    model, (basal, perturbation, _) = make(config), inputs(config)
    model.confidence_head.out.bias.data += 1
    confidence = model(basal, perturbation, attention="full").confidence
    assert confidence.shape == (3,)
    assert (confidence >= 0).all()
    assert confidence.std() > 0


def test_relu_at_the_end_when_asked():
    basal, perturbation, _ = inputs(PLAIN)
    bare = make(PLAIN)(basal, perturbation, attention="full").predicted
    cut = make(dataclasses.replace(PLAIN, final_relu=True))(basal, perturbation, attention="full").predicted
    assert bare.min() < 0
    assert torch.equal(cut, bare.relu())


def test_dropout_only_in_training():
    model, (basal, perturbation, _) = make(PLAIN), inputs(PLAIN)
    first, second = (model(basal, perturbation, attention="full").predicted for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (model(basal, perturbation, attention="full").predicted for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_learns(name):
    config = dataclasses.replace(VARIANTS[name], dropout=0.0)
    model = make(config)
    basal, perturbation, batch = inputs(config)
    if model.confidence_head is not None:
        model.confidence_head.out.bias.data += 2
    out = model(basal, perturbation, batch, attention="full")
    loss = out.predicted.square().mean() + (0 if out.confidence is None else out.confidence.mean())
    loss.backward()
    # a cell that sees only itself has no use for queries and keys; they share a weight with the values, so it still moves
    still = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert still == []


def test_initial_spread_is_that_of_a_trainable_network():
    torch.manual_seed(0)
    big = dataclasses.replace(LLAMA, hidden=64, intermediate=128)
    model = TransitionModel(dataclasses.replace(PLAIN, backbone=big, input_dim=100, output_dim=100))
    basal, perturbation, _ = inputs(model.config)
    out = model.eval()(basal, perturbation, attention="full").predicted
    assert 0.01 < out.std() < 10
    assert 0.015 < model.backbone.layers[0].attention.qkv.weight.std() < 0.025


def test_residual_decoder_adds_even_blocks_to_odd_ones():
    torch.manual_seed(0)
    decoder = GeneDecoder(DecoderConfig(6, 9, (8, 8, 4), residual=True)).eval()
    x = torch.randn(5, 6)
    first = decoder.blocks[0](x)
    second = decoder.blocks[1](first) + first
    expected = decoder.out(decoder.blocks[2](second)).relu()
    assert torch.allclose(decoder(x), expected)
    plain = GeneDecoder(DecoderConfig(6, 9, (8, 8, 4))).eval()
    plain.load_state_dict(decoder.state_dict())
    assert not torch.allclose(plain(x), expected)


def test_residual_decoder_of_unequal_pairs_is_refused():
    with pytest.raises(ConfigError, match="8, 4"):
        GeneDecoder(DecoderConfig(6, 9, (8, 4), residual=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_encoder": True}, "batch_dim is 0"),
        ({"batch_encoder": True, "batch_dim": 2, "batch_token": True}, "not both"),
        ({"output_space": "genes", "output_dim": 12}, "12 features"),
        ({"decoder": DecoderConfig(7, 9, (8,))}, "reads 7 features"),
    ],
)
def test_contradictions_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        TransitionModel(dataclasses.replace(PLAIN, **change))


def test_what_is_needed_and_missing_is_named():
    basal, perturbation, _ = inputs(PLAIN)
    with pytest.raises(ConfigError, match="batch"):
        make(VARIANTS["batch encoder"])(basal, perturbation, attention="full")
    with pytest.raises(ConfigError, match="decoder"):
        make(PLAIN).decode(basal)
    model = make(VARIANTS["all genes"])
    with pytest.raises(ConfigError, match="basal"):
        model.transform(torch.zeros(1, 2, 16), torch.zeros(1, 16), attention="full")


def test_backbone_layouts_have_their_own_parts():
    def kinds(config: BackboneConfig) -> set[type]:
        return {type(module) for module in Backbone(config).modules()}

    assert nn.RMSNorm in kinds(LLAMA)
    assert nn.LayerNorm not in kinds(LLAMA)
    assert nn.LayerNorm in kinds(GPT2)
    assert Backbone(LLAMA).layers[0].attention.qkv.bias is None
    assert Backbone(GPT2).layers[0].attention.qkv.bias is not None


def test_bf16_is_close_to_fp32():
    model, (basal, perturbation, _) = make(PLAIN), inputs(PLAIN)
    with torch.inference_mode():
        exact = model(basal, perturbation, attention="full").predicted
        short = model.to(torch.bfloat16)(basal.bfloat16(), perturbation.bfloat16(), attention="full").predicted
    assert short.dtype == torch.bfloat16
    assert (short.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", VARIANTS)
def test_sets_of_several_sizes_packed_are_the_numbers_of_each_alone(name, mode):
    config = VARIANTS[name]
    model, (basal, perturbation, batch) = make(config), inputs(config)
    sizes = (7, 1, 4)
    with torch.inference_mode():
        encoded = torch.cat([model.encode_basal(basal[i, :n]) for i, n in enumerate(sizes)])
        packed = model.transform_packed(
            encoded,
            model.encode_perturbation(perturbation),
            sizes,
            torch.cat([basal[i, :n] for i, n in enumerate(sizes)]),
            torch.cat([batch[i, :n] for i, n in enumerate(sizes)]),
            attention=mode,
        )
        for i, part in enumerate(packed.predicted.split(sizes)):
            alone = model(basal[i : i + 1, : sizes[i]], perturbation[i : i + 1], batch[i : i + 1, : sizes[i]], attention=mode)
            assert (part - alone.predicted[0]).abs().max() < 1e-5
            if packed.confidence is not None:
                assert (packed.confidence[i] - alone.confidence[0]).abs() < 1e-5
