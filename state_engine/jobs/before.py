"""What earlier versions wrote otherwise: requests of another shape, and no parent of a derived run, which only its request tells."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from state_engine.files import read_json


def request_before(kind: str, request: dict[str, object]) -> dict[str, object]:
    """Return a request, as plain values, in the shape that its kind has now; one that has it comes back unchanged."""
    if kind == "attention_check" and "prediction" not in request:
        return {"prediction": request}
    return request


def parent_before(kind: str, request: Mapping[str, object], runs: Path) -> str:
    """Return the id of the run that a job is derived from, "" for none.

    Args:
        kind: of the job.
        request: as plain values.
        runs: folder of all runs.
    """
    if kind in ("look", "differential", "tables", "attention"):
        return str(request.get("run", ""))
    if kind == "similar":
        return _embedding(runs, str(request.get("data", "")))
    if kind == "genes_read":
        asked = request.get("request")
        return _embedding(runs, str(asked.get("data", ""))) if isinstance(asked, Mapping) else ""
    return ""


@lru_cache(maxsize=256)
def _embedding(runs: Path, data: str) -> str:
    """The run that embedded the cells of this file."""
    for path in runs.glob("*/embedding.json"):
        try:
            found = read_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("path") == data:
            return path.parent.name
    return ""
