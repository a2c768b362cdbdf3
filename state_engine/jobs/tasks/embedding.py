"""What the worker does with State Embedding models: embed and map cells, find similar ones, and say which genes are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from state_engine.analysis.projection import fit_embedding
from state_engine.config import load_settings
from state_engine.data.dataset import open_dataset
from state_engine.embedding.cost import remember_speed
from state_engine.embedding.embed import embed as embed_cells
from state_engine.embedding.gene_attention import cls_attention
from state_engine.embedding.jobs import Embedding, EmbedJob, GenesReadJob, SimilarJob, SpeedJob, reference_folder
from state_engine.embedding.request import EmbedRequest
from state_engine.embedding.speed import measure_speed
from state_engine.errors import RequestError
from state_engine.files import write_json
from state_engine.jobs import local
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import GeneCacheRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.warm_models import embedding_model
from state_engine.library.allowed import check_data, check_readable
from state_engine.library.datasets import keep_made
from state_engine.library.gene_cache import is_worth
from state_engine.options import command
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress
from state_engine.search import query as search
from state_engine.shards.run import in_run

RESULT, MAP, SIMILAR, GENES_READ = "embedding.json", "projection.npz", "similar.csv", "genes_read.npz"


@dataclass(frozen=True)
class Embedded:
    """How many cells, how wide, and where."""

    cells: int
    width: int
    device: str


@dataclass(frozen=True)
class CellSpeed:
    """Seconds for a cell on this machine's CPU."""

    seconds_a_cell: float


@dataclass(frozen=True)
class SimilarFound:
    """How many cells were asked about, and how many pairs were found."""

    cells: int
    pairs: int


@dataclass(frozen=True)
class GenesRead:
    """How many groups of cells, and how many genes."""

    groups: int
    genes: int


def embed(request: EmbedJob, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Embedded:
    """Embed cells, which become a data set, and draw their map; the facts are in the run's embedding.json."""
    settings, asked = load_settings(), request.request
    check_readable(settings, asked.model)
    check_data(settings, asked.data)
    on_progress(Progress("Loading the model"))
    loaded = embedding_model(asked, warm)
    output = run.file("embedded.h5ad")
    done = embed_cells(asked, output, on_progress, loaded, in_run(run.path))
    for remark in done.remarks:
        run.log(remark)
    dataset, key = open_dataset(output, asked.choices, settings), asked.key
    facts = dataset.embeddings[key]
    fit_embedding(dataset, key, done.cell_width, run.file(MAP), asked.seed, on_progress)
    reference = 0
    if request.reference:
        added = search.add_embeddings(
            reference_folder(settings), output, key, on_progress,
            name=request.name, choices=asked.choices, settings=settings,
        )  # fmt: skip
        reference = added.cells
    large = is_worth(dataset)
    entry = keep_made(settings, output, request.name, asked.choices)
    if large:  # the map can be looked at now; colouring it by a gene gets quick later
        local.queue(settings, GeneCacheRequest(entry.id), f"Values by gene of {request.name}", parent=run.id)
    answer = Embedding(
        data=entry.id, path=entry.path, key=key, width=done.width, cell_width=done.cell_width, model=facts.model,
        model_name=facts.model_name, simulated=facts.simulated, cells=done.cells, empty=done.empty, genes=done.genes,
        overlap=done.overlap, scale=done.scale, device=done.device, seconds=done.seconds, remarks=done.remarks, reference=reference,
    )  # fmt: skip
    write_json(run.file(RESULT), to_plain(answer))
    run.record(
        seed=asked.seed,
        data_hash=facts.data_hash,
        model_hash=facts.model,
        device=done.device,
        precision=asked.precision,
        command=command(asked, output="embedded.h5ad"),
        settings={"key": key, "scale": done.scale, "batch_size": done.batch_size},
    )
    return Embedded(done.cells, done.width, done.device)


def embed_speed(request: SpeedJob, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> CellSpeed:
    """Measure how long a cell takes with a model on the CPU, and remember it for this installation."""
    settings = load_settings()
    check_readable(settings, request.model)
    on_progress(Progress("Loading the model"))
    loaded = embedding_model(EmbedRequest("", request.model, device="cpu"), warm)
    seconds = measure_speed(loaded.module, on_progress)
    remember_speed(settings.root, loaded.card.config, seconds)
    return CellSpeed(seconds)


def similar(request: SimilarJob, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> SimilarFound:
    """Find similar reference cells: pairs of cells in the run's similar.csv, the rest of the answer in similar.json."""
    settings = load_settings()
    check_data(settings, request.data)
    on_progress(Progress("Reading the data set"))
    dataset = open_dataset(Path(request.data), request.choices, settings)
    rows = request.pick.of(dataset)
    if not len(rows):
        raise RequestError("No cell is picked.", f"'{request.pick.words}' has none in this data set.", "Pick others.")
    found = search.query(
        reference_folder(settings), Path(request.data), request.key, request.k, rows,
        others_only=request.others_only, on_progress=on_progress, choices=request.choices, settings=settings,
    )  # fmt: skip
    search.save(found, run.file(SIMILAR))
    return SimilarFound(len(found.asked), len(found.table))


def genes_read(request: GenesReadJob, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> GenesRead:
    """Average which genes CLS attends to, over the cells of each group; in the run's genes_read.npz."""
    asked = request.request
    check_readable(load_settings(), asked.model)
    check_data(load_settings(), asked.data)
    on_progress(Progress("Loading the model"))
    loaded = embedding_model(asked, warm)
    output = run.file(GENES_READ)
    found = cls_attention(
        asked, request.column or None, output, on_progress, loaded, cells_a_group=request.cells_a_group
    )  # fmt: skip
    return GenesRead(len(found.groups), len(found.genes))
