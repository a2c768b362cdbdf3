from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from state_engine.checkpoints.card import FORMAT, ModelCard, TrainingSummary
from state_engine.checkpoints.folder import WEIGHTS, weights_hash
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import CARD, FEATURES, is_store, read_card, save_model
from state_engine.data.splits.held import HeldOut, Leak
from state_engine.errors import CheckpointError, ConfigError
from state_engine.models.config import BackboneConfig, TransitionConfig
from state_engine.models.transition import TransitionModel
from state_engine.plain import from_plain, to_plain

BACKBONE = BackboneConfig("llama", hidden=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate=16)
CONFIG = TransitionConfig(6, 6, 3, BACKBONE, "hvg", set_size=4)


def card_of(config: TransitionConfig = CONFIG, **changes) -> ModelCard:
    card = ModelCard(
        format=FORMAT,
        id="",
        name="Small",
        config=config,
        input_key="X_hvg",
        input_genes=tuple("ABCDEF"),
        output_genes=None,
        scale="log1p",
        control="non-targeting",
        perturbations=("non-targeting", "TNF", "IFNB1 µ"),
        perturbation_encoding="one-hot",
        batches=(),
        contexts=("T",),
        perturbation_key="gene",
        context_key=None,
        batch_key=None,
        attention="full",
        attention_source="declared",
        weights_hash="",
        training=TrainingSummary(data="none", steps=3, held_out=(HeldOut("T", "TNF"),), scores={"mae": 0.5}),
    )
    return dataclasses.replace(card, **changes)


@pytest.fixture()
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return TransitionModel(CONFIG).state_dict()


@pytest.fixture()
def folder(tmp_path, weights):
    save_model(tmp_path / "model", card_of(), weights)
    return tmp_path / "model"


def test_what_is_saved_is_what_is_loaded(folder, weights):
    card = read_card(folder)
    assert is_store(folder)
    assert card == card_of(weights_hash=weights_hash(weights), id=weights_hash(weights)[:12])
    model = load_model(folder)
    assert model.card == card
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.module.state_dict().items())
    assert torch.equal(model.perturbation_features, torch.eye(3))
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing is left beside it


def test_perturbation_features_are_kept(tmp_path, weights):
    features = torch.randn(5, 3)
    names = ("non-targeting", *"ABCD")
    card = card_of(perturbations=names, perturbation_encoding="features")
    saved = save_model(tmp_path / "m", card, weights, features)
    assert torch.equal(load_model(tmp_path / "m").perturbation_features, features)
    other = save_model(tmp_path / "n", card, weights, features + 1)
    assert saved.id != other.id  # features are part of the model
    (tmp_path / "m" / FEATURES).unlink()
    with pytest.raises(CheckpointError, match=FEATURES):
        load_model(tmp_path / "m")


def test_a_card_is_read_without_torch(folder):
    code = (
        "import sys, pathlib; from state_engine.checkpoints.store import read_card; "
        f"card = read_card(pathlib.Path({str(folder)!r})); "
        "assert card.perturbations[1] == 'TNF'; assert 'torch' not in sys.modules, 'torch'; assert 'numpy' not in sys.modules, 'numpy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_attention_and_precision_are_chosen_when_loading(folder):
    model = load_model(folder, dtype=torch.bfloat16, attention="causal")
    assert (model.card.attention, model.card.attention_source) == ("causal", "Chosen when the model was loaded.")
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.bfloat16}
    assert model.perturbation_features.dtype == torch.bfloat16
    assert load_model(folder, attention="full").card.attention_source == "declared"


def test_a_model_that_is_there_is_not_overwritten_unless_asked(folder, weights):
    with pytest.raises(CheckpointError, match="there already"):
        save_model(folder, card_of(), weights)
    (folder / "old.txt").write_text("old")
    save_model(folder, card_of(name="New"), weights, replace=True)
    assert read_card(folder).name == "New"
    assert not (folder / "old.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failed_write_leaves_nothing(tmp_path, weights, monkeypatch):
    def broken(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError, match="space"):
        save_model(tmp_path / "model", card_of(), weights)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_are_named(tmp_path, weights):
    bad = dict(weights)
    bad["strange"] = torch.zeros(1)
    del bad["backbone.norm.weight"]
    bad["project_out.0.weight"] = torch.zeros(1, 2)
    with pytest.raises(CheckpointError) as error:
        save_model(tmp_path / "m", card_of(), bad)
    for words in (
        "1 missing: backbone.norm.weight",
        "1 unexpected: strange",
        r"project_out.0.weight is (1, 2) instead of (8, 8)",
    ):
        assert words in str(error.value)


def test_changed_weights_are_noticed(folder):
    changed = load_file(folder / WEIGHTS)
    changed["backbone.norm.weight"] = changed["backbone.norm.weight"] + 1
    save_file(changed, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="not those of its card"):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -4])
