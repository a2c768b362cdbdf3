"""How long to train when nobody says it. No torch: pages show the number.

One perturbation is learnt in some hundred steps (longer, and a small data set is known by heart); each further one takes steps of its
own, as a step holds a few cell sets only. Measured on the data sets of `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

from dataclasses import replace

from state_engine.data.splits.apply import Split
from state_engine.train.request import TrainRequest

FIRST, FURTHER, MOST = 300, 200, 6000  # steps of the first perturbation, of each further one, of all


def suggested_steps(perturbations: int) -> int:
    """Optimiser steps for so many trained perturbations, the control not counted."""
    return min(MOST, FIRST + FURTHER * max(0, perturbations - 1))


def settled(request: TrainRequest, split: Split) -> TrainRequest:
    """The request with its number of steps: as asked for, or (0) as suits the perturbations that the split trains."""
    if request.steps:
        return request
    table = split.table()
    trained = table[(table["train"] > 0) & (table["perturbation"] != split.control)]
    return replace(request, steps=suggested_steps(trained["perturbation"].nunique()))
