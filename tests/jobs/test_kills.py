"""kill -9 and full disks: a job in shards goes on, does nothing twice, gives the same bytes, and leaves no process behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from state_engine.config import Settings
from state_engine.jobs import kinds, local
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import LOST, Job, JobStore
from state_engine.jobs.worker import WorkerOptions
from state_engine.shards.ledger import log_lines
from tests.jobs.sample_tasks import KINDS, Steps
from tests.jobs.shard_tasks import KIND
from tests.jobs.workers import stopped
from tests.shards.squares import ALWAYS, Squares

OPTIONS = WorkerOptions(60.0, 0.05, 0.02, False, (KIND, *KINDS))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home of its own; its workers are killed afterwards."""
    settings = Settings(home=tmp_path / "home")
    yield settings
    assert stopped(settings)


def submit(settings: Settings, request: object, **more: object) -> tuple[str, RunFolder]:
    job, run = local.submit(settings, request, options=OPTIONS, **more)  # type: ignore[arg-type]
    return job, RunFolder(settings.runs / run)


def wait(settings: Settings, job: str) -> Job:
    return local.wait(settings, job, timeout=180, options=OPTIONS)


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def done(run: RunFolder) -> Counter[object]:
    return Counter(line["done"] for line in log_lines(run.path / "shards") if "done" in line)


def at_most_once(run: RunFolder) -> bool:
    """Whether no shard was done twice. A process that is killed between the renaming of a file and the log leaves no line of it."""
    return all(times == 1 for times in done(run).values())


def begun_after(run: RunFolder, process: int) -> set[object]:
    """The shards that other processes began after the last line of this one."""
    lines = log_lines(run.path / "shards")
    last = max(i for i, line in enumerate(lines) if line["process"] == process)
    return {line["begun"] for line in lines[last + 1 :] if "begun" in line}


def files_of(run: RunFolder) -> set[int]:
    """The shards whose files are there."""
    return {int(path.name.partition("-")[0]) for path in (run.path / "shards").glob("[0-9]*.shard")}


def processes_of(settings: Settings) -> list[int]:
    """All processes with this home in their environment, other than this one."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("STATE_EXPLORER_HOME")
            dead = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if home == str(settings.home) and process.pid != os.getpid() and not dead:
            found.append(process.pid)
    return found


def expected(shards: int, values: int = 4) -> np.ndarray:
    return np.concatenate([i**2 + np.random.default_rng([7, i]).random(values) for i in range(shards)])


@pytest.mark.slow
def test_ten_kills_at_random_moments(settings: Settings) -> None:
    job, run = submit(settings, Squares(200, 0.02))
    moments, kills = random.Random(13), 0
    left: dict[int, set[int]] = {}  # by the process that was killed: files that were there before it was
    while kills < 10:
        worker = JobStore(settings.database).get(job).worker
        if not worker:
            local.look_after(settings, OPTIONS)
            time.sleep(0.02)
            continue
        already = sum(done(run).values())
        # a shard or more between two kills, so that what kills it is not taken to be the job itself
        until(lambda already=already: sum(done(run).values()) > already)
        time.sleep(moments.uniform(0, 0.1))
        assert JobStore(settings.database).get(job).active, "too quick for ten kills"
        process = int(worker.split("/")[1])
        left[process] = files_of(run)
        os.kill(process, signal.SIGKILL)
        kills += 1
        until(lambda worker=worker: JobStore(settings.database).get(job).worker != worker)
    ended = wait(settings, job)
    assert ended.state == "done" and run.state == "done"
    assert np.array_equal(np.load(run.file("squares.npy")), expected(200))
    assert at_most_once(run)
    for process, files in left.items():
        assert not files & begun_after(run, process), "a shard that was done is begun again"
    assert len({line["process"] for line in log_lines(run.path / "shards")}) == 11
    assert len(processes_of(settings)) == 1


SERVER = """
import sys, time
from pathlib import Path
from state_engine.config import Settings
from state_engine.jobs import local
from tests.jobs.test_kills import OPTIONS
from tests.shards.squares import Squares
settings = Settings(home=Path(sys.argv[1]))
print(*local.submit(settings, Squares(60, 0.05), options=OPTIONS), flush=True)
while True:
    local.look_after(settings, OPTIONS)
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_the_server_is_killed(settings: Settings) -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(settings.home)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    job, run_id = server.stdout.readline().split()
    run = RunFolder(settings.runs / run_id)
    until(lambda: sum(done(run).values()) > 3)
    server.kill()
    server.wait()
    server.stdout.close()
    assert wait(settings, job).state == "done"
    assert np.array_equal(np.load(run.file("squares.npy")), expected(60)) and done(run) == Counter(range(60))
    assert len({line["process"] for line in log_lines(run.path / "shards")}) == 1


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_though_nobody_looks(settings: Settings) -> None:
    """The process that started it hears of its end."""
    job, run = submit(settings, Squares(30, 0.05))
    until(lambda: sum(done(run).values()) > 2)
    os.kill(int(JobStore(settings.database).get(job).worker.split("/")[1]), signal.SIGKILL)
    until(run.file("squares.npy").exists)
    assert at_most_once(run)


