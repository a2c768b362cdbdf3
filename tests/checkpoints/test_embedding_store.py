"""State Embedding models on disk: our store there and back, and what is wrong with a file is said by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.checkpoints.embedding_card import read_embedding_card
from state_engine.checkpoints.embedding_store import is_embedding, load_embedding, read_embedding, save_embedding
from state_engine.errors import CheckpointError, ConfigError, UnsafePickleError
from tests.small_embedding import embedding_card, embedding_config, random_model, random_vectors, write_embedding_model

FIXTURE = Path(__file__).resolve().parents[1] / "parity" / "fixtures" / "embedding" / "two_layers"


def test_there_and_back(tmp_path: Path) -> None:
    card = write_embedding_model(tmp_path / "model")
    assert read_embedding_card(tmp_path / "model") == card
    loaded = load_embedding(tmp_path / "model")
    assert loaded.card == card and card.id == card.weights_hash[:12]
    assert torch.equal(loaded.vectors, random_vectors(card.config))
    right = random_model(card.config)
    assert all(torch.equal(one, other) for one, other in zip(loaded.module.parameters(), right.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in loaded.module.parameters()) and not loaded.module.training
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["embedding.json", "genes.safetensors", "model.safetensors"]


def test_weights_and_gene_vectors_make_the_identity(tmp_path: Path) -> None:
    one = write_embedding_model(tmp_path / "one")
    assert write_embedding_model(tmp_path / "same").weights_hash == one.weights_hash
    assert write_embedding_model(tmp_path / "other", seed=1).weights_hash != one.weights_hash
    config = embedding_config()
    vectors = random_vectors(config, seed=9)
    moved = save_embedding(tmp_path / "moved", embedding_card(config), random_model(config).state_dict(), vectors)
    assert moved.weights_hash != one.weights_hash and moved.vocabulary_hash == one.vocabulary_hash


def test_the_card_needs_no_torch(tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from state_engine.checkpoints.embedding_card import read_embedding_card;"
        f"read_embedding_card(Path({str(tmp_path / 'model')!r})); import state_engine.embedding.request; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_does_not_wake_the_compiler_of_torch(tmp_path: Path) -> None:
    """It takes a second to import, and drawing weights that have no memory would import it."""
    write_embedding_model(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from state_engine.checkpoints.embedding_store import load_embedding;"
        f"load_embedding(Path({str(tmp_path / 'model')!r})); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def damaged(tmp_path: Path, change: dict) -> Path:
    folder = tmp_path / "model"
    write_embedding_model(folder)
    plain = json.loads((folder / "embedding.json").read_text())
    plain.update(change)
    (folder / "embedding.json").write_text(json.dumps(plain))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocabulary": ["A"] * 24}, "gene names repeat.*not those of its hash"),
        ({"vocabulary": ["A"]}, "1 gene names for 24 genes"),
        ({"format": 9}, "format 9"),
        ({"weights_hash": "0" * 64}, "hashes differ"),
        ({"surprise": 1}, "unknown fields: surprise"),
    ],
)
def test_cards_that_contradict(change: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_embedding(damaged(tmp_path, change))


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "model")
    with pytest.raises(CheckpointError, match="is there already"):
        write_embedding_model(tmp_path / "model")
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def theirs() -> dict:
    """What is in a checkpoint of the reference."""
    return load_torch(FIXTURE / "se.ckpt")


def saved(tmp_path: Path, checkpoint: object, name: str = "se.ckpt") -> Path:
    torch.save(checkpoint, tmp_path / name)
    return tmp_path / name


def test_what_reading_decided_is_said() -> None:
    card = read_embedding(FIXTURE)[0]
    assert card.name == "two_layers" and card.source == "arc-state checkpoint se.ckpt of two_layers"
    assert card.notes[0] == "Read from se.ckpt."
    assert "the classifier of data sets" in card.notes[1] and "gene number 3" in card.notes[2]
    assert card.vocabulary[:3] == ("G0", "G1", "G2") and len(card.vocabulary) == 60


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("encoder.0.bias", "1 missing: encoder.0.bias"),
        ("transformer_encoder.layers.1.norm2.weight", "1 missing: layers.1.norm_feed.weight"),
        ("binary_decoder.1.dense.weight", "1 missing: expression_decoder.1.down.weight"),
        ("decoder.1.weight", "It lacks decoder.1.weight"),
    ],
)
def test_weights_that_are_missing_are_named(missing: str, words: str, theirs: dict, tmp_path: Path) -> None:
    del theirs["state_dict"][missing]
    theirs["state_dict"].pop("gene_embedding_layer.0.bias", None)
    with pytest.raises(CheckpointError, match=words):
        read_embedding(saved(tmp_path, theirs))


def test_weights_that_are_unknown_or_of_another_shape_are_named(theirs: dict, tmp_path: Path) -> None:
    theirs["state_dict"]["surprise.weight"] = torch.zeros(2)
    theirs["state_dict"]["decoder.0.dense.bias"] = torch.zeros(3)
    words = r"1 unexpected: surprise.weight. 1 of another shape: decoder.0.down.bias is \(3,\) instead of \(16,\)"
    with pytest.raises(CheckpointError, match=words):
        read_embedding(saved(tmp_path, theirs))


def test_a_second_gene_encoder_of_its_own_is_not_dropped_in_silence(theirs: dict, tmp_path: Path) -> None:
    theirs["state_dict"]["gene_embedding_layer.0.weight"] = torch.zeros(16, 24)
    with pytest.raises(CheckpointError, match=r"gene_embedding_layer.0.weight is not the gene encoder"):
        read_embedding(saved(tmp_path, theirs))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("cfg_yaml", "model: [", "damaged"),
        ("cfg_yaml", "model: {nhead: 4}", "no number dataset.cls_token_idx"),
        ("protein_embeds_dict", None, "protein_embeddings.pt is missing"),
        ("protein_embeds_dict", {"A": torch.zeros(24), "B": torch.zeros(3)}, "contradict themselves"),
        ("protein_embeds_dict", {"A": torch.zeros(7)}, "7 wide"),
        ("protein_embeds_dict", {"A": torch.full((24,), torch.nan)}, "NaN"),
        ("state_dict", {}, "has no weights"),
    ],
)
def test_parts_that_are_wrong(part: str, value: object, words: str, theirs: dict, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_embedding(saved(tmp_path, theirs | {part: value}))


def test_a_wrong_number_of_heads_is_no_network(theirs: dict, tmp_path: Path) -> None:
    config = yaml.safe_load(theirs["cfg_yaml"])
    config["model"]["nhead"] = 5
    with pytest.raises(ConfigError, match="5 heads do not divide"):
        read_embedding(saved(tmp_path, theirs | {"cfg_yaml": yaml.safe_dump(config)}))


class Surprise:
    """Not a number."""


def test_a_pickle_that_runs_something_is_refused(theirs: dict, tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match="Surprise"):
        read_embedding(saved(tmp_path, theirs | {"callbacks": Surprise()}))


def test_compiled_and_half_precision_weights(theirs: dict, tmp_path: Path) -> None:
    weights = {f"_orig_mod.{name}": tensor.bfloat16() for name, tensor in theirs["state_dict"].items()}
    other = load_embedding(saved(tmp_path, theirs | {"state_dict": weights})).module
    torch.testing.assert_close(
        other.layers[0].qkv.weight, load_embedding(FIXTURE).module.layers[0].qkv.weight, atol=0.02, rtol=0.01
    )
    assert other.layers[0].qkv.weight.dtype == torch.float32


def test_which_file_of_a_folder(theirs: dict, tmp_path: Path) -> None:
    changed = theirs | {"state_dict": theirs["state_dict"] | {"dataset_token": torch.zeros(1, 24)}}
    saved(tmp_path, theirs, "step=9.ckpt")
    saved(tmp_path, changed, "step=10.ckpt")
    assert load_embedding(tmp_path).module.dataset_token.abs().sum() == 0  # the latest step
    assert load_embedding(tmp_path, checkpoint="step=9.ckpt").module.dataset_token.abs().sum() > 0
    with pytest.raises(CheckpointError, match="no checkpoint other"):
        load_embedding(tmp_path, checkpoint="other.ckpt")
    with pytest.raises(CheckpointError, match="no file or folder"):
        load_embedding(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="not clear which file"):
        load_embedding(tmp_path / "none")


def test_told_apart_from_transition_models(tmp_path: Path) -> None:
    assert is_embedding(FIXTURE) and is_embedding(FIXTURE / "se.ckpt")
    assert not is_embedding(FIXTURE.parents[1] / "state") and not is_embedding(tmp_path)
    write_embedding_model(tmp_path / "model")
    assert is_embedding(tmp_path / "model")
