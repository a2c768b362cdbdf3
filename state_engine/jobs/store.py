"""The truth about jobs: one SQLite file that pages, command line and worker share. Knows no processes but by their identity.

    queued ──claim──> running ──finish──> done | failed | cancelled
       └──cancel──> cancelled    └──worker died──> lost, or queued again where the task goes on where it was stopped

Every transition is one short transaction that checks the state it starts from, so two processes never both make it.

Each job has an owner. Owners take turns: of the jobs that wait, the first of each comes before anybody's second; among those whose
turn it is, that of the owner who was served longest ago, then the older one.
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar, get_args
from urllib.parse import quote

from state_engine.errors import JobError
from state_engine.files import disk_full
from state_engine.jobs.before import parent_before
from state_engine.jobs.kinds import USUAL, Lane, Manner
from state_engine.jobs.processes import is_alive
from state_engine.plain import from_plain
from state_engine.progress import Progress, Unit

T = TypeVar("T")
JobState = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
JOB_STATES: tuple[str, ...] = get_args(JobState)
_SCHEMA_VERSION = (
    5  # 1 had neither `parent` nor `unit`, 2 no index by owner, 3 no lanes and no jobs that are queued again, 4 no guesses
)
MOST_RETURNS = 3  # of a job to the queue, one after the other without any progress: what kills its worker each time is lost
_RECENT = 7  # runs of a kind whose seconds tell how long the next one takes
_BUSY_SECONDS = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, title TEXT NOT NULL, run_id TEXT NOT NULL, owner TEXT NOT NULL,
    request TEXT NOT NULL, state TEXT NOT NULL, cancel INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '', stage_first INTEGER NOT NULL DEFAULT 0, stage_started REAL, progress_at REAL,
    created REAL NOT NULL, started REAL, ended REAL, heartbeat REAL, worker TEXT NOT NULL DEFAULT '',
    summary TEXT NOT NULL DEFAULT '{}',
    error_what TEXT NOT NULL DEFAULT '', error_why TEXT NOT NULL DEFAULT '', error_fix TEXT NOT NULL DEFAULT '',
    error_id TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_run ON jobs (run_id);
"""
_COLUMNS = {  # added to the table of version 1
    "parent": "TEXT NOT NULL DEFAULT ''", "unit": "TEXT NOT NULL DEFAULT 'count'", "lane": "TEXT NOT NULL DEFAULT 'long'",
    "resumes": "INTEGER NOT NULL DEFAULT 0", "returns": "INTEGER NOT NULL DEFAULT 0", "returned_at": "TEXT NOT NULL DEFAULT ''",
    "expected": "REAL",
}  # fmt: skip


@dataclass(frozen=True)
class JobFailure:
    """Why a job did not end well, for people. `id` finds the traceback in the run's log ("" for expected errors)."""

    what: str
    why: str = ""
    fix: str = ""
    id: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.fix) if part)


@dataclass(frozen=True)
class Job:
    """A job as it was when read. Times are seconds since 1970, None while unknown.

    Args:
        parent: id of the run that the job is derived from; "" for none.
        position: place in the queue of all owners, 1 is next; 0 when it does not wait.
        cancelling: cancellation was asked for and the job still runs.
        done, total, unit: of the current stage, as reported (`Progress`).
        seconds_left: of the current stage, from its rate so far; None when it cannot be known yet.
        summary: what the task returned, a few plain values.
    """

    id: str
    kind: str
    title: str
    run_id: str
    owner: str
    parent: str
    request: dict[str, object]
    state: JobState
    position: int
    cancelling: bool
    stage: str
    done: int
    total: int
    unit: Unit
    message: str
    seconds_left: float | None
    created: float
    started: float | None
    ended: float | None
    worker: str
    summary: dict[str, object]
    error: JobFailure | None

    def summary_as(self, cls: type[T]) -> T:
        """Return the summary of a job that is done.

        Raises:
            ConfigError: it is no such summary.
        """
        return from_plain(cls, self.summary)

    @property
    def active(self) -> bool:
        """Whether it waits or runs, so that it is worth asking again."""
        return self.state in ("queued", "running")

    @property
    def fraction(self) -> float:
        """Part of the current stage that is done, 0 to 1; 1 for a job that is done."""
        if self.state == "done":
            return 1.0
        return min(self.done / self.total, 1.0) if self.total else 0.0


