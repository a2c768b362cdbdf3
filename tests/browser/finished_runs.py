"""A home with a finished run of each kind, small and made at once by the code of the pages' own tests: for what opens every page with an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from state_engine import keys
from state_engine.analysis import stored
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.heads.request import AnnotateRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DEMO_ID, register_file
from state_engine.library.models import TRANSITION, list_models
from state_engine.plain import to_plain
from state_engine.prediction.result import open_result
from tests.browser.app import Server, running_app
from tests.pages import test_compare, test_finetune, test_pretrain, test_screen, test_train
from tests.pages.make_run import make_maps, make_run
from tests.small import write_cells, write_model


@contextmanager
def with_runs(folder: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server with these runs, and what an address holds to open them all."""
    home, data = folder / "home", folder / "data"
    data.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_EXPLORER_DATA", str(data))
        patch.setenv("STATE_EXPLORER_HOME", str(home))
        address = made(Settings(home, (data,)), data)
        with running_app(home) as server:
            yield server, address


def made(settings: Settings, data: Path) -> dict[str, str]:
    """Make the runs; return name in the address -> id."""
    comparison = test_compare.made(settings.home)
    run = make_run(settings)
    make_maps(run)
    for condition in open_result(run.result).conditions():
        stored.answer(run.path, *condition)
    cells = register_file(settings, write_cells(data / "cells.h5ad", 200))
    write_model(data / "model")
    model = TRANSITION.adopt(data / "model", settings)
    assert model.card is not None
    screening = test_screen.made(settings.home, {"data": cells.id, "model": model.card.id})
    labelled = register_file(settings, test_finetune.write(data / "labelled.h5ad"))
    head = test_finetune.fitted(settings, labelled.id)
    annotate = AnnotateRequest(str(head.path / "head"), labelled.path, device="cpu")
    demo = next(entry.card.id for entry in list_models(settings) if entry.demo and entry.card)
    return {
        "data": DEMO_ID, "model": demo, "run": run.id, "comparison": comparison.id, "screening": screening.id, "finetuning": head.id,
        "annotation": test_finetune.done(settings, "annotate", annotate, "Called").id,
        "training": test_train.finished(settings.home).id,
        "pretraining": test_pretrain.made(settings, "done").id,
        "evaluation": evaluation_of(settings, run).id,
    }  # fmt: skip


def evaluation_of(settings: Settings, run: RunFolder) -> RunFolder:
    """The run beside its measured cells."""
    control = open_result(run.result).conditions(keys.OBSERVED_CONTROL)[0][0]
    choices = Choices(perturbation_key=keys.PERTURBATION, control=control, context_key=keys.CONTEXT, scale="log1p")
    request = EvaluationRequest((PredictedFile(str(run.result)),), str(run.result), choices, by_kind=True)
    evaluation = RunFolder.create(settings, "evaluate", to_plain(request), "drugA, drugB in B, T")
    evaluation.start()
    evaluate(request, evaluation.path)
    evaluation.finish("done")
    return evaluation
