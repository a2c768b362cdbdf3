"""Deleting runs with what is derived from them, and what needs a run or a data set; `library.trash` is where things go."""

from __future__ import annotations

import json
from collections.abc import Iterable

from state_engine.config import Settings
from state_engine.errors import RunError, StateError
from state_engine.jobs.run_folder import RunFolder, RunInfo, derived_runs, list_runs
from state_engine.library.datasets import DataEntry
from state_engine.library.trash import Item, moved


def runs_that_need_run(settings: Settings, run_id: str) -> tuple[RunInfo, ...]:
    """Return the runs, newest first, that are derived from a run or whose request names it."""
    derived = {info.id for info in derived_runs(settings, run_id)}
    return tuple(i for i in list_runs(settings) if i.id != run_id and (i.id in derived or _names(i, (run_id,))))


def runs_that_need_data(settings: Settings, entry: DataEntry) -> tuple[RunInfo, ...]:
    """Return the runs, newest first, whose request names a data set by its id or its file."""
    return tuple(i for i in list_runs(settings) if _names(i, (f'"{entry.id}"', entry.path)))


def delete_run(settings: Settings, run_id: str) -> Item:
    """Move a run to the trash, and with it the runs that are derived from it.

    Raises:
        RunError: it is running.
    """
    run = RunFolder(settings.runs / run_id)
    title = run_id
    try:
        title = run.manifest.title or run.manifest.kind
        running = run.state == "running"
    except RunError:  # a damaged one may go as well
        running = False
    if running:
        raise RunError(f"Run {run_id} is running.", "Its files are being written.", "Cancel it first.")
    going = [run_id, *(info.id for info in derived_runs(settings, run_id))]
    return moved(settings, title, [settings.runs / name for name in going], going)


def _names(info: RunInfo, words: Iterable[str]) -> bool:
    try:
        asked = json.dumps(RunFolder(info.path).request, ensure_ascii=False)
    except StateError:
        return False
    return any(word in asked for word in words)
