"""Evaluations as jobs: files of this installation only, tables in the run folder, a summary and a command that makes them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.errors import RequestError
from state_engine.evaluation.report import read_evaluation
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest, PredictedFile
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import AttentionMapsRequest, ModesRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks import evaluation as evaluate_tasks
from state_engine.jobs.tasks import results as results_tasks
from state_engine.library import allowed
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.progress import silent
from tests.evaluation.test_evaluate import CHOICES, MEASURED, PREDICTED, cells
from tests.jobs.workers import log_of
from tests.small import write_cells, write_model


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return Settings(tmp_path / "home", (tmp_path / "data",))


def test_files(settings: Settings, tmp_path: Path) -> None:
    for name, made in (("p", PREDICTED), ("r", MEASURED)):
        cells(made).write_h5ad(tmp_path / "data" / f"{name}.h5ad")
    request = EvaluationRequest((PredictedFile(str(tmp_path / "data" / "p.h5ad")),), str(tmp_path / "data" / "r.h5ad"), CHOICES)
    run = RunFolder.create(settings, "evaluate", to_plain(request), "p")
    made = evaluate_tasks.evaluate(request, run, silent, WarmCache())
    assert made == evaluate_tasks.Evaluated(4, 4, 7)  # the prediction, five baselines and ridge
    kept = read_evaluation(run.path)
    assert kept is not None and kept.verdict[0] in log_of(run)
    assert run.manifest.command.startswith("python -m state_engine evaluate --predicted")
    assert run.manifest.settings["profile"] == "minimal"
    cells(PREDICTED).write_h5ad(tmp_path / "elsewhere.h5ad")
    outside = EvaluationRequest((PredictedFile(str(tmp_path / "elsewhere.h5ad")),), request.real, CHOICES)
    with pytest.raises(RequestError, match="outside what may be read"):
        evaluate_tasks.evaluate(outside, run, silent, WarmCache())


def test_a_model_on_its_held_out_cells(settings: Settings, tmp_path: Path) -> None:
    data = write_cells(tmp_path / "data" / "cells.h5ad", 240)
    write_model(tmp_path / "data" / "model")
    split = f'[datasets]\nd = "{data}"\n\n[training]\nd = "train"\n\n[fewshot."d.B"]\ntest = ["IFNB1", "JUN,FOS"]\n'
    request = HeldOutRequest(
        model=str(tmp_path / "data" / "model"),
        split=split,
        choices=Choices(perturbation_key="perturbation"),
        cells=16,
        device="cpu",
    )
    run = RunFolder.create(settings, "test", to_plain(request), "Tiny")
    made = evaluate_tasks.test(request, run, silent, WarmCache())
    assert made.conditions == 2 and run.manifest.model_hash and run.manifest.seed == 42
    assert {p.name for p in run.path.iterdir()} >= {"predicted.h5ad", "real.h5ad", "metrics.csv", "evaluation.json"}
    write_model(tmp_path / "model")
    with pytest.raises(RequestError, match="outside what may be read"):
        evaluate_tasks.test(HeldOutRequest(model=str(tmp_path / "model"), split=split), run, silent, WarmCache())
    foreign = split.replace(str(data), str(write_cells(tmp_path / "cells.h5ad")))
    with pytest.raises(RequestError, match="outside what may be read"):
        evaluate_tasks.test(HeldOutRequest(model=request.model, split=foreign), run, silent, WarmCache())


class AskedInChildError(Exception):
    """A child process was asked to check a file."""


@pytest.mark.parametrize("job", ["split", "run", "attention", "attention check"])
def test_each_job_has_its_cells_checked_by_a_child_first(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    def asked(function: object, place: Path, *arguments: object, **more: object) -> None:
        raise AskedInChildError(place.name)

    data, model = write_cells(tmp_path / "data" / "cells.h5ad"), tmp_path / "data" / "model"
    write_model(model)
    split = f'[datasets]\nd = "{data}"\n\n[training]\nd = "train"\n\n[fewshot."d.B"]\ntest = ["IFNB1"]\n'
    prediction = PredictionRequest(str(data), str(model), ("IFNB1",), device="cpu")
    parent = RunFolder.create(settings, "predict", to_plain(prediction), "p")
    (tmp_path / "data" / "split.toml").write_text(split)
    monkeypatch.setattr(allowed, "call", asked)
    with pytest.raises(AskedInChildError, match=r"cells\.h5ad"):
        if job == "attention":
            results_tasks.attention(AttentionMapsRequest(parent.id, "IFNB1", "B", 0), parent, silent, WarmCache())
        elif job == "attention check":
            results_tasks.attention_check(ModesRequest(prediction), parent, silent, WarmCache())
        elif job == "split":
            evaluate_tasks.test(HeldOutRequest(model=str(model), split=split), parent, silent, WarmCache())
        else:
            evaluate_tasks.test(HeldOutRequest(run=str(tmp_path / "data"), model=str(model)), parent, silent, WarmCache())
