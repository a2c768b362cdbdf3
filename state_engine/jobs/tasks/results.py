"""What the worker does for each kind of job: the verbs, with a run folder to write into and warm models.

Derived things (attention of a set, another DE table) are written into the folder of the run they belong to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from state_engine.analysis import export, projection, stored
from state_engine.attention.cell_set import AttentionRequest, attention_of_set
from state_engine.attention.compare_modes import check_attention
from state_engine.attention.maps import maps_name
from state_engine.challenge import submit as challenge
from state_engine.checkpoints.arc.read import convert as convert_arc
from state_engine.checkpoints.load import LoadedModel, card_of, load_model
from state_engine.checkpoints.recognise import stamp, what_is
from state_engine.config import load_settings
from state_engine.data.dataset import open_dataset
from state_engine.data.variable_genes import add_hvgs
from state_engine.device import choose_device, dtype_of
from state_engine.files import write_bytes, write_json
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.library import hub
from state_engine.library.datasets import get_dataset, register_made
from state_engine.library.models import adopt, allowed, import_directory
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.measured_means import measure
from state_engine.prediction.predict import predict as predict_cells
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.progress import OnProgress, Progress

# DE tables made with the prediction; more conditions get theirs when they are looked at
TABLES_AT_ONCE = 24


def _model(request: PredictionRequest, warm: WarmCache) -> LoadedModel:
    """The request's model, from the cache when the same files were loaded for the same device and precision."""
    folder = Path(request.model)
    device = choose_device(request.device).kind
    key = ("model", str(folder), stamp(folder), device, request.precision, request.attention)
    return warm.get_or_load(key, lambda: load_model(folder, device, dtype_of(request.precision), request.attention))


