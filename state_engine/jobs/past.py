"""What runs of before took on this machine: a better guess than any that is made beforehand."""

from __future__ import annotations

import socket
from pathlib import Path

from state_engine.config import Settings
from state_engine.errors import StateError
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.prediction.request import PredictionRequest

MOST_LOOKED_AT = 20


def seconds_of_last(settings: Settings, request: PredictionRequest) -> float | None:
    """Return how long a prediction takes, from the last one with this model and method that ran here; None where none did.

    Of several the one with the most similar number of cells counts; more cells take in proportion longer, fewer at most as long.
    """
    wanted, found = _cells(request), list[tuple[float, int]]()
    infos = [i for i in list_runs(settings) if i.manifest is not None and i.manifest.kind == "predict" and i.state == "done"]
    for info in infos[:MOST_LOOKED_AT]:
        if (
            info.manifest is None
            or info.manifest.elapsed is None
            or not info.manifest.process.startswith(f"{socket.gethostname()}/")
        ):
            continue
        try:
            past = RunFolder(info.path).request_as(PredictionRequest)
        except StateError:
            continue
        if (Path(past.model), past.method, past.device) == (Path(request.model), request.method, request.device):
            found.append((info.manifest.elapsed, _cells(past)))
    if not found:
        return None
    seconds, cells = min(found, key=lambda one: max(wanted, one[1]) / max(1, min(wanted, one[1])))
    return seconds * max(1.0, wanted / max(1, cells))


def _cells(request: PredictionRequest) -> int:
    return sum(request.count(p) for p in request.perturbations) * len(request.contexts)
