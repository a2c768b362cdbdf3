"""`/metrics`: numbers of jobs, queue, worker, disk and memory, for whoever has the token."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from pages.parts import metrics
from state_engine.config import Settings
from state_engine.jobs.processes import identity_of
from state_engine.jobs.store import JobStore


def asked(token: str | None = None) -> tuple[int, str]:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    answer = metrics.metrics(Request({"type": "http", "method": "GET", "path": "/metrics", "headers": headers}))
    return answer.status_code, bytes(answer.body).decode()


def values(text: str) -> dict[tuple[str, ...], float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name.removeprefix("state_explorer_"), *sorted(sample.labels.values())): sample.value for sample in samples}


def test_an_empty_installation_has_its_numbers(home: Path) -> None:
    status, text = asked()
    found = values(text)
    assert status == 200 and found["queue_length",] == 0 and found["worker_up",] == 0 and found["database_up",] == 1
    assert found["disk_free_bytes",] > 0 and found["page_process_resident_bytes",] > 1e7


def test_jobs_are_counted_by_kind_and_state(home: Path) -> None:
    store = JobStore(Settings(home).database)
    for number in range(3):
        store.submit("predict", {}, f"run{number}", owner="somebody@example.org")
    me = identity_of()
    job = store.claim(me)
    assert job is not None and store.finish(job.id, me, "done")
    store.submit("train", {}, "run4")
    found = values(asked()[1])
    assert (
        found["jobs", "predict", "queued"] == 2
        and found["jobs", "done", "predict"] == 1
        and found["jobs", "queued", "train"] == 1
    )
    assert found["queue_length",] == 3 and found["queue_oldest_seconds",] >= 0 and found["job_seconds", "predict"] >= 0
    assert "somebody" not in asked()[1] and "run0" not in asked()[1]


def test_a_token_is_needed_where_one_is_set_or_people_log_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "login_configured", lambda: True)
    assert asked()[0] == 401 and asked("")[0] == 401
    monkeypatch.setenv("STATE_EXPLORER_METRICS_TOKEN", "secret")
    assert asked()[0] == 401 and asked("wrong")[0] == 401 and asked("secret")[0] == 200
    monkeypatch.setattr(metrics, "login_configured", lambda: False)
    assert asked()[0] == 401


def test_a_damaged_database_is_told(home: Path) -> None:
    Settings(home).database.write_bytes(b"no database" * 1000)
    assert values(asked()[1])["database_up",] == 0