def test_truncated_weights_are_named(folder, keep):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(folder)


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"format": 1}', '{"format": 99}', "[" * 100_000])
def test_damaged_cards_are_named(folder, text):
    (folder / CARD).write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        read_card(folder)


def test_a_card_that_is_not_text_is_named(folder):
    (folder / CARD).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="damaged"):
        read_card(folder)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("colour",), "red", "colour"),
        (("control",), "DMSO", "DMSO"),
        (("perturbations",), ["non-targeting", "A", "A"], "repeat"),
        (("perturbations",), ["non-targeting", "A"], "one-hot vectors of 3"),
        (("input_genes",), ["A"], "1 input genes for 6"),
        (("output_genes",), ["A"], "1 output genes for 6"),
        (("config", "backbone", "layers"), 10**9, "512 layers"),
        (("config", "backbone", "kv_heads"), 0, "positive"),
        (("config", "input_dim"), -1, "positive"),
        (("config", "input_dim"), 7.5, "type int"),
        (("attention",), "sideways", "sideways"),
    ],
)
def test_cards_that_contradict_themselves_are_refused(folder, path, value, words):
    plain = json.loads((folder / CARD).read_text())
    part = plain
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    (folder / CARD).write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match=words):
        read_card(folder)


def test_an_absurd_width_costs_no_memory(folder):
    plain = json.loads((folder / CARD).read_text())
    plain["config"]["backbone"]["intermediate"] = 10**9
    (folder / CARD).write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match="another shape"):
        load_model(folder)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"no model\.json"):
        read_card(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="convert"):
        read_card(tmp_path)


def test_labels_never_trained_need_vectors_and_stay_on_the_card(tmp_path, weights):
    card = card_of(perturbation_encoding="features", unseen=("TNF",))
    save_model(tmp_path / "model", card, weights, torch.rand(3, 3))
    assert read_card(tmp_path / "model").unseen == ("TNF",)
    with pytest.raises(CheckpointError, match="1 perturbations were never trained and have no feature vector"):
        save_model(tmp_path / "one-hot", card_of(unseen=("TNF",)), weights)
    with pytest.raises(CheckpointError, match="not among its perturbations"):
        save_model(tmp_path / "other", dataclasses.replace(card, unseen=("X",)), weights, torch.rand(3, 3))
    save_model(tmp_path / "seen", card_of(), weights)
    assert "unseen" not in json.loads((tmp_path / "seen" / CARD).read_text())  # versions before it read such a card


def test_an_earlier_card_says_where_its_attention_comes_from(tmp_path: Path) -> None:
    """Cards had only a sentence; the field is read from it once, when the card is opened."""
    demo = Path(__file__).resolve().parents[2] / "assets" / "demo" / "model"
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    plain = json.loads((folder / "model.json").read_text())
    plain.pop("attention_origin", None)
    for sentence, origin in (
        ("Trained with full attention: the cells of a set have no order.", "trained"),
        ("Assumed: the checkpoint does not declare bidirectional_attention; …", "assumed"),
        ("Said by nobody.", ""),
    ):
        (folder / "model.json").write_text(json.dumps(plain | {"attention_source": sentence}))
        assert read_card(folder).attention_origin == origin


def test_held_out_conditions_of_older_cards_are_read() -> None:
    read = from_plain(TrainingSummary, {"held_out": ["NK", "B x TNF"], "conditions": []})
    assert read.held_out == (HeldOut("NK"), HeldOut("B", "TNF")) and read.leaks == ()
    new = TrainingSummary(held_out=(HeldOut("NK", "TNF", "screen", "val"),), leaks=(Leak("a", "b", ("NK x TNF",)),))
    assert from_plain(TrainingSummary, to_plain(new)) == new and str(new.held_out[0]) == "screen.NK x TNF"
    assert HeldOut("NK").covers("TNF", "NK") and not HeldOut("NK", "IL6").covers("TNF", "NK")
    by_hand = from_plain(TrainingSummary, {"held_out": ["TNF", "B x IL6"], "conditions": []})
    for held in (by_hand, from_plain(TrainingSummary, to_plain(by_hand))):  # a perturbation alone, written by a person
        assert held.held_out[0].covers("TNF", "NK") and not held.held_out[0].covers("IL6", "NK")
        assert held.held_out[1].covers("IL6", "B") and not held.held_out[1].covers("IL6", "NK")
    assert not HeldOut("TNF").covers("TNF", "NK"), "a card of today says what is what"
    with pytest.raises(ConfigError):
        from_plain(TrainingSummary, {"held_out": 5})
