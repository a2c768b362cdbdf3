"""What jobs took on this machine: the measure of a guess that is made before one runs, and what stands before it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from statistics import median

from state_engine.config import Settings
from state_engine.jobs.kinds import Lane
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.seats import lanes
from state_engine.jobs.store import Guessed, Job, JobStore

MOST_LEARNT = 7  # jobs from which a guess is corrected: the newest


@dataclass(frozen=True)
class Forecast:
    """How long a job will take here, and when it can start.

    Args:
        seconds: that it takes, the middle of what is to be expected.
        least, most: seconds, from the quickest and the slowest of the jobs that it is learnt from.
        learnt: from how many jobs of this machine; 0: the guess alone, which knows of no other work on the machine.
        wait: seconds until it can start; None where nobody knows.
        before: titles of this owner's jobs that run or wait now, those that run in front.
        others: how many jobs of others run or wait.
    """

    seconds: float
    least: float
    most: float
    learnt: int
    wait: float | None
    before: tuple[str, ...] = ()
    others: int = 0


def forecast(settings: Settings, kind: str, guess: float, model: str = "", lane: Lane = "long") -> Forecast:
    """Return what is to be expected of a job that would be queued now.

    The guess is stretched by as much as the last jobs of its kind on this machine took longer than was guessed for them: those with the
    same model where there are any.

    Args:
        settings: as the owner has them.
        kind: of the job.
        guess: seconds on a common machine with nothing else to do.
        model: folder of its model, as the request has it; "" for none.
        lane: in which it would be done.
    """

    def ask(store: JobStore) -> tuple[tuple[Guessed, ...], float | None, tuple[Job, ...], int]:
        return (
            store.guessed(kind), store.seconds_until_new(lane, lanes()), store.list(states=("running", "queued")), store.active()
        )  # fmt: skip

    guessed, wait, active, everybody = asked_of_store(settings, ask)
    past = [one for one in guessed if one.worker.partition("/")[0] == socket.gethostname()]
    paces = [one.pace for one in ([one for one in past if model and one.model == model] or past)[:MOST_LEARNT]]
    mine = tuple(job.title for job in sorted(active, key=_turn))
    factor, least, most = (median(paces), min(paces), max(paces)) if paces else (1.0, 1.0, 1.0)
    return Forecast(guess * factor, guess * least, guess * most, len(paces), wait, mine, everybody - len(mine))


def _turn(job: Job) -> tuple[bool, int, float]:
    """Those that run first, the oldest in front; then those that wait, in turn."""
    return job.state != "running", job.position, job.created
