"""A training request: settings by path, name or old name, typed, within their bounds; presets are overridden; requests of before there
were parts are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from state_engine.errors import ConfigError
from state_engine.options import options_of, settings
from state_engine.plain import from_plain, to_plain
from state_engine.train.request import MOST_STEPS, TrainRequest, resolve, suggested_steps, with_steps
from state_engine.train.run_folder import RECORD, read_record
from tests.train.small import SMALL, make_data, opened

# training.json of a run by the version before requests had parts
OLD_RECORD = Path(__file__).with_name("training_before_parts.json")


def test_a_request_survives_json():
    request = TrainRequest().with_settings(
        genes=("A", "B"), freeze=("backbone",), kv_heads=2, decoder_hidden=(8,), embedding="X_pca"
    )
    assert from_plain(TrainRequest, json.loads(json.dumps(to_plain(request)))) == request


def test_a_record_of_before_there_were_parts_is_read(tmp_path):
    (tmp_path / RECORD).write_bytes(OLD_RECORD.read_bytes())
    old, request = json.loads(OLD_RECORD.read_bytes())["request"], read_record(tmp_path).request
    assert (old["sets_a_step"], request.sets.sets_per_step) == (4, 4)
    names = {(one.about.old or (one.name,))[0]: one.path.split(".") for one in options_of(TrainRequest)}
    later = {"equalise_depth", "tune", "compare"}  # fields that came since
    assert set(names) - later == set(old)
    for name, (part, field) in {n: at for n, at in names.items() if n not in later}.items():
        assert to_plain(getattr(getattr(request, part), field)) == old[name], name


def test_settings_get_the_types_of_their_fields():
    words = [
        "steps=10",
        "optimiser.learning_rate=1e-4",
        "batch_encoder=True",
        "genes=A, B",
        "head_dim=none",
        "loss=mse",
        "name=a=b",
        "l1=1",
        "sets_a_step=6",
    ]
    values = settings(TrainRequest, [*words, "decoder_hidden=[64,32]", "kv_heads=2", "embedding=X_pca"])
    assert {path.rpartition(".")[2]: value for path, value in values.items()} == {
        "steps": 10, "learning_rate": 1e-4, "batch_encoder": True, "genes": ("A", "B"), "head_dim": None, "loss": "mse",
        "name": "a=b", "l1": 1.0, "sets_per_step": 6, "decoder_hidden": (64, 32), "kv_heads": 2, "embedding": "X_pca",
    }  # fmt: skip
    assert isinstance(values["loss.l1"], float)


def test_paths_names_and_old_names_mean_the_same():
    plain = resolve("state", {"hvgs": 200, "sets_a_step": 4})
    assert plain == resolve("state", {"network.hvgs": 200, "sets.sets_per_step": 4})
    assert plain == resolve("state").with_settings({"sets.sets_per_step": 4}, hvgs=200)
    assert (plain.network.hvgs, plain.sets.sets_per_step, plain.network.hidden) == (200, 4, 768)


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
        settings(TrainRequest, [word])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"set_size": 0, "sets_per_step": 0}, "set_size, sets_per_step must be positive"),
        ({"loss_chunks": 0}, "loss_chunks must be positive"),
        ({"l1": -1.0}, "l1 must not be negative"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"kv_heads": 0}, "kv_heads must be positive"),
        ({"dropout": 1.0}, "dropout must be 0 or more"),
        ({"mix": 1.5}, "mix must be 0 or more and at most 1"),
        ({"hidden": 128, "heads": 3}, "cannot be shared by 3 heads"),
        ({"batch_encoder": True, "batch_token": True}, "not both"),
        ({"sets_a_step": 8, "devices": 3}, "cannot be shared by 3 devices"),
        ({"gene_decoder": True}, "needs an embedding"),
        ({"output_space": "embedding"}, "expression is read"),
        ({"output_space": "hvg", "embedding": "X_pca"}, "an embedding is read"),
        ({"batch_token": True}, "control_mapping=batch"),
        ({"batch_token": True, "control_mapping": "batch", "mix": 0.5}, "no one batch"),
        ({"compile": True}, "Set fill=true"),
        ({"paired": True, "sets_per_step": 3}, "Make it even"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"loss": "mmd"}, "Known: energy"),
        ({"optimiser.step": 1}, "There is no setting 'optimiser.step'. Near: optimiser.steps"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        TrainRequest().with_settings(wrong)


def test_unknown_names_are_refused_with_what_is_near():
    with pytest.raises(ConfigError, match="There is no setting 'epochs'"):
        resolve("default", {"steps": 1, "epochs": 2})


def test_every_setting_is_explained():
    assert all(len(one.about.help) > 4 and not one.about.help.endswith(".") for one in options_of(TrainRequest))


def test_each_perturbation_takes_steps_of_its_own():
    assert [suggested_steps(n) for n in (0, 1, 2, 14)] == [300, 300, 500, 2900]
    assert suggested_steps(10_000) == MOST_STEPS


def test_only_trained_perturbations_count_and_a_number_that_is_given_stays(tmp_path):
    split = opened(make_data(tmp_path))
    table = split.table()
    trained = table[(table["train"] > 0) & (table["perturbation"] != "control")]["perturbation"].nunique()
    assert trained == 14
    assert with_steps(resolve("default"), split).optimiser.steps == suggested_steps(trained)
    assert with_steps(SMALL.with_settings(steps=7), split).optimiser.steps == 7
    assert all(resolve(name).optimiser.steps > 0 for name in ("state", "state_sm", "tahoe"))
