"""State Embedding models of the library: listed beside the others, added, damaged, removed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.checkpoints.embedding_card import embedding_id, read_embedding_card, vocabulary_hash
from state_engine.checkpoints.embedding_store import load_embedding
from state_engine.checkpoints.recognise import embedding_kind
from state_engine.config import Settings
from state_engine.errors import CheckpointError, RequestError
from state_engine.files import write_json
from state_engine.library.allowed import readable
from state_engine.library.models import DEMO_EMBEDDING, EMBEDDINGS, EmbeddingEntry, list_models
from state_engine.plain import to_plain


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(tmp_path / "home", (tmp_path / "data",))


@pytest.fixture
def added(settings: Settings) -> EmbeddingEntry:
    """The demo's model once more, brought into the library from a folder that may be read."""
    shutil.copytree(DEMO_EMBEDDING, settings.data_folders[0] / "se")
    folder = settings.data_folders[0] / "se"
    card = folder / "embedding.json"
    card.write_text(card.read_text().replace("Demo SE (simulated PBMC)", "Mine"))
    shutil.rmtree(settings.models, ignore_errors=True)
    return EmbeddingEntry(folder, read_embedding_card(folder))


def test_the_demo_is_first_and_no_transition_model(settings: Settings) -> None:
    (demo,) = EMBEDDINGS.entries(settings)
    assert demo.demo and demo.card is not None and not demo.error and 0 < demo.nbytes < 2_000_000
    assert all(e.path != demo.path for e in list_models(settings))
    assert EMBEDDINGS.find(settings, demo.card.id) == demo
    with pytest.raises(CheckpointError, match=r"no model 'abc' in the library.*No State Embedding model"):
        EMBEDDINGS.find(settings, "abc")
    with pytest.raises(RequestError, match="belongs to the program"):
        EMBEDDINGS.remove(demo, settings)


def test_a_folder_of_weights_that_are_there_gives_what_is_there(settings: Settings, added: EmbeddingEntry) -> None:
    assert EMBEDDINGS.import_directory(added.path, settings).demo  # the same weights as the demo's
    assert len(EMBEDDINGS.entries(settings)) == 1


def test_a_model_is_added_listed_damaged_and_removed(settings: Settings, added: EmbeddingEntry) -> None:
    settings = replace(settings, demo=settings.home / "none")
    entry = EMBEDDINGS.import_directory(added.path, settings)
    assert entry.path.parent == settings.models and entry.path.name.startswith("mine-") and not entry.demo
    assert EMBEDDINGS.entries(settings) == (entry,) and not [e for e in list_models(settings) if not e.demo]
    assert not [p for p in settings.models.iterdir() if p.name.startswith(".")]
    with (entry.path / "genes.safetensors").open("r+b") as file:
        file.truncate(1000)
    (damaged,) = EMBEDDINGS.entries(settings)
    assert damaged.card is None and "genes.safetensors" in damaged.error
    assert EMBEDDINGS.import_directory(added.path, settings).card is not None  # takes the damaged one's place
    EMBEDDINGS.remove(EMBEDDINGS.entries(settings)[0], settings)
    assert EMBEDDINGS.entries(settings) == () and not list(settings.models.iterdir())


def test_what_is_not_allowed_or_no_model_is_refused(settings: Settings, added: EmbeddingEntry, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(DEMO_EMBEDDING, tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="not in a folder that may be read"):
        EMBEDDINGS.import_directory(elsewhere, settings)
    (settings.data_folders[0] / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"embedding\.json"):
        EMBEDDINGS.import_directory(settings.data_folders[0] / "other", settings)
    (added.path / "model.safetensors").unlink()
    (added.path / "model.safetensors").symlink_to(elsewhere / "model.safetensors")
    with pytest.raises(RequestError, match="not in a folder that may be read"):
        EMBEDDINGS.import_directory(added.path, settings)
    with pytest.raises(RequestError, match="not a folder of the model library"):
        EMBEDDINGS.remove(replace(added, demo=False), settings)
    assert readable(added.path, settings) and added.path.exists()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("embedding.json",), "store"),
        (("protein_embeddings.pt", "se.ckpt"), "arc"),
        (("config.yaml", "model.safetensors"), "arc"),
        (("se600m.ckpt",), "arc"),
        (("config.yaml", "checkpoints/final.ckpt"), ""),
        (("pert_onehot_map.pt", "x.ckpt"), ""),
        (("model.json", "model.safetensors"), ""),
        ((), ""),
    ],
)
def test_a_model_is_known_by_its_files(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert embedding_kind(tmp_path) == kind


def test_the_same_weights_for_genes_by_other_names_are_another_model(settings: Settings, added: EmbeddingEntry) -> None:
    """Vectors learnt from a data set know no names: two with the same counts give the same weights."""
    assert added.card is not None
    genes = tuple(reversed(added.card.vocabulary))
    other = replace(added.card, vocabulary=genes, vocabulary_hash=vocabulary_hash(genes))
    write_json(added.path / "embedding.json", to_plain(other))
    entry = EMBEDDINGS.import_directory(added.path, settings)
    assert entry.card == replace(other, id=embedding_id(other)) and not entry.demo
    assert load_embedding(entry.path).card.vocabulary == genes
    assert len(EMBEDDINGS.entries(settings)) == 2 == len({e.card.id for e in EMBEDDINGS.entries(settings) if e.card})
