"""What the worker does with State Embedding models: embed and map cells, find similar ones, say which genes are read, add models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from state_engine.analysis.embedding_map import fit_embedding
from state_engine.checkpoints.embedding_store import LoadedEmbedding, convert_embedding, load_embedding
from state_engine.checkpoints.recognise import stamp
from state_engine.config import load_settings
from state_engine.data.dataset import open_dataset
from state_engine.device import choose_device, dtype_of
from state_engine.embedding.embed import embed as embed_cells
from state_engine.embedding.gene_attention import cls_attention
from state_engine.embedding.jobs import Embedding, EmbedJob, GenesReadJob, SimilarJob, reference_folder
from state_engine.embedding.request import EmbedRequest
from state_engine.errors import RequestError
from state_engine.files import write_json
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import keep_made
from state_engine.library.embedding_models import adopt_embedding
from state_engine.library.models import allowed
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress
from state_engine.search import query as search

RESULT, MAP, SIMILAR, GENES_READ = "embedding.json", "projection.npz", "similar.csv", "genes_read.npz"


def _model(request: EmbedRequest, warm: WarmCache) -> LoadedEmbedding:
    """The request's model, from the cache when the same files were loaded for the same device and precision."""
    path = Path(request.model)
    device = choose_device(request.device).kind
    key = ("embedding", str(path), stamp(path), device, request.precision, request.checkpoint)
    return warm.get_or_load(key, lambda: load_embedding(path, device, dtype_of(request.precision), request.checkpoint))


def embed(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """An `EmbedJob`: the embedded cells become a data set, with a map; what was made is in the run's embedding.json."""
    asked, settings = from_plain(EmbedJob, request), load_settings()
    on_progress(Progress("Loading the model"))
    loaded = _model(asked.request, warm)
    output = run.file("embedded.h5ad")
    made = embed_cells(asked.request, output, on_progress, loaded)
    for remark in made.remarks:
        run.log(remark)
    dataset, key = open_dataset(output, asked.request.choices, settings), asked.request.key
    facts = dataset.embeddings[key]
    fit_embedding(dataset, key, made.cell_width, run.file(MAP), asked.request.seed, on_progress)
    reference = 0
    if asked.reference:
        folder, choices = reference_folder(settings), asked.request.choices
        added = search.add_embeddings(folder, output, key, on_progress, name=asked.name, choices=choices, settings=settings)
        reference = added.cells
    entry = keep_made(settings, output, asked.name, asked.request.choices)
    answer = Embedding(
        data=entry.id, path=entry.path, key=key, width=made.width, cell_width=made.cell_width, model=facts.model,
        model_name=facts.model_name, simulated=facts.simulated, cells=made.cells, empty=made.empty, genes=made.genes,
        overlap=made.overlap, scale=made.scale, device=made.device, seconds=made.seconds, remarks=made.remarks, reference=reference,
    )  # fmt: skip
    write_json(run.file(RESULT), to_plain(answer))
    run.record(
        seed=asked.request.seed,
        data_hash=facts.data_hash,
        model_hash=facts.model,
        device=made.device,
        precision=asked.request.precision,
        command=command(asked.request, output="embedded.h5ad"),
        settings={"key": key, "scale": made.scale, "batch_size": made.batch_size},
    )
    return {"cells": made.cells, "width": made.width, "device": made.device}


def similar(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `SimilarJob`: pairs of cells in the run's similar.csv, the rest of the answer in similar.json."""
    asked, settings = from_plain(SimilarJob, request), load_settings()
    on_progress(Progress("Reading the data set"))
    dataset = open_dataset(Path(asked.data), asked.choices, settings)
    rows = asked.pick.of(dataset)
    if not len(rows):
        raise RequestError("No cell is picked.", f"'{asked.pick.words}' has none in this data set.", "Pick others.")
    found = search.query(
        reference_folder(settings), Path(asked.data), asked.key, asked.k, rows,
        others_only=asked.others_only, on_progress=on_progress, choices=asked.choices, settings=settings,
    )  # fmt: skip
    search.save(found, run.file(SIMILAR))
    return {"cells": len(found.asked), "pairs": len(found.table)}


def genes_read(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `GenesReadJob`: which genes CLS attends to, in the run's genes_read.npz."""
    asked = from_plain(GenesReadJob, request)
    on_progress(Progress("Loading the model"))
    loaded = _model(asked.request, warm)
    made = cls_attention(
        asked.request, asked.column or None, run.file(GENES_READ), on_progress, loaded, cells_a_group=asked.cells_a_group
    )
    return {"groups": len(made.groups), "genes": len(made.genes)}


def convert_se(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A State Embedding checkpoint on this server into the library: {"path", "name"}."""
    settings = load_settings()
    path = allowed(Path(request["path"]), settings)
    on_progress(Progress("Reading the checkpoint"))
    target = run.path / "model"
    card = convert_embedding(path, target, request.get("name") or None)
    for note in card.notes:
        run.log(note)
    return {"model": card.id, "folder": str(adopt_embedding(target, settings).path)}
