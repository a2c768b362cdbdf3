"""What the worker does with heads: fit one on labelled cells, and apply one to cells or to a prediction."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.embedding_card import EmbeddingCard, is_embedding_store
from state_engine.checkpoints.head_card import HeadCard, read_head_card
from state_engine.checkpoints.recognise import stamp
from state_engine.config import Settings, load_settings
from state_engine.device import choose_device
from state_engine.files import write_json
from state_engine.heads.annotate import annotate as annotate_cells
from state_engine.heads.annotate import cells_of, find_backbone
from state_engine.heads.backbones import Loaded, load_backbone
from state_engine.heads.finetune import finetune as fit_head
from state_engine.heads.report import ANNOTATED, ANNOTATION, BACKBONE, HEAD, LABELS
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.allowed import check_data, check_readable, is_readable
from state_engine.library.datasets import keep_made, list_datasets
from state_engine.library.models import EMBEDDINGS, HEADS, TRANSITION, incoming, places_of
from state_engine.library.shelf import Shelf
from state_engine.options import command
from state_engine.plain import to_plain
from state_engine.progress import OnProgress, Progress


@dataclass(frozen=True)
class HeadFitted:
    """Id and folder of the head in the library, its name, and its scores on test cells, where they are defined."""

    model: str
    folder: str
    name: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Annotated:
    """Id of the annotated data set in the library ("" for a prediction), cells, and those called unknown."""

    data: str
    cells: int
    unknown: int


def finetune(request: FinetuneRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> HeadFitted:
    """Fit a head in the run's folder and take it, and the model that was tuned with it, into the library."""
    settings = load_settings()
    check_readable(settings, request.model, request.genes_of)
    check_data(settings, request.data)
    loaded = None if request.tunes_model else _backbone(request.model, request, warm, on_progress)
    folder = run.file(HEAD)
    if folder.exists():  # of a job that was stopped between the head and the library
        shutil.rmtree(folder)
    report = fit_head(request, folder, on_progress, loaded)
    for remark in report.remarks:
        run.log(remark)
    if request.tunes_model:
        backbone = folder / BACKBONE
        into(EMBEDDINGS if is_embedding_store(backbone) else TRANSITION, backbone, settings)
    entry = into(HEADS, folder, settings)
    card = read_head_card(folder)
    run.record(
        seed=request.seed, data_hash=card.data_hash, model_hash=card.weights_hash, device=report.device, precision=request.precision,
        command=command(request, output="head"), settings={"vectors": report.vectors, "tune": report.tune},
    )  # fmt: skip
    scores = {score.metric: score.value for score in report.own.scores if score.value is not None}
    return HeadFitted(read_head_card(entry).id, str(entry), report.name, scores)


def annotate(request: AnnotateRequest, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Annotated:
    """Apply a head: the facts are in the run's annotation.json, each cell in labels.csv; annotated cells become a data set."""
    settings = load_settings()
    check_readable(settings, request.model, request.backbone, request.result)
    check_data(settings, request.data or cells_of(request))
    card = read_head_card(Path(request.model))
    places = [place for place in (card.place,) if place and is_readable(place, settings)]
    place = find_backbone(card, Path(request.model), request, [*map(Path, places), *places_of(settings, card.source.model)])
    loaded = _backbone(str(place or ""), request, warm, on_progress)
    output = run.file(ANNOTATED) if request.data else None
    found = annotate_cells(request, output, on_progress, labels=run.file(LABELS), loaded=loaded, places=())
    for remark in found.remarks:
        run.log(remark)
    if output is not None:
        name = f"{_name_of(request, settings)}, called by {card.name}"
        found = replace(found, dataset=keep_made(settings, output, name, request.choices).id)
    write_json(run.file(ANNOTATION), to_plain(found))
    run.record(
        model_hash=card.weights_hash, device=found.device, precision=request.precision,
        command=command(request, output=ANNOTATED), settings={"head": card.name, "vectors": found.vectors},
    )  # fmt: skip
    return Annotated(found.dataset, found.cells, found.unknown)


def _backbone(model: str, request: FinetuneRequest | AnnotateRequest, warm: WarmCache, on_progress: OnProgress) -> Loaded | None:
    """The model behind a head, from the worker's cache where it is there; None for none."""
    if not model:
        return None
    path, device = Path(model), choose_device(request.device)
    key = ("head", str(path), stamp(path), device.kind, request.precision)
    on_progress(Progress("Loading the model"))
    return warm.get_or_load(key, lambda: load_backbone(path, device, request.precision))


def _name_of(request: AnnotateRequest, settings: Settings) -> str:
    """What the data set is called in the library; the name of its file where it is not there."""
    place = Path(request.data).resolve()
    return next((e.name for e in list_datasets(settings) if Path(e.path).resolve() == place), Path(request.data).stem)


def into(shelf: Shelf[HeadCard] | Shelf[EmbeddingCard] | Shelf[ModelCard], folder: Path, settings: Settings) -> Path:
    """Copy a head or a model into the library: the run keeps its own, so that each can be deleted alone. Returns its folder.

    Raises:
        CheckpointError: the folder is damaged.
    """
    with incoming(settings) as beside:
        for name in shelf.files:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, beside / name)
        return shelf.adopt(beside, settings).path
