"""The jobs of heads, called as the worker calls them: a head goes into the library with the model tuned for it, annotated cells become data."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import pytest

from state_engine.config import Settings
from state_engine.errors import RequestError
from state_engine.heads.report import HEAD, LABELS, read_annotation, read_report
from state_engine.heads.request import AnnotateRequest
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks import heads as tasks
from state_engine.library.datasets import get_dataset
from state_engine.library.models import EMBEDDINGS, HEADS, TRANSITION
from state_engine.plain import to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.progress import silent
from tests.heads.cells import asked, write_labelled
from tests.small import write_cells, write_model
from tests.small_embedding import write_embedding_model

WARM = WarmCache()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path))
    return Settings(tmp_path / "home", data_folders=(tmp_path,))


def job(settings: Settings, kind: str, request: object) -> tuple[RunFolder, object]:
    run = RunFolder.create(settings, kind, to_plain(request), kind)
    return run, getattr(tasks, kind)(request, run, silent, WARM)


def test_a_head_and_its_tuned_model_are_kept_and_applied_from_the_library(settings: Settings, tmp_path: Path) -> None:
    data, other = write_labelled(tmp_path / "x.h5ad"), write_labelled(tmp_path / "y.h5ad", 40, seed=2)
    write_embedding_model(tmp_path / "se")
    request = asked(data, model=str(tmp_path / "se"), tune="last-1", max_epochs=2, name="My types")
    run, fitted = job(settings, "finetune", request)
    assert isinstance(fitted, tasks.HeadFitted) and fitted.name == "My types" and 0 <= fitted.scores["auroc"] <= 1
    entry = HEADS.find(settings, fitted.model)
    assert (
        entry.path == Path(fitted.folder) and entry.card is not None and read_report(run.path / HEAD) == read_report(entry.path)
    )
    tuned = [e for e in EMBEDDINGS.entries(settings) if e.card and e.card.weights_hash == entry.card.source.model]
    assert len(tuned) == 1 and tuned[0].card is not None and tuned[0].card.name == "Tiny SE tuned to My types"
    assert all(e.path != entry.path for e in TRANSITION.entries(settings)), "a head is no State Transition model"
    assert run.manifest.command and "finetune" in run.manifest.command and run.manifest.model_hash == entry.card.weights_hash
    # the run may go: the library has all that is needed
    shutil.rmtree(run.path)
    run, called = job(settings, "annotate", AnnotateRequest(str(entry.path), str(other), device="cpu"))
    assert isinstance(called, tasks.Annotated) and called.cells == 40 and called.unknown == 0
    found = read_annotation(run.path)
    kept = get_dataset(settings, called.data)
    assert found.dataset == called.data and "called by My types" in kept.name and (run.path / LABELS).is_file()
    assert "predicted_label" in anndata.read_h5ad(kept.path).obs
    HEADS.remove(entry, settings)
    assert not entry.path.exists()


def test_a_prediction_is_called_and_no_data_set_is_made(settings: Settings, tmp_path: Path) -> None:
    data = write_cells(tmp_path / "cells.h5ad", 300)
    write_model(tmp_path / "st")
    _, fitted = job(settings, "finetune", asked(data, "cell_type", max_epochs=2, genes_of=str(tmp_path / "st")))
    assert isinstance(fitted, tasks.HeadFitted)
    (tmp_path / "run").mkdir()
    predict(PredictionRequest(str(data), str(tmp_path / "st"), ("TNF",), cells=8, device="cpu"), tmp_path / "run" / "result.h5ad")
    run, called = job(settings, "annotate", AnnotateRequest(fitted.folder, result=str(tmp_path / "run"), device="cpu"))
    assert called == tasks.Annotated("", called.cells, 0) if isinstance(called, tasks.Annotated) else False
    assert {g.kind for g in read_annotation(run.path).groups} >= {"predicted", "predicted control", "measured control"}


def test_a_hint_that_leads_outside_is_not_followed(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    write_embedding_model(outside / "se")
    inside = tmp_path / "data"
    inside.mkdir()
    data = write_labelled(inside / "x.h5ad")
    from state_engine.heads.finetune import finetune

    finetune(asked(data, model=str(outside / "se"), max_epochs=1), inside / "head")
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(inside))
    with pytest.raises(RequestError, match="outside what may be read"):
        job(settings, "annotate", AnnotateRequest(str(inside / "head"), str(data), backbone=str(outside / "se"), device="cpu"))
    from state_engine.errors import RepresentationError

    with pytest.raises(RepresentationError, match="has no vectors"):
        job(settings, "annotate", AnnotateRequest(str(inside / "head"), str(data), device="cpu"))


def test_a_foreign_head_is_imported_whole_or_not_at_all(settings: Settings, tmp_path: Path) -> None:
    from state_engine.errors import StateError
    from state_engine.heads.finetune import finetune

    data = write_labelled(tmp_path / "x.h5ad")
    finetune(asked(data, max_epochs=1), tmp_path / "head")
    (tmp_path / "head" / "evil.py").write_text("raise SystemExit")
    entry = HEADS.import_directory(tmp_path / "head", settings)
    assert entry.card is not None and not (entry.path / "evil.py").exists()
    assert HEADS.import_directory(tmp_path / "head", settings).path == entry.path
    weights = (tmp_path / "head" / "model.safetensors").read_bytes()
    for damage in (b"", weights[:-7], b"\xff" * 64):
        shutil.rmtree(entry.path, ignore_errors=True)
        (tmp_path / "head" / "model.safetensors").write_bytes(damage)
        with pytest.raises(StateError):
            HEADS.import_directory(tmp_path / "head", settings)
    (tmp_path / "head" / "head.json").write_text("[" * 100_000)
    with pytest.raises(StateError):
        HEADS.import_directory(tmp_path / "head", settings)
    assert not HEADS.entries(settings)