@dataclass(frozen=True)
class Guessed:
    """A job that is done: the seconds that were guessed, those that it took, the model that it used ("" for none), who did it."""

    expected: float
    took: float
    model: str
    worker: str

    @property
    def pace(self) -> float:
        """How many times as long as guessed it took."""
        return self.took / self.expected


SILENT = JobFailure(
    "The job was lost: its worker process did not answer any more.",
    "It hangs, for example in a file that is damaged, or the machine slept.",
    "Run it again; if it is lost again, check the file of the data set.",
)
LOST = JobFailure(
    "The job was lost: its worker process ended while it ran.",
    "It was killed, or the machine ran out of memory or was restarted.",
    "Run it again; if it is lost again, ask for fewer cells or perturbations.",
)


class DamagedDatabaseError(JobError):
    """The jobs database is no database, or damaged (`state_engine.jobs.rebuild`)."""


def new_job_id() -> str:
    """Return an id that is hard to guess."""
    return secrets.token_hex(8)


class JobStore:
    """Jobs in one SQLite file. Holds no connection, so it may be shared by threads and created on every page run.

    Args:
        path: the database; created with its folder when it is not there.
        stale_seconds: a running job whose worker has been silent for longer is lost.
        owner: whose jobs can be read, cancelled and deleted, as if there were no others; None: everybody's.

    Every method raises JobError when the database cannot be used.
    """

    def __init__(self, path: Path, stale_seconds: float = 60.0, owner: str | None = None) -> None:
        self.path, self.stale_seconds, self.owner = path, stale_seconds, owner
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection("rwc") as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA_VERSION:
                raise JobError(f"The jobs database is of version {version}.", f"This program reads version {_SCHEMA_VERSION}.")
            if version < _SCHEMA_VERSION:
                db.execute("PRAGMA journal_mode=WAL")
                self._migrate(db)

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Bring a new or an older database to this version, whole or not at all."""
        db.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)
        there = {row["name"] for row in db.execute("PRAGMA table_info(jobs)")}
        for name, kind in _COLUMNS.items():
            if name not in there:  # another process may have been first
                db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
        db.execute("CREATE INDEX IF NOT EXISTS jobs_by_parent ON jobs (parent)")
        db.execute("CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, started)")
        if "parent" not in there:
            for row in db.execute("SELECT number, kind, request FROM jobs").fetchall():
                parent = parent_before(row["kind"], json.loads(row["request"]), self.path.parent / "runs")
                db.execute("UPDATE jobs SET parent = ? WHERE number = ?", (parent, row["number"]))
        db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        db.execute("COMMIT")

    def submit(
        self,
        kind: str,
        request: dict[str, object],
        run_id: str,
        title: str = "",
        owner: str = "",
        parent: str = "",
        job_id: str = "",
        manner: Manner = USUAL,
    ) -> str:
        """Put a job at the end of the queue; return its id: `job_id`, or a new one."""
        job_id = job_id or new_job_id()
        with self._connection() as db:
            db.execute(
                """INSERT INTO jobs (id, kind, title, run_id, owner, parent, request, state, created, lane, resumes, expected)
                VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)""",
                (
                    job_id,
                    kind,
                    title,
                    run_id,
                    owner,
                    parent,
                    json.dumps(request, allow_nan=False),
                    time.time(),
                    manner.lane,
                    manner.resumes,
                    manner.expected,
                ),
            )
        return job_id

    def get(self, job_id: str) -> Job:
        """Return the job as it is now.

        Raises:
            JobError: there is none with this id.
        """
        self.mark_lost()
        with self._connection() as db:
            row = db.execute(f"{_SELECT} WHERE id = ? AND {_MINE}", (job_id, self.owner, self.owner)).fetchone()
        if row is None:
            raise JobError(f"There is no job '{job_id[:80]}'.", "It was deleted, or belongs to another installation.")
        return _job(row)

    def for_run(self, run_id: str) -> Job | None:
        """Return the latest job of a run, or None when it has none."""
        self.mark_lost()
        with self._connection() as db:
            asked = (run_id, self.owner, self.owner)
            row = db.execute(f"{_SELECT} WHERE run_id = ? AND {_MINE} ORDER BY number DESC LIMIT 1", asked).fetchone()
        return None if row is None else _job(row)

    def list(
        self, owner: str | None = None, states: tuple[str, ...] = JOB_STATES, limit: int = 200, parent: str | None = None
    ) -> tuple[Job, ...]:
        """Return jobs, newest first. `owner` None: all that can be read. `parent` None: derived from any run or none."""
        self.mark_lost()
        if self.owner is not None:
            if owner not in (None, self.owner):
                return ()
            owner = self.owner
        marks = ", ".join("?" * len(states))
        with self._connection() as db:
            rows = db.execute(
                f"{_SELECT} WHERE state IN ({marks}) AND (? IS NULL OR owner = ?) AND (? IS NULL OR parent = ?) "
                "ORDER BY number DESC LIMIT ?",
                (*states, owner, owner, parent, parent, limit),
            ).fetchall()
        return tuple(_job(row) for row in rows)

    def give(self, before: str, owner: str, runs: Sequence[str]) -> None:
        """Let jobs of some runs, which are over, belong to another owner."""
        with self._connection() as db:
            db.executemany(
                "UPDATE jobs SET owner = ? WHERE owner = ? AND run_id = ? AND state NOT IN ('queued', 'running')",
                [(owner, before, run) for run in runs],
            )

    def check(self) -> None:
        """Read the whole database.

        Raises:
            DamagedDatabaseError: it is damaged.
        """
        with self._connection() as db:
            said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise sqlite3.DatabaseError(f"malformed: {said}")
            db.execute("SELECT count(number) FROM jobs").fetchone()

    def fold(self) -> None:
        """Fold the write-ahead log into the file, which then stands alone."""
        with self._connection() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def fail_restored(self, job_id: str, state: Literal["failed", "lost"], error: JobFailure) -> None:
        """Write down that a job, which is only known from its run folder, ended badly."""
        with self._connection() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = created, error_what = ?, error_why = ?, error_fix = ? WHERE id = ?",
                (state, error.what, error.why, error.fix, job_id),
            )

    def done_restored(self, job_id: str, summary: dict[str, object]) -> None:
        """Write down that a job, which is only known from its run folder, is done, and what its task returned."""
        with self._connection() as db:
            db.execute(
                "UPDATE jobs SET state = 'done', ended = created, summary = ? WHERE id = ?",
                (json.dumps(summary, allow_nan=False), job_id),
            )

    def waiting(self, owner: str) -> int:
        """Return how many jobs of an owner wait."""
        with self._connection() as db:
            found = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = ?", (owner,)).fetchone()
        return int(found[0])

    def seconds_until(self, job: Job, now: float | None = None, lanes: Sequence[Lane | None] = (None, "short")) -> float | None:
        """Return in how many seconds a job that waits is expected to start; None when nothing is known of a kind before it.

        Each run takes as long as the middle one of the last runs of its kind, whoever asked for them; where seconds were guessed for it,
        as many times that guess as the last ones took.

        Args:
            job: that waits.
            now: seconds since 1970.
            lanes: of each worker that there can be, None for one that does any job.
        """
        with self._connection() as db:
            (lane,) = db.execute("SELECT lane FROM jobs WHERE id = ?", (job.id,)).fetchone() or ("long",)
        return self._start(lane, job.position, time.time() if now is None else now, lanes)

    def seconds_until_new(self, lane: Lane, lanes: Sequence[Lane | None] = (None, "short")) -> float | None:
        """Return the same for a job that would be queued now, behind all that wait."""
        return self._start(lane, None, time.time(), lanes)

    def _start(self, lane: str, position: int | None, now: float, lanes: Sequence[Lane | None]) -> float | None:
        with self._connection() as db:
            before = db.execute(
                f"{_SELECT} WHERE state = 'running' OR (state = 'queued' AND (? IS NULL OR position < ?))", (position, position)
            ).fetchall()
            usual = {kind: _usual_seconds(db, kind) for kind in {row["kind"] for row in before}}
            paces = {kind: [one.pace for one in _guessed(db, kind)] for kind in usual}
        free = [0.0] * len(lanes)  # seconds until each worker is free; endless where nobody knows
        # those that run sit where they found a seat; those that wait take, in turn, the first that is free
        for row in sorted(before, key=lambda row: (row["state"] != "running", row["started"] or 0.0, row["position"])):
            seat = _first_free(free, lanes, row["lane"])
            seconds = usual[row["kind"]]
            if row["expected"] is not None:
                seconds = row["expected"] * median(paces[row["kind"]] or [1.0])
            spent = now - row["started"] if row["state"] == "running" else 0.0
            overdue = spent / 10  # what takes longer than expected is said to take a little longer still
            stage = _seconds_left(row) or 0.0  # a job that runs tells by its own pace
            free[seat] += (stage or math.inf) if seconds is None else max(seconds - spent, overdue, stage)
        start = free[_first_free(free, lanes, lane)]
        return start if math.isfinite(start) else None

    def guessed(self, kind: str) -> tuple[Guessed, ...]:
        """Return the last jobs of a kind that are done and for which seconds had been guessed, whoever asked for them, newest first."""
        with self._connection() as db:
            return _guessed(db, kind)

    def active(self) -> int:
        """Return how many jobs of everybody run or wait."""
        with self._connection() as db:
            return int(db.execute("SELECT count(*) FROM jobs WHERE state IN ('running', 'queued')").fetchone()[0])

    def has_queued(self, lane: Lane | None = None) -> bool:
        """Return whether any job waits (in a lane)."""
        with self._connection() as db:
            sql = "SELECT 1 FROM jobs WHERE state = 'queued' AND (? IS NULL OR lane = ?) LIMIT 1"
            return db.execute(sql, (lane, lane)).fetchone() is not None

    def outgrown(self) -> bool:
        """Return whether a later version of the program has changed the database: then its jobs are for the later version."""
        with self._connection() as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0]) > _SCHEMA_VERSION

    def is_busy(self, worker: str) -> bool:
        """Return whether a worker has a job."""
        with self._connection() as db:
            found = db.execute("SELECT 1 FROM jobs WHERE state = 'running' AND worker = ? LIMIT 1", (worker,)).fetchone()
        return found is not None

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a job that waits; ask a running one to stop, and a lost one, should its worker wake. Others stay as they are."""
        with self._connection() as db:
            db.execute(
                f"""UPDATE jobs SET cancel = 1, ended = CASE state WHEN 'queued' THEN ? ELSE ended END,
                state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END
                WHERE id = ? AND {_MINE} AND state IN ('queued', 'running', 'lost')""",
                (time.time(), job_id, self.owner, self.owner),
            )
        return self.get(job_id)

    def force_cancelled(self, job_id: str) -> bool:
        """Mark a running job, or a lost one whose worker lives, cancelled over its worker's head; True when this call did it.

        The caller then kills the worker.
        """
        with self._connection() as db:
            changed = db.execute(
                f"""UPDATE jobs SET state = 'cancelled', ended = ?, error_what = '', error_why = '', error_fix = ''
                WHERE id = ? AND {_MINE} AND state IN ('running', 'lost')""",
                (time.time(), job_id, self.owner, self.owner),
            )
            return changed.rowcount == 1

    def lost_with_worker(self) -> tuple[Job, ...]:
        """Return the lost jobs that are still in the name of a worker (see `disown`)."""
        with self._connection() as db:
            return tuple(map(_job, db.execute(f"{_SELECT} WHERE state = 'lost' AND worker != ''").fetchall()))

    def disown(self, job_id: str) -> bool:
        """Take a lost job from its worker for good, so that it cannot take it back; return True when this call did it."""
        with self._connection() as db:
            changed = db.execute("UPDATE jobs SET worker = '' WHERE id = ? AND state = 'lost' AND worker != ''", (job_id,))
            return changed.rowcount == 1

    def is_stalled(self, seconds: float) -> bool:
        """Return whether a job has waited for so long in which no other ran or ended: the worker takes none."""
        since = time.time() - seconds
        with self._connection() as db:
            row = db.execute(
                """SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND created < :since)
                AND NOT EXISTS (SELECT 1 FROM jobs WHERE state = 'running' OR ended > :since)""",
                {"since": since},
            ).fetchone()
        return bool(row[0])

    def delete(self, job_id: str) -> None:
        """Forget a job.

        Raises:
            JobError: it waits or runs.
        """
        with self._connection() as db:
            sql = f"DELETE FROM jobs WHERE id = ? AND {_MINE} AND state NOT IN ('queued', 'running')"
            gone = db.execute(sql, (job_id, self.owner, self.owner)).rowcount
        if not gone and self.get(job_id).active:
            raise JobError("The job is waiting or running.", fix="Cancel it first.")

    def mark_lost(self) -> tuple[str, ...]:
        """Mark running jobs lost whose worker is dead or silent; return their ids. Anyone who reads may call it, at any time.

        Those of a dead worker that go on where they were stopped are queued again, at their old place.
        """
        lost = []
        with self._connection() as db:
            running = db.execute(
                "SELECT id, worker, heartbeat, cancel, resumes, returns, returned_at, stage, done FROM jobs WHERE state = 'running'"
            ).fetchall()
            for row in running:
                dead = is_alive(row["worker"]) is False
                if not dead and time.time() - row["heartbeat"] <= self.stale_seconds:
                    continue
                if dead and row["resumes"] and not row["cancel"] and _queued_again(db, row):
                    continue
                why = LOST if dead else SILENT
                changed = db.execute(
                    """UPDATE jobs SET state = 'lost', ended = ?, error_what = ?, error_why = ?, error_fix = ?
                    WHERE id = ? AND state = 'running' AND worker = ?""",
                    (time.time(), why.what, why.why, why.fix, row["id"], row["worker"]),
                )
                lost += [row["id"]] * changed.rowcount
        return tuple(lost)

    # ---- what the worker calls ----

    def claim(
        self, worker: str, start: Callable[[Job], None] | None = None, most_running: int | None = None, lane: Lane | None = None
    ) -> Job | None:
        """Take the job whose turn it is for this worker; None when none waits.

        Args:
            worker: identity of the process that takes it.
            start: called with the job before the claim holds, so that a worker that dies meanwhile claims nothing.
            most_running: an owner of whom so many jobs run waits; None: any number may.
            lane: of the job; None: any.
        """
        now = time.time()
        with self._connection() as db:
            # workers ask several times a second: one that finds nothing holds up nobody who writes, even if it is stopped meanwhile
            if db.execute("SELECT 1 FROM jobs WHERE state = 'queued' LIMIT 1").fetchone() is None:
                return None
            db.execute("BEGIN IMMEDIATE")
            row = db.execute(
                f"{_TURNS} SELECT id FROM jobs JOIN turns ON turns.of = number "
                "WHERE (? IS NULL OR turns.running < ?) AND (? IS NULL OR lane = ?) ORDER BY turns.position LIMIT 1",
                (most_running, most_running, lane, lane),
            ).fetchone()
            if row is not None:
                db.execute(
                    "UPDATE jobs SET state = 'running', worker = ?, started = ?, heartbeat = ? WHERE id = ?",
                    (worker, now, now, row["id"]),
                )
                row = db.execute(f"{_SELECT} WHERE id = ?", (row["id"],)).fetchone()
                if start is not None:
                    start(_job(row))
            db.execute("COMMIT")
        return None if row is None else _job(row)

    def heartbeat(self, job_id: str, worker: str) -> bool:
        """Say that the worker lives; True when the job is to stop.

        A worker that was only asleep (a closed laptop) takes back the job that was marked lost meanwhile.
        """
        with self._connection() as db:
            rows = db.execute(
                """UPDATE jobs SET heartbeat = ?, state = 'running', ended = NULL, error_what = '', error_why = '', error_fix = ''
                WHERE id = ? AND worker = ? AND state IN ('running', 'lost') RETURNING cancel""",
                (time.time(), job_id, worker),
            ).fetchall()
        return not rows or bool(rows[0]["cancel"])

    def progress(self, job_id: str, worker: str, progress: Progress) -> bool:
        """Record how far the job is; True when the job is to stop."""
        with self._connection() as db:
            rows = db.execute(
                """UPDATE jobs SET
                stage_started = CASE WHEN stage = :stage AND done <= :done THEN coalesce(stage_started, :now) ELSE :now END,
                stage_first = CASE WHEN stage = :stage AND done <= :done THEN stage_first ELSE :done END,
                stage = :stage, done = :done, total = :total, unit = :unit, progress_at = :now, heartbeat = :now,
                message = CASE :message WHEN '' THEN message ELSE :message END
                WHERE id = :id AND worker = :worker AND state IN ('running', 'lost') RETURNING cancel""",
                {
                    "stage": progress.stage, "done": progress.done, "total": progress.total, "message": progress.message,
                    "unit": progress.unit, "now": time.time(), "id": job_id, "worker": worker,
                },
            ).fetchall()  # fmt: skip
        return not rows or bool(rows[0]["cancel"])

    def put_back(self, job_id: str, worker: str) -> bool:
        """Queue a running job of a worker that ends again, at its old place; False when it is no longer its job, or is to be cancelled."""
        with self._connection() as db:
            changed = db.execute(
                """UPDATE jobs SET state = 'queued', worker = '', started = NULL, heartbeat = NULL
                WHERE id = ? AND state = 'running' AND worker = ? AND cancel = 0""",
                (job_id, worker),
            )
            return changed.rowcount == 1

    def finish(
        self,
        job_id: str,
        worker: str,
        state: Literal["done", "failed", "cancelled"],
        summary: dict[str, object] | None = None,
        error: JobFailure | None = None,
    ) -> bool:
        """Record the end; False when the job is no longer this worker's (it was cancelled over its head)."""
        error = error or JobFailure("")
        with self._connection() as db:
            changed = db.execute(
                """UPDATE jobs SET state = ?, ended = ?, summary = ?, error_what = ?, error_why = ?, error_fix = ?, error_id = ?
                WHERE id = ? AND worker = ? AND state IN ('running', 'lost')""",
                (
                    state, time.time(), json.dumps(summary or {}, allow_nan=False), error.what, error.why, error.fix, error.id,
                    job_id, worker,
                ),
            )  # fmt: skip
            return changed.rowcount == 1

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Hold an idle connection, so that closing the others does not fold the write-ahead log each time."""
        with self._connection() as db:
            db.execute("SELECT 1 FROM jobs LIMIT 1").fetchall()
            yield

    @contextmanager
    def _connection(self, mode: Literal["rw", "rwc"] = "rw") -> Iterator[sqlite3.Connection]:
        # "rw": a database whose folder was deleted is an error, not a new empty database
        try:
            address = f"file:{quote(str(self.path))}?mode={mode}"
            db = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA synchronous=NORMAL")
                yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            full = disk_full(error, self.path.parent, JobError)
            damaged = any(words in str(error) for words in ("malformed", "not a database", "no such table"))
            kind = DamagedDatabaseError if damaged else JobError
            raise full or kind(
                "The jobs database cannot be used.", f"{self.path}: {error}.", "Check the disk and try again."
            ) from error


_MINE = "(? IS NULL OR owner = ?)"
# for each job that waits: how many jobs of its owner run, and its place among all
_TURNS = """WITH waiting AS (
        SELECT number, (SELECT count(*) FROM jobs AS r WHERE r.state = 'running' AND r.owner = jobs.owner) AS running,
            row_number() OVER (PARTITION BY owner ORDER BY number) AS own,
            coalesce((SELECT max(started) FROM jobs AS s WHERE s.owner = jobs.owner), 0) AS served
        FROM jobs WHERE state = 'queued'),
    turns AS (
        SELECT number AS of, running, row_number() OVER (ORDER BY own + running, served, number) AS position FROM waiting)"""
_SELECT = f"{_TURNS} SELECT jobs.*, coalesce(turns.position, 0) AS position FROM jobs LEFT JOIN turns ON turns.of = jobs.number"


def _queued_again(db: sqlite3.Connection, row: sqlite3.Row) -> bool:
    """Queue the job of a dead worker again, unless it died too often at one place; return whether it is."""
    place = f"{row['done']} {row['stage']}"
    returns = row["returns"] + 1 if place == row["returned_at"] else 1
    if returns > MOST_RETURNS:
        return False
    changed = db.execute(
        """UPDATE jobs SET state = 'queued', worker = '', started = NULL, heartbeat = NULL, returns = ?, returned_at = ?
        WHERE id = ? AND state = 'running' AND worker = ?""",
        (returns, place, row["id"], row["worker"]),
    )
    return changed.rowcount == 1


def _first_free(free: Sequence[float], lanes: Sequence[Lane | None], lane: str) -> int:
    """Return the worker that does a job of a lane first: of those that are free at the same time, the first."""
    return min((n for n, does in enumerate(lanes) if does in (None, lane)), key=lambda n: free[n])


def _usual_seconds(db: sqlite3.Connection, kind: str) -> float | None:
    """Return the middle one of how long the last runs of a kind took; None without any."""
    found = db.execute(
        "SELECT ended - started FROM jobs WHERE state = 'done' AND kind = ? AND started IS NOT NULL ORDER BY number DESC LIMIT ?",
        (kind, _RECENT),
    ).fetchall()
    return float(median(row[0] for row in found)) if found else None


def _guessed(db: sqlite3.Connection, kind: str) -> tuple[Guessed, ...]:
    found = db.execute(
        """SELECT expected, ended - started AS took, coalesce(json_extract(request, '$.model'), '') AS model, worker FROM jobs
        WHERE state = 'done' AND kind = ? AND started IS NOT NULL AND expected > 0 ORDER BY number DESC LIMIT ?""",
        (kind, 4 * _RECENT),
    ).fetchall()
    return tuple(Guessed(row["expected"], row["took"], str(row["model"]), row["worker"]) for row in found)


def _job(row: sqlite3.Row) -> Job:
    has_error = bool(row["error_what"])
    return Job(
        id=row["id"], kind=row["kind"], title=row["title"], run_id=row["run_id"], owner=row["owner"], parent=row["parent"],
        request=json.loads(row["request"]), state=row["state"], position=row["position"],
        cancelling=row["state"] == "running" and bool(row["cancel"]),
        stage=row["stage"], done=row["done"], total=row["total"], unit=row["unit"], message=row["message"], seconds_left=_seconds_left(row),
        created=row["created"], started=row["started"], ended=row["ended"], worker=row["worker"],
        summary=json.loads(row["summary"]),
        error=JobFailure(row["error_what"], row["error_why"], row["error_fix"], row["error_id"]) if has_error else None,
    )  # fmt: skip


def _seconds_left(row: sqlite3.Row) -> float | None:
    """Seconds left by the rate of this stage, counted on to now since the last report."""
    if row["state"] != "running" or not row["total"] or row["stage_started"] is None:
        return None
    finished, spent = row["done"] - row["stage_first"], row["progress_at"] - row["stage_started"]
    if finished <= 0 or spent <= 0:
        return None
    since = time.time() - row["progress_at"]
    return float(max((row["total"] - row["done"]) * spent / finished - since, 0.0))
