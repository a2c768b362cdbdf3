"""State Embedding models of the library: they lie beside the State Transition models and are told apart by their card.

Boundary: cards and files, no torch. A folder holds the files of `FILES`; foreign checkpoints are converted first, in a job.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.embedding_card import CARD, EmbeddingCard, is_embedding_store, read_embedding_card
from state_engine.checkpoints.folder import AGAIN, WEIGHTS
from state_engine.config import Settings
from state_engine.errors import CheckpointError, ModelError, RequestError, listed
from state_engine.files import size_on_disk
from state_engine.library.allowed import readable
from state_engine.library.models import DEMO, check_safetensors, check_size, incoming, named_folder

GENES = "genes.safetensors"
REQUIRED = (CARD, WEIGHTS, GENES)
FILES = (*REQUIRED, "README.md", "LICENSE", "download.json")
DEMO_EMBEDDING = DEMO.with_name("embedding")


@dataclass(frozen=True)
class EmbeddingEntry:
    """A State Embedding model of the library. `card` is None when the folder is damaged; `error` then says how."""

    path: Path
    card: EmbeddingCard | None
    error: str = ""
    demo: bool = False
    nbytes: int = 0


def list_embedding_models(settings: Settings) -> tuple[EmbeddingEntry, ...]:
    """Every State Embedding model, the demo first, then by name. A damaged one is listed with its error; never raises for one."""
    folder = settings.models
    there = [p for p in folder.iterdir() if p.name[0] != "." and is_embedding_store(p)] if folder.is_dir() else []
    entries = sorted((_entry(p) for p in there), key=lambda e: ((e.card.name if e.card else e.path.name).lower(), e.path))
    return ((_entry(DEMO_EMBEDDING, demo=True),) if is_embedding_store(DEMO_EMBEDDING) else ()) + tuple(entries)


def find_embedding_model(settings: Settings, model: str) -> EmbeddingEntry:
    """The model with this id, or with weights of this hash.

    Raises:
        CheckpointError: there is none.
    """
    for entry in list_embedding_models(settings):
        if entry.card is not None and model and entry.card.weights_hash.startswith(model):
            return entry
    raise CheckpointError(
        f"There is no State Embedding model '{model[:12]}' in the library.", "It was removed, or never added.", "Choose another."
    )


def import_embedding_directory(path: Path, settings: Settings) -> EmbeddingEntry:
    """Copies a folder of our own format from where `library.allowed` permits. The same weights twice give the entry that is there.

    Raises:
        RequestError: the path is not allowed.
        CheckpointError: it is not our format, or it is damaged.
    """
    folder = readable(path, settings)
    if not is_embedding_store(folder):
        raise CheckpointError(f"{folder.name} is no State Embedding model of ours.", f"It has no {CARD}.", "Convert it.")
    with incoming(settings) as beside:
        total = 0
        for name in FILES:
            if (folder / name).is_file():
                source = readable(folder / name, settings)  # a link must not lead out of what may be read
                total += source.stat().st_size
                check_size(total, settings)
                shutil.copyfile(source, beside / name)
        return adopt_embedding(beside, settings)


def adopt_embedding(folder: Path, settings: Settings) -> EmbeddingEntry:
    """Moves a complete folder of our own format (on the same disk) into the library, unless the model is there already.

    Raises:
        CheckpointError: the folder is damaged.
    """
    card = _checked_card(folder)
    there = next((e for e in list_embedding_models(settings) if e.card is not None and e.card.id == card.id), None)
    if there is not None:
        return there
    settings.models.mkdir(parents=True, exist_ok=True)
    target = settings.models / named_folder(card.name, card.id)
    if target.exists():  # the same model, damaged: the new one takes its place
        shutil.rmtree(target)
    folder.rename(target)
    return _entry(target)


def remove_embedding(entry: EmbeddingEntry, settings: Settings) -> None:
    """Deletes a model's folder, damaged or not. Embeddings that it made stay.

    Raises:
        RequestError: the demo, or a folder that is not in the library.
    """
    if entry.demo or entry.path.resolve() == DEMO_EMBEDDING:
        raise RequestError("The demo model belongs to the program.", "", "Leave it where it is.")
    inside = entry.path.parent.resolve() == settings.models.resolve() and not entry.path.is_symlink()
    if not inside or not is_embedding_store(entry.path):
        raise RequestError(f"{entry.path.name} is not a model of the library.", "", "Reload the list of models.")
    doomed = entry.path.with_name(f".removed-{entry.path.name}")  # renamed first: a half-deleted model must not be listed
    shutil.rmtree(doomed, ignore_errors=True)
    entry.path.rename(doomed)
    shutil.rmtree(doomed)


def _entry(path: Path, demo: bool = False) -> EmbeddingEntry:
    try:
        card = _checked_card(path)
    except (ModelError, OSError) as error:
        return EmbeddingEntry(path, None, str(error) or repr(error), demo, size_on_disk(path))
    return EmbeddingEntry(path, card, "", demo, size_on_disk(path))


def _checked_card(folder: Path) -> EmbeddingCard:
    """The card, after a look for cheap signs of damage; hashes of weights are compared when they are loaded."""
    card = read_embedding_card(folder)
    # the id becomes part of a folder's name: from a foreign card it could be anything
    if not re.fullmatch(r"[0-9a-f]{64}", card.weights_hash) or card.id != card.weights_hash[:12]:
        raise CheckpointError(f"The card of '{card.name}' has no valid id.", "It must be the start of its hash.", AGAIN)
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{listed(missing)} is missing in {folder.name}.", "", AGAIN)
    for name in REQUIRED[1:]:
        check_safetensors(folder / name)
    return card
