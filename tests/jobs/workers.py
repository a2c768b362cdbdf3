"""What tests ask of a worker and of a run, and the program itself does not."""

from __future__ import annotations

from state_engine.config import Settings
from state_engine.jobs.lock import holder
from state_engine.jobs.processes import is_alive, kill_tree
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.seats import seats


def stopped(settings: Settings) -> bool:
    """Kill the workers of a home, if any live; True when none lives afterwards."""
    identities = [holder(settings.home, seat.lock) for seat in seats()]
    gone = [not identity or kill_tree(identity) for identity in identities]
    return all(gone)


def worker_lives(settings: Settings) -> bool:
    return bool(is_alive(holder(settings.home)))


def log_of(run: RunFolder) -> str:
    """The run's log; empty when nothing was written."""
    log = run.path / "log.txt"
    return log.read_text() if log.exists() else ""