@pytest.mark.slow
def test_a_job_that_kills_its_worker_each_time_is_lost(settings: Settings) -> None:
    job, run = submit(settings, Squares(10, 0.0, die=5, mark=ALWAYS))
    ended = wait(settings, job)
    assert (ended.state, ended.error) == ("lost", LOST) and run.state == "lost"
    assert done(run) <= Counter(range(5))


def test_other_jobs_of_a_dead_worker_are_lost_as_ever(settings: Settings) -> None:
    job, _ = submit(settings, Steps(200, 0.05))
    until(lambda: JobStore(settings.database).get(job).done > 0)
    os.kill(int(JobStore(settings.database).get(job).worker.split("/")[1]), signal.SIGKILL)
    assert wait(settings, job).state == "lost"


def test_short_work_does_not_wait_behind_long_work(settings: Settings) -> None:
    long, _ = submit(settings, Steps(400, 0.05))
    until(lambda: JobStore(settings.database).get(long).done > 0)
    another, _ = submit(settings, Steps(2, 0.0))
    short, _ = submit(settings, Steps(2, 0.0), lane="short")
    assert wait(settings, short).state == "done"
    store = JobStore(settings.database)
    assert store.get(long).state == "running" and store.get(another).state == "queued"
    assert len(processes_of(settings)) == 2
    local.cancel(settings, long, OPTIONS)
    assert wait(settings, another).state == "done"


def test_short_work_alone_needs_no_second_worker(settings: Settings) -> None:
    for _ in range(2):
        job, _ = submit(settings, Steps(2, 0.0), lane="short")
        assert wait(settings, job).state == "done"
    assert len(processes_of(settings)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "shards", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a file system of a fixed size cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_in_the_middle(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, KIND.name, KIND)
    settings = Settings(home=small_disk / "home")
    request = Squares(12, 0.1, values=125_000)  # 1 MB each
    try:
        job, run = submit(settings, request)
        until(lambda: sum(done(run).values()) > 2)
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / "other").write_bytes(bytes(free - (12 << 20)))  # the disk keeps 8 MB for logs and the database
        failed = wait(settings, job)
        assert failed.state == "failed" and failed.error is not None and "The disk is full" in failed.error.what
        before = sum(done(run).values())
        assert 2 < before < 12 and local.goes_on(run)
        (small_disk / "other").unlink()
        assert wait(settings, local.go_on(settings, run)).state == "done"
        assert np.array_equal(np.load(run.file("squares.npy")), expected(12, 125_000))
        assert done(run) == Counter(range(12)) and not local.goes_on(run)
    finally:
        assert stopped(settings)


def test_a_run_that_is_done_does_not_go_on(settings: Settings) -> None:
    job, run = submit(settings, replace(Squares(3), seconds=0.0))
    assert wait(settings, job).state == "done"
    with pytest.raises(local.JobError, match="cannot go on"):
        local.go_on(settings, run)
