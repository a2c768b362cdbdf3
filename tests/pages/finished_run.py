"""A home with one finished run, for tests of the pages that look at it: no model, no worker, a small result of known effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from state_engine.analysis import stored
from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from tests.prediction.make_result import make_result


def finished_run(home: Path, **result: Any) -> RunFolder:
    """A run that is done; the arguments are those of `make_result`. Its tables of the default question are made."""
    settings = Settings(home=home)
    request = PredictionRequest("cells.h5ad", "model", ("drugA", "drugB"), ("B", "T"), cells=30)
    run = RunFolder.create(settings, "predict", to_plain(request), "drugA, drugB in B, T")
    run.start()
    make_result(run.result, **result)
    if not result.get("embedding") or result.get("decoder", True):
        for condition in (("drugA", "B"), ("drugA", "T"), ("drugB", "B"), ("drugB", "T")):
            stored.answer(run.path, *condition)
        stored.effects_for(run.path)
    run.finish("done")
    return run
