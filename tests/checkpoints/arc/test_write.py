"""What is written for arc-state comes back as it was: weights, network, labels, names; and what it cannot have is refused."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
import yaml

from state_engine.checkpoints.arc.read import read_arc
from state_engine.checkpoints.arc.write import TrainingFacts, write_arc
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.recognise import what_is
from state_engine.checkpoints.store import save_model
from state_engine.errors import CheckpointError
from state_engine.models.config import BackboneConfig, DecoderConfig
from state_engine.models.transition import TransitionModel
from tests.small import BATCHES, GENES, card_of, config, embedding_changes

FIXTURES = Path(__file__).resolve().parents[2] / "parity" / "fixtures"
NAMES = sorted(path.parent.parent.name for path in FIXTURES.glob("*/checkpoints/final.ckpt"))
# what such a folder cannot say
UNSAID = ("id", "name", "weights_hash", "source", "notes", "limits", "licence", "training", "attention_source", "attention_origin",
          "format")  # fmt: skip


def same_card(ours, back) -> None:
    for field in dataclasses.fields(ours):
        if field.name not in UNSAID:
            assert getattr(back, field.name) == getattr(ours, field.name), field.name


def same_weights(ours, back) -> None:
    assert ours.keys() == back.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, back[name]), name


def random_weights(made) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = TransitionModel(made)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    return model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_of_the_reference_goes_out_and_comes_back(name, tmp_path):
    card, weights, features = read_arc(FIXTURES / name)
    write_arc(tmp_path / "run", card, weights, features)
    assert what_is(tmp_path / "run").kind == "arc"
    back, again, vectors = read_arc(tmp_path / "run")
    same_card(card, back)
    same_weights(weights, again)
    assert (features is None and vectors is None) or torch.equal(features, vectors)
    assert back.weights_hash == card.weights_hash
    assert "not known" not in " ".join(back.notes)


GPT2 = BackboneConfig("gpt2", hidden=8, layers=2, heads=2, kv_heads=2, head_dim=4, intermediate=24, norm_eps=1e-5)
NO_RELU = {"input_dim": 6, "output_dim": 6, "output_space": "embedding", "final_relu": False}
CHANGES: dict[str, dict] = {
    "gpt2": {"backbone": GPT2},
    "own dropout": {"dropout": 0.0, "encoder_layers": 2, "decoder_layers": 3, "activation": "silu"},
    "embedding without decoder": NO_RELU,
    "embedding without decoder, with relu": {**NO_RELU, "final_relu": True},
    "embedding with decoder": embedding_changes(),
    "residual decoder": {**embedding_changes(), "decoder": DecoderConfig(6, len(GENES), (8, 8, 4), 0.2, residual=True)},
    "decoder into all genes": {**embedding_changes(16), "output_space": "genes"},
    "all genes": {"output_space": "genes", "predict_residual": False},
    "batch encoder": {"batch_encoder": True, "batch_dim": len(BATCHES)},
    "both tokens": {"batch_token": True, "confidence_token": True},
    "one linear": {"basal_mlp": False, "encoder_layers": 1, "decoder_layers": 1},
    "one linear each": {"encoder_layers": 1},
    "far rotary": {"backbone": BackboneConfig("llama", 8, 1, 2, 1, 4, 16, norm_eps=1e-5, rope_theta=500.0)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_models_of_ours_go_out_and_come_back(name, tmp_path):
    card = card_of(config(**CHANGES[name]))
    weights = random_weights(card.config)
    write_arc(tmp_path, card, weights)
    back, again, _ = read_arc(tmp_path)
    same_card(card, back)
    same_weights(weights, again)


@pytest.mark.parametrize(("kind", "mode"), [("llama", "full"), ("llama", "causal-rotary"), ("gpt2", "full"), ("gpt2", "causal")])
def test_attention_is_declared(kind, mode, tmp_path):
    card = dataclasses.replace(card_of(config(**({"backbone": GPT2} if kind == "gpt2" else {}))), attention=mode)
    write_arc(tmp_path, card, random_weights(card.config))
    back = read_arc(tmp_path)[0]
    assert back.attention == mode
    assert back.attention_source.startswith("Declared")


def test_features_and_labels_keep_their_order(tmp_path):
    card = card_of(config(perturbation_dim=5))
    card = dataclasses.replace(card, perturbation_encoding="features")
    features = torch.randn(len(card.perturbations), 5)
    write_arc(tmp_path, card, random_weights(card.config), features)
    back, _, vectors = read_arc(tmp_path)
    assert back.perturbations == card.perturbations
    assert torch.equal(vectors, features)


def test_files_carry_the_names_and_the_training(tmp_path):
    card = card_of(config())
    facts = TrainingFacts(loss="combined", learning_rate=3e-4, sets_a_step=4, steps=50, step=50, split="split.toml")
    write_arc(tmp_path, card, random_weights(card.config), training=facts)
    dims = pickle.loads((tmp_path / "var_dims.pkl").read_bytes())
    assert (dims["gene_names"], dims["hvg_names"]) == (list(GENES), list(GENES))
    assert dims["pert_names"] == list(card.perturbations)
    whole = yaml.safe_load((tmp_path / "config.yaml").read_text())
    data = whole["data"]["kwargs"]
    assert (data["pert_col"], data["cell_type_key"], data["batch_col"]) == ("perturbation", "cell_type", "batch")
    assert (data["control_pert"], data["toml_config_path"]) == ("control", "split.toml")
    assert (whole["model"]["kwargs"]["loss"], whole["training"]["lr"], whole["training"]["batch_size"]) == ("se", 3e-4, 4)
    checkpoint = torch.load(tmp_path / "checkpoints" / "final.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 50
    assert pickle.loads((tmp_path / "batch_onehot_map.pkl").read_bytes()).keys() == set(BATCHES)


def test_writing_again_replaces_and_leaves_other_files_alone(tmp_path):
    card = card_of(config())
    write_arc(tmp_path, card, random_weights(card.config))
    (tmp_path / "log.csv").write_text("step,loss\n")
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"of Lightning")
    weights = {name: tensor + 1 for name, tensor in random_weights(card.config).items()}
    write_arc(tmp_path, card, weights)
    same_weights(weights, read_arc(tmp_path)[1])
    assert (tmp_path / "log.csv").exists()
    assert not list(tmp_path.rglob(".part-*"))


def test_it_loads_like_any_model(tmp_path):
    card = card_of(config(batch_token=True))
    weights = random_weights(card.config)
    kept = save_model(tmp_path / "ours", card, weights)
    write_arc(tmp_path / "theirs", card, weights)
    loaded = load_model(tmp_path / "theirs")
    assert loaded.card.weights_hash == kept.weights_hash
    basal, one = torch.rand(2, 5, len(GENES)), torch.eye(4)[:2]
    ours = load_model(tmp_path / "ours").module(basal, one, attention="full")
    assert torch.equal(loaded.module(basal, one, attention="full").predicted, ours.predicted)


@pytest.mark.parametrize(
    ("changes", "attention", "words"),
    [
        ({}, "causal", "causal attention without rotary"),
        ({"final_relu": False}, "full", "below zero"),
        ({**embedding_changes(), "final_relu": True}, "full", "never negative"),
    ],
)
def test_what_arc_state_cannot_have_is_refused(changes, attention, words, tmp_path):
    card = dataclasses.replace(card_of(config(**changes)), attention=attention)
    with pytest.raises(CheckpointError, match=words):
        write_arc(tmp_path / "run", card, random_weights(card.config))
    assert not (tmp_path / "run").exists()
