"""Public data sets on the Data page: terms before the download, a job, and what is here afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st

from pages.parts import jobs
from state_engine.config import Settings
from state_engine.jobs import local
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.requests import FetchRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.store import JobStore
from state_engine.jobs.tasks import library as public_data_tasks
from state_engine.progress import Progress, Unit, silent
from state_engine.public_data.fetch import fetched_here
from tests.pages.opened import app_on, text
from tests.public_data.server import FileServer, serving
from tests.public_data.support_set import entry, own_catalogue, support_set

ZIP = "competition_support_set.zip"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An installation without a worker, whose catalogue names a local server's small support set vcc2025."""
    content = support_set(tmp_path / "support")
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    st.cache_resource.clear()
    st.cache_data.clear()
    with serving(FileServer({ZIP: content})) as data:
        for name, value in own_catalogue(tmp_path / "own.toml", entry(data, ZIP, content)).items():
            monkeypatch.setenv(name, value)
        yield Settings(tmp_path / "home")


def test_the_table_says_what_there_is(settings: Settings) -> None:
    app = app_on("data")
    table = next(d.value for d in app.dataframe if "Licence" in d.value)
    assert {"Kang 2018, IFN-beta PBMC", "Tahoe-100M, plate 14"} <= set(table["Data set"])
    assert set(table.columns) == {"Data set", "What", "Download", "Licence", "Source"}
    assert "38.4 MB" in set(table["Download"]) and "not stated" in set(table["Download"])
    assert not [b for b in app.button if b.key == "fetch"]


def test_terms_come_before_the_button_and_the_button_starts_a_job(settings: Settings) -> None:
    app = app_on("data")
    app.selectbox(key="public_name").set_value("kang").run()
    assert "Its publisher states none with the file" in text(app) and "doi:10.1038/nbt.4042" in text(app)
    app.selectbox(key="public_name").set_value("norman").run()
    assert "CC BY 4.0" in text(app) and "md5 by Zenodo" in text(app)
    assert app.button(key="fetch").label == "Download 699 MB"
    app.button(key="fetch").click().run()
    (job,) = JobStore(settings.database).list()
    assert (job.kind, job.request) == ("fetch", {"name": "norman"}) and "norman" in str(app.selectbox(key="public_name").value)
    assert not [b for b in app.button if b.key == "fetch"]
    again = app_on("data")  # another visit finds the job
    assert again.selectbox(key="public_name").value == "norman" and "Other jobs wait" in text(again)
    again.button(key="fetch_job_cancel").click().run()
    assert JobStore(settings.database).list()[0].state == "cancelled"


def test_what_is_here_is_opened_or_deleted(settings: Settings) -> None:
    run = RunFolder.create(settings, "fetch", {"name": "vcc2025"}, "a download")
    run.start()
    made = public_data_tasks.fetch(FetchRequest("vcc2025"), run, silent, WarmCache())
    app = app_on("data")
    app.selectbox(key="public_name").set_value("vcc2025").run()
    assert "starter.toml" in text(app) and "sha256" in text(app) and not [b for b in app.button if b.key == "fetch"]
    table = next(d.value for d in app.dataframe if "Licence" in d.value)
    assert table.set_index("Data set")["Download"]["A small support set"] == "here"
    app.button(key=f"open_public_{made.data[0]}").click().run()
    assert app.session_state["thread_data"] == made.data[0] and "competition_train.h5" in text(app)
    app.button(key="remove_public").click().run()
    assert not app.exception and fetched_here(settings) == {} and not app.session_state["thread_data"]


def test_a_wrong_catalogue_is_said_on_the_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_EXPLORER_CATALOGUE", "/nowhere.toml")
    app = app_on("data")
    assert "cannot be read" in app.error[0].value and app.button(key="use_demo")


def test_bytes_are_said_as_sizes(settings: Settings) -> None:
    run = RunFolder.create(settings, "fetch", {"name": "kang"}, "a download")
    store = JobStore(settings.database)
    identity = store.submit("fetch", {"name": "kang"}, run.id)
    store.claim("host/1/1")
    counted: list[tuple[str, int, int, Unit, str]] = [
        ("Downloading kang_2018.h5ad", 1_500_000, 38_356_412, "bytes", "Downloading kang_2018.h5ad 1.5 MB of 38.4 MB"),
        ("Downloading plate.h5ad", 1_500_000, 0, "bytes", "Downloading plate.h5ad 1.5 MB"),
        ("Downloading lists", 1_500, 3_000, "count", "Downloading lists 1,500 of 3,000"),
        ("Predicting cells", 1_500, 3_000, "count", "Predicting cells 1,500 of 3,000"),
    ]
    for stage, done, total, unit, words in counted:
        store.progress(identity, "host/1/1", Progress(stage, done, total, unit=unit))
        with_job = store.for_run(run.id)
        assert with_job is not None and jobs.stage_text(with_job) == words
