"""The models of this installation: State Transition and State Embedding models lie side by side and are told apart by their card.

A folder of the library holds one model; the bundled demo is listed beside them. Foreign files are recognised (`recognise.what_is`)
and then converted, in a job. `shelf` is what both kinds have in common.
"""

from __future__ import annotations

from pathlib import Path

from state_engine.checkpoints import embedding_card, head_card, store
from state_engine.checkpoints.card import ModelCard, model_id
from state_engine.checkpoints.embedding_card import EmbeddingCard, embedding_id, is_embedding_store
from state_engine.checkpoints.folder import WEIGHTS
from state_engine.checkpoints.head_card import HeadCard, head_id, is_head_store, read_head_card
from state_engine.checkpoints.recognise import what_is
from state_engine.config import DEMO, Settings
from state_engine.effects.store import EFFECTS
from state_engine.errors import CheckpointError
from state_engine.library.shelf import Listed, Shelf, incoming

__all__ = [
    "DEMO_EMBEDDING", "EMBEDDINGS", "HEADS", "STORE_FILES", "TRANSITION", "EmbeddingEntry", "Entry", "HeadEntry", "adopt", "find",
    "import_directory", "incoming", "list_models", "places_of", "remove",
]  # fmt: skip

Entry = Listed[ModelCard]
EmbeddingEntry = Listed[EmbeddingCard]
HeadEntry = Listed[HeadCard]
BESIDE = ("README.md", "LICENSE", "download.json")
GENES = "genes.safetensors"
HEAD_REPORT, HEAD_CELLS = "report.json", "cells.csv"  # what fitting a head found, beside it
DEMO_EMBEDDING = DEMO / "embedding"


def _transition_inside(folder: Path) -> Path:
    found = what_is(folder)
    if found.kind != "store":
        fix = "Convert it." if found.kind == "arc" else "Choose the folder of one model."
        raise CheckpointError(f"{folder.name} is not a model in STATE Explorer's own format.", found.reason, fix)
    return store.model_folder(folder)


def _embedding_inside(folder: Path) -> Path:
    if not is_embedding_store(folder):
        why = f"It has no {embedding_card.CARD}."
        raise CheckpointError(f"{folder.name} is no State Embedding model in STATE Explorer's own format.", why, "Convert it.")
    return folder


def _head_inside(folder: Path) -> Path:
    if not is_head_store(folder):
        why = f"It has no {head_card.CARD}."
        raise CheckpointError(f"{folder.name} is no head in STATE Explorer's own format.", why, "Choose the folder of one head.")
    return folder


def _weights_of(card: ModelCard) -> tuple[str, ...]:
    return (WEIGHTS, store.FEATURES) if card.perturbation_encoding == "features" else (WEIGHTS,)


TRANSITION: Shelf[ModelCard] = Shelf(
    kind="State Transition model",
    demo_name="model",
    card_file=store.CARD,
    files=(store.CARD, WEIGHTS, store.FEATURES, EFFECTS, *BESIDE),
    read=store.read_card,
    # a folder that holds none of them is listed here, with its damage
    holds=lambda folder: not is_embedding_store(folder) and not is_head_store(folder),
    needed=_weights_of,
    find_inside=_transition_inside,
    id_with_names=model_id,
    optional=(EFFECTS,),
)
EMBEDDINGS: Shelf[EmbeddingCard] = Shelf(
    kind="State Embedding model",
    demo_name="embedding",
    card_file=embedding_card.CARD,
    files=(embedding_card.CARD, WEIGHTS, GENES, *BESIDE),
    read=embedding_card.read_embedding_card,
    holds=is_embedding_store,
    needed=lambda card: (WEIGHTS, GENES),
    find_inside=_embedding_inside,
    id_with_names=embedding_id,
)
HEADS: Shelf[HeadCard] = Shelf(
    kind="head",
    demo_name="head",
    card_file=head_card.CARD,
    files=(head_card.CARD, WEIGHTS, head_card.FITTED, HEAD_REPORT, HEAD_CELLS, *BESIDE),
    read=read_head_card,
    holds=is_head_store,
    needed=lambda card: (WEIGHTS,),
    find_inside=_head_inside,
    id_with_names=head_id,
)
STORE_FILES = TRANSITION.files


def places_of(settings: Settings, weights: str) -> tuple[Path, ...]:
    """Return where models whose weights have this hash lie in the library, State Embedding models first; none for ""."""
    if not weights:
        return ()
    embeddings = [e.path for e in EMBEDDINGS.entries(settings) if e.card is not None and e.card.weights_hash == weights]
    return (*embeddings, *(e.path for e in TRANSITION.entries(settings) if e.card is not None and e.card.weights_hash == weights))


list_models, find, remove = TRANSITION.entries, TRANSITION.find, TRANSITION.remove
adopt, import_directory = TRANSITION.adopt, TRANSITION.import_directory
