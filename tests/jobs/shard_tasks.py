"""A kind of job in shards, for the tests of what a kill costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from state_engine.files import replacing
from state_engine.jobs.kinds import Kind, WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.progress import OnProgress
from state_engine.shards.ledger import held
from state_engine.shards.run import arrays_in_order, complete, in_run
from tests.shards.squares import Squares, plan_of


@dataclass(frozen=True)
class Sum:
    """Of all squares."""

    total: float


def squares(request: Squares, run: RunFolder, on_progress: OnProgress, warm: WarmCache) -> Sum:
    """Square numbers, in shards of the run's folder."""
    shards = in_run(run.path)
    with held(shards.folder, plan_of(request)) as ledger:
        complete(ledger, shards.executor, on_progress)
        values = np.concatenate([arrays["squares"] for arrays, _ in arrays_in_order(ledger)])
        with replacing(run.file("squares.npy")) as beside:
            np.save(beside, values)
        ledger.clear()
    return Sum(float(values.sum()))


KIND = Kind("squares", "tests.shards.squares:Squares", f"{__name__}:squares", resumes=True)
