"""The job that fetches a public data set, as the worker calls it, from a local server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.plan import plan_files, read_plan
from state_engine.errors import DownloadError, JobCancelled, RequestError
from state_engine.jobs import local
from state_engine.jobs.kinds import KINDS, WarmCache, load_target
from state_engine.jobs.requests import FetchRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.jobs.tasks import library as public_data_tasks
from state_engine.jobs.train_job import check_places
from state_engine.jobs.worker import WorkerOptions
from state_engine.library.datasets import get_dataset, list_datasets
from state_engine.library.trash import forget_dataset
from state_engine.progress import OnProgress, Progress, silent
from state_engine.public_data.fetch import remove_fetched
from tests.jobs.workers import log_of, stopped
from tests.public_data.server import FileServer, serving
from tests.public_data.support_set import entry, own_catalogue, support_set

ZIP = "competition_support_set.zip"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server with a small support set, which the catalogue of this installation names vcc2025."""
    content = support_set(tmp_path / "support")
    with serving(FileServer({ZIP: content})) as data:
        for name, value in own_catalogue(tmp_path / "own.toml", entry(data, ZIP, content)).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
        yield data


def fetched(
    tmp_path: Path, name: str = "vcc2025", on_progress: OnProgress = silent
) -> tuple[RunFolder, public_data_tasks.PublicDataAdded]:
    run = RunFolder.create(Settings(tmp_path / "home"), "fetch", {"name": name}, "a download")
    run.start()
    return run, public_data_tasks.fetch(FetchRequest(name), run, on_progress, WarmCache())


def test_what_was_fetched_is_a_data_set(server: FileServer, tmp_path: Path) -> None:
    assert load_target(KINDS["fetch"].target) is public_data_tasks.fetch
    settings = Settings(tmp_path / "home")
    run, made = fetched(tmp_path)
    entries = [get_dataset(settings, i) for i in made.data]
    assert [e.name for e in entries] == ["A small support set: competition_train.h5", "A small support set: hepg2.h5"]
    assert {e.origin for e in entries} == {"public"} and open_dataset(Path(entries[0].path)).n_genes == 24
    assert made.plans == (str(tmp_path / "home/public/vcc2025/competition_support_set/starter.toml"),)
    assert "CC0 1.0" in log_of(run) and run.manifest.settings["sha256"] and run.manifest.data_hash
    assert fetched(tmp_path)[1] == made and len(server.asked) == 1


def test_forgetting_leaves_the_file_and_deleting_forgets(server: FileServer, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home")
    _, made = fetched(tmp_path)
    first = get_dataset(settings, made.data[0])
    forget_dataset(settings, first.id)
    assert Path(first.path).exists() and len(list_datasets(settings)) == 2
    assert remove_fetched("vcc2025", settings) and len(list_datasets(settings)) == 1 and not Path(first.path).exists()


def test_a_file_that_is_no_hdf5_is_logged_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer
) -> None:
    server.files["odd.h5ad"] = b"not HDF5"
    own_catalogue(tmp_path / "own.toml", entry(server, "odd.h5ad", b"not HDF5", name="odd"))
    run, made = fetched(tmp_path, "odd")
    assert made.data == () and "odd.h5ad is not among the data sets" in log_of(run)


def test_failures_and_cancellation_leave_no_data_set(server: FileServer, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        fetched(tmp_path, on_progress=stop)
    server.files = {}
    with pytest.raises(DownloadError):
        fetched(tmp_path)
    with pytest.raises(RequestError):
        fetched(tmp_path, "nothing")
    assert len(list_datasets(Settings(tmp_path / "home"))) == 1


@pytest.mark.slow
def test_a_cancelled_download_continues_in_the_next_job(server: FileServer, tmp_path: Path) -> None:
    settings, options = Settings(tmp_path / "home"), WorkerOptions(warm=False)
    content = server.files[ZIP] = server.files[ZIP] + bytes(4_000_000)
    own_catalogue(tmp_path / "own.toml", entry(server, "big.bin", content, name="big"))
    server.files, server.seconds_a_block = {"big.bin": content}, 0.05
    try:
        job, _ = local.submit(settings, FetchRequest("big"), options=options)
        while (now := JobStore(settings.database).get(job)).done < 500_000:
            assert now.active, now.error
            time.sleep(0.05)
        started = time.monotonic()
        assert local.cancel(settings, job, options).state == "cancelled" and time.monotonic() - started < 2
        kept = (settings.home / "public" / "big" / "big.bin.part").stat().st_size
        server.seconds_a_block = 0.0
        again, _ = local.submit(settings, FetchRequest("big"), options=options)
        assert local.wait(settings, again).state == "done"
        assert server.asked[-1][1] == f"bytes={kept}-" and kept >= 500_000
        assert (settings.home / "public" / "big" / "big.bin").read_bytes() == content
    finally:
        stopped(settings)


def test_the_plan_that_came_can_be_trained_on_here(server: FileServer, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home")
    _, made = fetched(tmp_path)
    plan = read_plan(Path(made.plans[0]))
    check_places(plan, settings)
    assert {file.name for _, file in plan_files(plan, tmp_path)} == {"competition_train.h5", "hepg2.h5"}
    for identity in made.data:
        forget_dataset(settings, identity)
    with pytest.raises(RequestError, match="outside what may be read"):
        check_places(plan, settings)
