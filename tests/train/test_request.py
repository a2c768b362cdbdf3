"""A training request: words of the command line become typed fields, presets are overridden, nonsense is refused."""

from __future__ import annotations

import pytest

from state_engine.errors import ConfigError
from state_engine.plain import from_plain, to_plain
from state_engine.train.request import TrainRequest, check_names, parse_settings


def test_a_request_survives_json():
    request = TrainRequest(genes=("A", "B"), freeze=("backbone",), kv_heads=2, decoder_hidden=(8,), embedding="X_pca")
    assert from_plain(TrainRequest, to_plain(request)) == request


def test_settings_get_the_types_of_their_fields():
    words = [
        "steps=10",
        "learning_rate=1e-4",
        "batch_encoder=True",
        "genes=A, B",
        "head_dim=none",
        "loss=mse",
        "name=a=b",
        "l1=1",
    ]
    values = parse_settings([*words, "decoder_hidden=[64,32]", "kv_heads=2", "embedding=X_pca"])
    assert values == {
        "steps": 10, "learning_rate": 1e-4, "batch_encoder": True, "genes": ("A", "B"), "head_dim": None, "loss": "mse",
        "name": "a=b", "l1": 1.0, "decoder_hidden": (64, 32), "kv_heads": 2, "embedding": "X_pca",
    }  # fmt: skip
    assert isinstance(values["l1"], float)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps", "has no '='"),
        ("steps=1.5", "steps is '1.5'. It must be a whole number"),
        ("batch_encoder=1", "must be true or false"),
        ("loss=mmd", "Known: energy"),
        ("learnig_rate=1", "There is no setting 'learnig_rate'. Near: learning_rate"),
    ],
)
def test_a_setting_that_is_not_one_is_refused(word, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings([word])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"set_size": 0, "loss_chunks": 0}, "set_size, loss_chunks must be positive"),
        ({"l1": -1.0}, "l1 must not be negative"),
        ({"dropout": 1.0}, "dropout must be 0 or more"),
        ({"hidden": 128, "heads": 3}, "cannot be shared by 3 heads"),
        ({"batch_encoder": True, "batch_token": True}, "not both"),
        ({"sets_a_step": 8, "devices": 3}, "cannot be shared by 3 devices"),
        ({"gene_decoder": True}, "needs an embedding"),
        ({"output_space": "embedding"}, "expression is read"),
        ({"output_space": "hvg", "embedding": "X_pca"}, "an embedding is read"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainRequest(**wrong)


def test_unknown_names_are_refused_with_what_is_near():
    with pytest.raises(ConfigError, match="There is no setting 'epochs'"):
        check_names(["steps", "epochs"])
