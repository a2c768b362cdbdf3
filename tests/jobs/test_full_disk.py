"""A full disk is told as that, and the worker lives on."""

from __future__ import annotations

import errno
import io
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from state_engine.config import Settings
from state_engine.errors import DataError, JobError, RunError
from state_engine.files import disk_full, replacing
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.store import JobStore
from state_engine.jobs.worker import WorkerOptions
from state_engine.library.datasets import list_datasets, receive_upload
from tests.jobs.sample_tasks import KINDS, Fill, Steps
from tests.jobs.workers import stopped

OPTIONS = WorkerOptions(60.0, 0.05, 0.02, False, KINDS)
MB = 1 << 20


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home on a disk of 6 MB."""
    home = tmp_path / "home"
    home.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(home)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    settings = Settings(home)
    yield settings
    assert stopped(settings)
    subprocess.run(["umount", "-l", str(home)], check=True)


def _fill(settings: Settings) -> Path:
    """Write until nothing fits any more; return the file."""
    ballast = settings.home / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    return ballast


def test_a_job_that_fills_the_disk_fails_with_that_and_the_worker_lives_on(settings: Settings) -> None:
    first, _ = local.submit(settings, Steps(1), options=OPTIONS)
    worker = local.wait(settings, first, 30, options=OPTIONS).worker
    job_id, run_id = local.submit(settings, Fill(64 * MB), options=OPTIONS)
    job = local.wait(settings, job_id, 60, options=OPTIONS)
    run = RunFolder(settings.runs / run_id)
    assert job.state == run.state == "failed" and job.error is not None
    assert "The disk is full" in job.error.what and "MB are free in" in job.error.what and "make room" in job.error.fix
    assert sorted(p.name for p in run.path.iterdir()) == ["manifest.json", "request.json"]
    again, _ = local.submit(settings, Steps(1), options=OPTIONS)
    assert local.wait(settings, again, 30, options=OPTIONS).worker == worker


def test_a_job_that_ends_while_the_disk_is_full_is_recorded_once_there_is_room(settings: Settings) -> None:
    job_id, _ = local.submit(settings, Steps(40, 0.05), options=OPTIONS)
    store = JobStore(settings.database)
    while store.get(job_id).stage != "Counting":
        pass
    worker = store.get(job_id).worker
    ballast = _fill(settings)
    with pytest.raises(JobError, match="disk is full"):
        local.submit(settings, Steps(1), options=OPTIONS)
    assert len(list_runs(settings)) == 1  # no run is left of what could not be asked
    ballast.unlink()
    ended = local.wait(settings, job_id, 30, options=OPTIONS)
    assert ended.state in ("done", "failed") and (ended.error is None or "disk is full" in ended.error.what)
    again, _ = local.submit(settings, Steps(1), options=OPTIONS)
    assert local.wait(settings, again, 30, options=OPTIONS).worker == worker


def test_an_upload_that_does_not_fit_leaves_nothing(settings: Settings) -> None:
    stream = io.BytesIO(bytes(8 * MB))
    with pytest.raises(DataError, match=r"The disk is full: .* MB are free in"):
        receive_upload(settings, "cells.h5ad", stream, 4096)  # the size that was told is not the true one
    assert list(settings.uploads.iterdir()) == [] and len(list_datasets(settings)) == 1


def test_what_hdf5_raises_on_a_full_disk_is_understood(settings: Settings) -> None:
    with pytest.raises(Exception) as raised, replacing(settings.home / "x.h5") as path, h5py.File(path, "w") as file:
        file["x"] = np.arange(8 * MB)
    told = disk_full(raised.value, settings.home, RunError)
    assert isinstance(told, RunError) and "The disk is full" in told.what


@pytest.mark.parametrize(
    ("error", "free", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 900 * MB, True),  # a quota of the folder
        (sqlite3.OperationalError("database or disk is full"), 900 * MB, True),
        (RuntimeError("Disable slist on flush dest failure"), MB, True),
        (RuntimeError("Disable slist on flush dest failure"), 900 * MB, False),
        (OSError("Can't synchronously write data (file write failed: errno = 28)"), 900 * MB, True),
        (RuntimeError("shapes do not fit"), MB, False),
        (FileNotFoundError(errno.ENOENT, "No such file"), MB, False),
    ],
)
def test_only_a_full_disk_is_told_as_one(
    error: Exception, free: int, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    assert (disk_full(error, tmp_path / "not" / "there", RunError) is not None) == full
    wrapped = RunError("It cannot be written.")
    wrapped.__cause__ = error
    assert (disk_full(wrapped, tmp_path, RunError) is not None) == (full and not isinstance(error, RuntimeError))
