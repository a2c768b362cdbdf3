"""What the worker does to bring things into the library: models converted or downloaded, public data sets, variable genes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.arc.read import convert as convert_arc
from state_engine.checkpoints.embedding_store import convert_embedding, is_embedding
from state_engine.checkpoints.recognise import what_is
from state_engine.config import load_settings
from state_engine.data.dataset import open_dataset
from state_engine.data.files.file_kind import check_signature
from state_engine.data.files.safety import check_file
from state_engine.data.variable_genes import add_hvgs
from state_engine.errors import DataError
from state_engine.files import write_bytes, write_json
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import (
    ConvertEmbeddingRequest,
    ConvertRequest,
    DownloadRequest,
    FetchRequest,
    GeneCacheRequest,
    Labelled,
    LabelRequest,
    Prepared,
    PrepareRequest,
)
from state_engine.jobs.run_folder import RunFolder
from state_engine.library import hand_labels, hub
from state_engine.library.allowed import check_data, readable
from state_engine.library.datasets import get_dataset, keep_made, register_made, register_public
from state_engine.library.foreign import call, limits_for
from state_engine.library.gene_cache import make_columns
from state_engine.library.models import EMBEDDINGS, EmbeddingEntry, Entry, adopt, import_directory
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress
from state_engine.public_data.catalogue import find
from state_engine.public_data.fetch import RECORD, home_of
from state_engine.public_data.fetch import fetch as fetch_data


@dataclass(frozen=True)
class ModelAdded:
    """Id of the model, and its folder in the library."""

    model: str
    folder: str = ""


@dataclass(frozen=True)
class PublicDataAdded:
    """Name in the catalogue, ids of the data sets, and paths of the split plans that came along."""

    name: str
    data: tuple[str, ...]
    plans: tuple[str, ...]


@dataclass(frozen=True)
class GeneCacheMade:
    """How many genes are kept, and the bytes of the file."""

    genes: int
    size: int


def convert(request: ConvertRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> ModelAdded:
    """Convert an arc-state run directory, or a checkpoint of it, on this server into the library."""
    return _into_library(readable(request.path, load_settings()), request.name or None, run, on_progress)


def download(request: DownloadRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> ModelAdded:
    """Download a model from the hub into the library."""
    settings = load_settings()
    checkpoint = request.checkpoint or None
    folder = hub.download(
        request.repo, request.revision, settings, request.accept_licence, request.subfolder, on_progress, checkpoint
    )
    if what_is(folder).kind == "store":
        return _added(import_directory(folder, settings))
    name = " ".join(filter(None, (request.repo.split("/")[-1], request.subfolder)))
    if is_embedding(folder):
        return _embedding_into_library(folder, name, run, on_progress, checkpoint)
    return _into_library(folder, name, run, on_progress, checkpoint)


def _into_library(
    folder: Path, name: str | None, run: RunFolder, on_progress: OnProgress, checkpoint: str | None = None
) -> ModelAdded:
    on_progress(Progress("Reading the checkpoint"))
    target = run.path / "model"
    card = convert_arc(folder, target, name, checkpoint)
    for note in card.notes:
        run.log(note)
    hub.credit(target, folder)
    return _added(adopt(target, load_settings()))


def convert_se(request: ConvertEmbeddingRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> ModelAdded:
    """Convert a State Embedding checkpoint on this server into the library."""
    return _embedding_into_library(readable(request.path, load_settings()), request.name or None, run, on_progress)


def _embedding_into_library(
    path: Path, name: str | None, run: RunFolder, on_progress: OnProgress, checkpoint: str | None = None
) -> ModelAdded:
    on_progress(Progress("Reading the checkpoint"))
    target = run.path / "model"
    card = convert_embedding(path, target, name, checkpoint)
    for note in card.notes:
        run.log(note)
    hub.credit(target, path)
    return _added(EMBEDDINGS.adopt(target, load_settings()))


def _added(entry: Entry | EmbeddingEntry) -> ModelAdded:
    return ModelAdded(entry.card.id if entry.card else "", str(entry.path))


def prepare(request: PrepareRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Prepared:
    """Choose the most variable genes of a data set: `obsm["X_hvg"]` of a copy, which becomes a data set."""
    settings = load_settings()
    entry = get_dataset(settings, request.data)
    check_data(settings, entry.path)
    source = open_dataset(readable(entry.path, settings), entry.choices, settings)
    found = add_hvgs(source, request.genes, run.result, on_progress)
    run.log(found.method)
    run.record(settings={"method": found.method})
    write_bytes(run.file("genes.csv"), ("gene\n" + "\n".join(found.genes) + "\n").encode())
    name = f"{Path(entry.name).stem} with {request.genes:,} HVGs"
    return Prepared(register_made(settings, name, run.result, entry.choices).id, found.method)


def gene_cache(request: GeneCacheRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> GeneCacheMade:
    """Keep the expression of a data set by gene too."""
    settings = load_settings()
    entry = get_dataset(settings, request.data)
    check_data(settings, entry.path)
    source = open_dataset(readable(entry.path, settings), entry.choices, settings)
    place = make_columns(settings, source, on_progress)
    return GeneCacheMade(source.n_genes, place.stat().st_size)


def label(request: LabelRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Labelled:
    """Write the labels given by hand into a copy of their data set, which becomes a data set."""
    settings = load_settings()
    entry = get_dataset(settings, request.data)
    check_data(settings, entry.path)
    source = open_dataset(readable(entry.path, settings), entry.choices, settings)
    labels = hand_labels.labels_of(settings, entry, source)
    hand_labels.labelled_copy(entry.name, source, labels, run.result, request.column, on_progress)
    run.record(
        data_hash=source.hash(), settings={"labels": {str(k): int(n) for k, _, n in labels.counts().itertuples(index=False)}}
    )
    made = keep_made(settings, run.result, f"{Path(entry.name).stem} with {request.column}", entry.choices)
    return Labelled(made.id, request.column, int((labels.column().codes >= 0).sum()))


def fetch(request: FetchRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> PublicDataAdded:
    """Download a public data set. What has arrived stays when the job is stopped, and is used the next time."""
    settings, data = load_settings(), find(request.name)
    folder = home_of(data.name, settings)
    run.log(f"Licence: {data.licence} {data.licence_url}".rstrip())
    fetched = fetch_data(data, folder, on_progress, settings)
    write_json(run.file(RECORD), to_plain(fetched))
    hashes = {arrived.name: arrived.sha256 for arrived in fetched.arrived}
    run.record(
        data_hash=fetched.arrived[0].sha256 if len(hashes) == 1 else None,
        command=f"python -m state_engine fetch {data.name}",
        settings={"sha256": hashes, "checked": [a.checked for a in fetched.arrived], "licence": fetched.licence},
    )
    known = []
    for name in fetched.data:
        try:
            check_signature(folder / name, settings.max_file_bytes)
            # what came from elsewhere is opened in a child process first, as an upload is
            call(check_file, folder / name, settings, path=folder / name, limits=limits_for(folder / name))
        except DataError as error:
            run.log(f"{name} is not among the data sets: {error}")
            continue
        title = data.title if len(fetched.data) == 1 else f"{data.title}: {name.rpartition('/')[2]}"
        known.append(register_public(settings, folder / name, title).id)
    return PublicDataAdded(data.name, tuple(known), tuple(str(folder / name) for name in fetched.plans))