def predict(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `PredictionRequest`, then the measured means; queues what the pages need to look at it."""
    asked = from_plain(PredictionRequest, request)
    on_progress(Progress("Loading the model"))
    loaded = _model(asked, warm) if asked.method == "model" else None  # a baseline needs no weights
    card = loaded.card if loaded is not None else card_of(Path(asked.model))
    made = predict_cells(asked, run.result, on_progress, loaded)
    result = open_result(run.result)
    run.record(
        seed=asked.seed,
        data_hash=str(result.manifest["data_hash"]),
        model_hash=card.weights_hash,
        device=made.device,
        precision=asked.precision,
        command=command(asked, output="prediction.h5ad"),
        settings={name: result.manifest[name] for name in ("method", "set_size", "attention")},
    )
    for remark in made.remarks:
        run.log(remark)
    measure(asked, card, run.file("observed_means.npz"), on_progress)
    # the result can be looked at now; its map and tables follow as a job of their own
    settings, title = load_settings(), f"Map and tables of {run.manifest.title}"
    after = RunFolder.create(settings, "look", {"run": run.id}, title)
    JobStore(settings.database).submit("look", {"run": run.id}, after.id, title)
    return {"cells": made.cells, "conditions": len(made.contexts) * len(made.perturbations), "device": made.device}


def look(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """The first DE tables and the UMAP of another run, so that the pages are ready: {"run"}."""
    parent = RunFolder.open(load_settings(), request["run"])
    result = open_result(parent.result)
    conditions = result.conditions()[:TABLES_AT_ONCE] if result.has_expression else []
    for number, (perturbation, context) in enumerate(conditions):
        on_progress(Progress("Comparing genes", number, len(conditions)))
        stored.answer(parent.path, perturbation, context)
    on_progress(Progress("Computing the UMAP"))
    projection.fit(parent.result, parent.file("projection.npz"), parent.manifest.seed or 0, on_progress)
    return {"tables": len(conditions)}


def differential(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A DE table of another run, and its comparison with measured cells where there are any.

    The request: {"run", "perturbation", "context", "reference", "expression"}.
    """
    parent = RunFolder.open(load_settings(), request["run"])
    on_progress(Progress("Comparing genes"))
    condition = request["perturbation"], request["context"]
    path = stored.answer(parent.path, *condition, reference=request["reference"], expression=request["expression"])
    return {"file": path.name}


def tables(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """All tables of another run as one zip in its folder: {"run"}."""
    parent = RunFolder.open(load_settings(), request["run"])
    return {"file": export.write_tables(parent.path, on_progress).name}


def submit(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A `SubmissionRequest`: checks cells for a challenge, or writes and verifies the archive; reports are in the run folder."""
    asked = from_plain(challenge.SubmissionRequest, request)
    on_progress(Progress("Reading labels"))
    report = challenge.submit(asked, run.path, on_progress)
    run.record(
        command=command(asked, output=challenge.ARCHIVE if asked.write else ""), settings={"repairs": list(report.repairs)}
    )
    return {"ok": report.ok, "errors": len(report.errors), "written": report.archive is not None}


def attention(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """The maps of one set of another run: {"run", "perturbation", "context", "number"}."""
    parent = RunFolder.open(load_settings(), request["run"])
    prediction = from_plain(PredictionRequest, parent.request)
    asked = AttentionRequest(prediction, request["perturbation"], request["context"], int(request["number"]))
    output = parent.file(maps_name(asked.perturbation, asked.context, asked.number))
    attention_of_set(asked, output, on_progress, _model(prediction, warm))
    return {"file": output.name}


def convert(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """An arc-state run directory or a checkpoint of it, on this server, into the library: {"path", "name"}."""
    settings = load_settings()
    return _into_library(allowed(Path(request["path"]), settings), request.get("name") or None, run, on_progress)


def download(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """A model from the hub into the library: {"repo", "revision", "subfolder", "accept_licence", "checkpoint"}."""
    settings, checkpoint = load_settings(), request.get("checkpoint") or None
    accepted, place = bool(request["accept_licence"]), request["subfolder"]
    folder = hub.download(request["repo"], request["revision"], settings, accepted, place, on_progress, checkpoint)
    if what_is(folder).kind == "store":
        entry = import_directory(folder, settings)
        return {"model": entry.card.id if entry.card else ""}
    name = " ".join(filter(None, (request["repo"].split("/")[-1], request["subfolder"])))
    return _into_library(folder, name, run, on_progress, checkpoint)


def _into_library(
    folder: Path, name: str | None, run: RunFolder, on_progress: OnProgress, checkpoint: str | None = None
) -> dict[str, Any]:
    on_progress(Progress("Reading the checkpoint"))
    target = run.path / "model"
    card = convert_arc(folder, target, name, checkpoint)
    for note in card.notes:
        run.log(note)
    hub.credit(target, folder)
    return {"model": card.id, "folder": str(adopt(target, load_settings()).path)}


def prepare(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """The most variable genes of a data set as `obsm["X_hvg"]` of a copy, which becomes a data set: {"data", "genes"}."""
    settings = load_settings()
    entry = get_dataset(settings, request["data"])
    n = int(request["genes"])
    made = add_hvgs(open_dataset(Path(entry.path), entry.choices, settings), n, run.result, on_progress)
    run.log(made.method)
    run.record(settings={"method": made.method})
    write_bytes(run.file("genes.csv"), ("gene\n" + "\n".join(made.genes) + "\n").encode())
    name = f"{Path(entry.name).stem} with {n:,} HVGs"
    return {"data": register_made(settings, name, run.result, entry.choices).id, "method": made.method}


def attention_check(request: dict[str, Any], run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> dict[str, Any]:
    """Agreement of each attention mode with measured cells, for a `PredictionRequest`."""
    asked = from_plain(PredictionRequest, request)
    on_progress(Progress("Loading the model"))
    scores = check_attention(asked, _model(asked, warm), on_progress)
    write_json(run.file("modes.json"), to_plain(scores))
    return {"modes": to_plain(scores)}
