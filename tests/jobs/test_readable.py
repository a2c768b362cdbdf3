"""No job opens a path that may not be read: every kind is asked with each of its paths led outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from state_engine.analysis.enrichment import SetQuestion
from state_engine.analysis.on_target import TargetsRequest
from state_engine.challenge.score_request import RehearsalRequest, ScoreRequest
from state_engine.challenge.submit import SubmissionRequest
from state_engine.comparison.request import ComparedSide, CompareRequest, SelectionRequest
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.data.splits.plan import SplitPlan, plan_text
from state_engine.embedding.jobs import EmbedJob, GenesReadJob, Pick, SimilarJob, SpeedJob
from state_engine.embedding.request import EmbedRequest
from state_engine.errors import DataError, RequestError, RunError, StateError
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest, PredictedFile
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.jobs.kinds import KINDS, WarmCache, kind_of, load_target
from state_engine.jobs.requests import (
    AttentionMapsRequest,
    ConvertEmbeddingRequest,
    ConvertRequest,
    DifferentialRequest,
    EffectsRequest,
    FetchRequest,
    GeneCacheRequest,
    GeneSetsRequest,
    LabelRequest,
    LookRequest,
    MatrixRequest,
    ModesRequest,
    PrepareRequest,
    ReportRequest,
    SelectedCellsRequest,
    StoreRequest,
    TablesRequest,
)
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import TrainJob
from state_engine.library.allowed import check_readable, is_readable, readable
from state_engine.library.datasets import DEMO_PATH
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.pretrain.request import PretrainRequest
from state_engine.progress import silent
from state_engine.screening.request import ScreenRequest
from state_engine.train.request import TrainRequest

INSIDE = str(DEMO_PATH)
PREDICTION = PredictionRequest(INSIDE, INSIDE, ("TNF",))
SUBMISSION = SubmissionRequest(INSIDE, INSIDE, genes=INSIDE, pert_counts=INSIDE, controls=(INSIDE,))
# a request of each kind with every path it can name, all of them inside
WITH_PATHS: tuple[object, ...] = (
    PREDICTION,
    ModesRequest(PREDICTION),
    ConvertRequest(INSIDE),
    ConvertEmbeddingRequest(INSIDE),
    EmbedJob(EmbedRequest(INSIDE, INSIDE), "x"),
    SimilarJob(INSIDE, "X_state", Pick()),
    GenesReadJob(EmbedRequest(INSIDE, INSIDE)),
    FinetuneRequest(INSIDE, ("perturbation",), model=INSIDE),
    FinetuneRequest(INSIDE, ("perturbation",), genes_of=INSIDE),
    AnnotateRequest(INSIDE, INSIDE, backbone=INSIDE),
    AnnotateRequest(INSIDE, result=INSIDE),

    SUBMISSION,
    ScoreRequest(SUBMISSION, INSIDE, training=INSIDE),
    RehearsalRequest(INSIDE, PREDICTION),
    EvaluationRequest(
        (PredictedFile(INSIDE),), INSIDE, Choices(perturbation_key="perturbation"), effects=INSIDE, features=INSIDE,
        measured_elsewhere=INSIDE,
    ),
    HeldOutRequest(run=INSIDE, features=INSIDE, measured_elsewhere=INSIDE),
    HeldOutRequest(model=INSIDE, split=plan_text(SplitPlan((("d", INSIDE),), ("d",)))),
    TrainJob(
        plan_text(SplitPlan((("d", INSIDE),), ("d",))),
        TrainRequest().with_settings(features=INSIDE),
        init_from=INSIDE,
    ),
    PretrainRequest((INSIDE,), genes=INSIDE),
    PretrainRequest((INSIDE,), init_from=INSIDE),
    CompareRequest(ComparedSide((INSIDE,)), ComparedSide((INSIDE,))),
    ScreenRequest(INSIDE, INSIDE, head=INSIDE, backbone=INSIDE, earlier=INSIDE),
    SpeedJob(INSIDE),
    TargetsRequest(INSIDE),
)  # fmt: skip
# kinds that name something by its id, asked with an id that leads elsewhere
BY_ID: tuple[object, ...] = (
    LookRequest("../../elsewhere"),
    TablesRequest("../../elsewhere"),
    MatrixRequest("../../elsewhere"),
    ReportRequest("../../elsewhere"),
    SelectionRequest("../../elsewhere", (0, 1, 2), (3, 4, 5)),
    StoreRequest("../../elsewhere"),
    DifferentialRequest("../../elsewhere", "p", "c", "predicted control", "corrected"),
    EffectsRequest("../../elsewhere"),
    SelectedCellsRequest("../../elsewhere", "cells-0"),
    GeneSetsRequest("../../elsewhere", SetQuestion("gsea", "p", "c")),
    AttentionMapsRequest("../../elsewhere", "p", "c", 0),
    PrepareRequest("../../elsewhere", 10),
    GeneCacheRequest("../../elsewhere"),
    LabelRequest("../../elsewhere", "cell_label"),
    FetchRequest("../../elsewhere"),
)
NO_PATH = {"download"}  # asks the hub, and writes into the library


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STATE_EXPLORER_DATA", raising=False)
    return Settings(tmp_path / "home")


def led_outside(value: Any, path: str) -> Iterator[Any]:
    """Return the value with one of its paths replaced, for each of them."""
    if isinstance(value, str):
        if INSIDE in value:
            yield value.replace(INSIDE, path)
    elif isinstance(value, tuple):
        for place, item in enumerate(value):
            for other in led_outside(item, path):
                yield (*value[:place], other, *value[place + 1 :])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            for other in led_outside(getattr(value, field.name), path):
                yield dataclasses.replace(value, **{field.name: other})


def asked(settings: Settings, request: object) -> None:
    """Do a job as the worker does."""
    kind = kind_of(request)
    run = RunFolder.create(settings, kind.name, to_plain(request))
    load_target(kind.target)(request, run, silent, WarmCache())


def test_every_kind_is_tried() -> None:
    assert {kind_of(r).name for r in (*WITH_PATHS, *BY_ID)} | NO_PATH == set(KINDS)


@pytest.mark.parametrize("request_", WITH_PATHS, ids=lambda r: type(r).__name__)
def test_a_path_outside_is_refused(settings: Settings, tmp_path: Path, request_: object) -> None:
    outside = tmp_path / "elsewhere" / "x.h5ad"
    outside.parent.mkdir()
    outside.write_bytes(DEMO_PATH.read_bytes()[:1000])
    link = settings.uploads / "link.h5ad"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    tried = 0
    for path in (outside, link, settings.uploads / ".." / ".." / "elsewhere" / "x.h5ad"):
        for wrong in led_outside(request_, str(path)):
            tried += 1
            with pytest.raises(RequestError, match="outside what may be read"):
                asked(settings, wrong)
    assert tried >= 3


@pytest.mark.parametrize("request_", BY_ID, ids=lambda r: type(r).__name__)
def test_an_id_that_leads_elsewhere_is_refused(settings: Settings, request_: object) -> None:
    with pytest.raises((DataError, RequestError, RunError)):
        asked(settings, request_)


@pytest.mark.parametrize(
    "request_",
    [
        dataclasses.replace(WITH_PATHS[14], profile="vcc2025", cell_eval="/usr/bin/python3"),  # type: ignore[type-var]
        dataclasses.replace(WITH_PATHS[12], cell_eval="/usr/bin/python3"),  # type: ignore[type-var]
    ],
    ids=["evaluate", "score"],
)
def test_a_job_starts_no_program(settings: Settings, request_: object) -> None:
    with pytest.raises(RequestError, match="starts no other program"):
        asked(settings, request_)


def test_what_may_be_read(settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inside = [DEMO_PATH, DEMO_PATH.parent / "model", settings.runs / "r" / "result.h5ad", settings.uploads / "a.h5ad"]
    check_readable(settings, *inside, "")
    for path in (settings.database, settings.home / "worker.log", settings.home, elsewhere, "/etc/passwd", "x.h5ad"):
        assert not is_readable(path, settings)
    with pytest.raises(RequestError, match="not in a folder that may be read"):
        readable(elsewhere, settings)
    wider = dataclasses.replace(settings, data_folders=(tmp_path,))
    assert readable(elsewhere / ".." / "elsewhere", wider) == elsewhere
    with pytest.raises(RequestError, match="There is no"):
        readable(elsewhere / "nothing", wider)
    # a model that whoever runs the installation linked from elsewhere
    settings.models.mkdir(parents=True)
    (settings.models / "linked").symlink_to(elsewhere)
    assert is_readable(settings.models / "linked", settings) and not is_readable(tmp_path / "other", settings)


def test_refusals_are_for_people(settings: Settings) -> None:
    with pytest.raises(StateError) as caught:
        check_readable(settings, "/data/cells.h5ad")
    assert caught.value.what == "cells.h5ad is outside what may be read." and "STATE_EXPLORER_DATA" in caught.value.fix


@pytest.mark.parametrize("path", ["/data/\0.h5ad", "/" + "x" * 300, "x/" * 3000, "~nobody-of-this-name/x"])
def test_what_can_be_no_path_is_a_sentence(tmp_path: Path, path: str) -> None:
    for ask in (is_readable, readable, lambda p, s: check_readable(s, p)):
        with pytest.raises(RequestError, match="is no path"):
            ask(path, Settings(tmp_path))
