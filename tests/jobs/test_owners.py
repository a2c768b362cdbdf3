"""Owners: they take turns, see nothing of each other's jobs and runs, and have limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.config import PEOPLE, Settings, folder_of, load_settings
from state_engine.errors import JobError, QuotaError, RunError
from state_engine.jobs import local
from state_engine.jobs.kinds import USUAL, Manner
from state_engine.jobs.processes import identity_of
from state_engine.jobs.rebuild import rebuild
from state_engine.jobs.requests import LookRequest
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.store import JobStore
from state_engine.progress import Progress
from tests.jobs.sample_tasks import Grow, Steps
from tests.jobs.test_local_jobs import OPTIONS
from tests.jobs.workers import stopped

ME = identity_of()


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite")


def served(store: JobStore, **how: int) -> list[str]:
    """Do every job that waits, one after another; return the runs in the order in which they were taken."""
    order = []
    while (job := store.claim(ME, **how)) is not None:
        order.append(job.run_id)
        store.finish(job.id, ME, "done")
    return order


def test_owners_take_turns(store: JobStore) -> None:
    for run, owner in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("b2", "b")):
        store.submit("demo", {}, run, owner=owner)
    places = {job.run_id: job.position for job in store.list()}
    assert places == {"a1": 1, "b1": 2, "c1": 3, "a2": 4, "b2": 5, "a3": 6}
    assert served(store) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_was_served_longest_ago_comes_first(store: JobStore) -> None:
    store.submit("demo", {}, "a1", owner="a")
    store.claim(ME)
    for run, owner in (("a2", "a"), ("b1", "b")):
        store.submit("demo", {}, run, owner=owner)
    assert [store.claim(ME).run_id for _ in range(2)] == ["b1", "a2"]  # type: ignore[union-attr]


def test_a_single_owner_waits_in_the_order_of_asking(store: JobStore) -> None:
    runs = [f"run-{i}" for i in range(5)]
    for run in runs:
        store.submit("demo", {}, run)
    assert served(store) == runs


def test_running_jobs_of_an_owner_are_limited(store: JobStore) -> None:
    for run, owner in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        store.submit("demo", {}, run, owner=owner)
    first, second, third = (store.claim(ME, most_running=1) for _ in range(3))
    assert first is not None and second is not None and third is None
    assert [first.run_id, second.run_id] == ["a1", "b1"]
    store.finish(first.id, ME, "done")
    last = store.claim(ME, most_running=1)
    assert last is not None and last.run_id == "a2"


def test_the_start_is_expected_from_the_last_runs(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("state_engine.jobs.store.time.time", lambda: now[0])
    for seconds in (10, 30, 500):
        job = store.submit("demo", {}, "r", owner="b")
        store.claim(ME)
        now[0] += seconds
        store.finish(job, ME, "done")
    for run in ("r1", "r2", "r3"):
        store.submit("demo", {}, run, owner="a")
    store.claim(ME)
    now[0] += 12
    waiting = {job.run_id: job for job in store.list(states=("queued",))}
    assert store.seconds_until(waiting["r2"]) == pytest.approx(30 - 12)
    assert store.seconds_until(waiting["r3"]) == pytest.approx(30 - 12 + 30)
    store.submit("never", {}, "r4", owner="c")  # its turn is before the third of a, and nobody knows how long it takes
    r3 = next(job for job in store.list(states=("queued",)) if job.run_id == "r3")
    assert store.seconds_until(r3) is None


def test_the_start_is_expected_from_the_pace_of_what_runs(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("state_engine.jobs.store.time.time", lambda: now[0])
    running = store.submit("train", {}, "r1", manner=Manner(expected=60.0))
    store.claim(ME)
    assert store.seconds_until_new("long") == pytest.approx(60)
    waits = store.get(store.submit("demo", {}, "r2"))
    assert store.seconds_until(waits) == pytest.approx(60)  # the guess, as long as nothing is learnt
    store.progress(running, ME, Progress("Training", 0, 100))
    now[0] += 50
    store.progress(running, ME, Progress("Training", 10, 100))
    assert store.seconds_until(waits) == pytest.approx(450)
    now[0] += 1000
    assert store.seconds_until(waits) == pytest.approx(105)  # longer than expected: a tenth more


def test_the_start_is_expected_by_lane(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("state_engine.jobs.store.time.time", lambda: now[0])
    for kind, seconds in (("slow", 900), ("quick", 20)):
        job = store.submit(kind, {}, "r", owner="b")
        store.claim(ME)
        now[0] += seconds
        store.finish(job, ME, "done")
    short = Manner("short")
    store.submit("slow", {}, "running", owner="a")
    store.claim(ME)
    now[0] += 50
    asked = (("slow", "long 1", USUAL), ("quick", "short 1", short), ("quick", "short 2", short), ("slow", "long 2", USUAL))
    for kind, run, manner in asked:
        store.submit(kind, {}, run, owner="a", manner=manner)

    def expected(*lanes: str | None) -> dict[str, float | None]:
        return {job.run_id: store.seconds_until(job, lanes=lanes) for job in store.list(states=("queued",))}  # type: ignore[arg-type]

    # the worker of short jobs takes them one after the other, whatever long ones wait before them
    assert expected(None, "short") == {"short 1": 0, "short 2": 20, "long 1": 850, "long 2": 1750}
    assert expected(None, None, "short") == {"long 1": 0, "short 1": 0, "short 2": 20, "long 2": 850}
    store.submit("never", {}, "unknown", owner="c", manner=short)
    store.claim(ME, lane="short")
    known = expected(None, "short")
    assert known["long 1"] == 850  # of which nothing that nobody knows is in the way
    store.submit("never", {}, "long unknown", owner="d")
    assert expected(None, "short")["long 2"] is None


def test_a_job_that_fills_its_owners_disk_is_stopped_and_keeps_what_it_had(tmp_path: Path) -> None:
    settings = replace(Settings(tmp_path / "home"), quota_bytes=2_000_000)
    anna, bert = settings.of("anna"), settings.of("bert")
    try:
        job, run = local.submit(anna, Grow(40, 1_000_000, 0.2), options=OPTIONS)
        ended = local.wait(anna, job, 120, options=OPTIONS)
        assert ended.state == "failed" and ended.error is not None and "no room left for you" in ended.error.what
        folder = RunFolder.open(anna, run)
        assert "no room left for you" in folder.manifest.error
        there = len(list(folder.path.glob("piece-*")))
        assert 2 <= there < 40
        with pytest.raises(QuotaError):
            local.submit(anna, Grow(1, 10, 0.0), options=OPTIONS)
        job, _ = local.submit(bert, Grow(1, 10, 0.0), options=OPTIONS)
        assert local.wait(bert, job, 60, options=OPTIONS).state == "done"
    finally:
        stopped(settings)


def test_another_owners_jobs_are_not_there(store: JobStore) -> None:
    job_id = store.submit("demo", {}, "run", owner="anna")
    bert = JobStore(store.path, owner="bert")
    texts = []
    for ask in (bert.get, bert.request_cancel, bert.delete):
        for identity in (job_id, "0" * 16):
            with pytest.raises(JobError) as caught:
                ask(identity)
            texts.append(str(caught.value).replace(identity, "ID"))
    assert len(set(texts)) == 1  # foreign and missing read the same
    assert bert.for_run("run") is None and bert.list() == () and bert.list(owner="anna") == ()
    store.claim(ME)
    assert not bert.force_cancelled(job_id)
    assert store.get(job_id).state == "running" and JobStore(store.path, owner="anna").get(job_id).id == job_id


def test_each_owner_has_a_home(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    anna, local_owner = settings.of("anna@lab.example"), settings.of("")
    assert local_owner == settings and anna.of("") == settings and anna.of("b").of("anna@lab.example") == anna
    assert anna.home == tmp_path / PEOPLE / folder_of("anna@lab.example") and anna.database == settings.database
    assert (
        folder_of("a.b@x.org") != folder_of("a-b@x.org")
        and "/" not in folder_of("../../x")
        and folder_of("数") != folder_of("据")
    )
    found = load_settings({"STATE_EXPLORER_HOME": str(tmp_path), "STATE_EXPLORER_OWNER": "anna@lab.example"})
    assert found.home == anna.home and found.root == tmp_path


def test_another_owners_runs_are_not_there(tmp_path: Path) -> None:
    anna, bert = Settings(tmp_path).of("anna"), Settings(tmp_path).of("bert")
    run = RunFolder.create(anna, "predict", {})
    assert run.manifest.owner == "anna" and [i.id for i in list_runs(anna)] == [run.id]
    missing = f"{run.id[:-6]}000000"
    texts = []
    for settings in (bert, Settings(tmp_path)):
        assert list_runs(settings) == ()
        for identity in (run.id, missing):
            with pytest.raises(RunError) as caught:
                RunFolder.open(settings, identity)
            texts.append(str(caught.value).replace(identity, "ID"))
    assert len(set(texts)) == 1


def test_the_worker_does_the_jobs_of_all_owners_in_their_homes(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home")
    try:
        asked = {}
        for owner in ("anna", "", "bert"):
            mine = settings.of(owner)
            asked[owner] = local.submit(mine, Steps(1), "one", options=OPTIONS)
        for owner, (job_id, run_id) in asked.items():
            mine = settings.of(owner)
            assert local.wait(mine, job_id, timeout=60, options=OPTIONS).state == "done"
            run = RunFolder.open(mine, run_id)
            assert run.state == "done" and run.path.is_relative_to(mine.home) and run.manifest.owner == owner
        with pytest.raises(JobError, match="There is no job"):
            local.cancel(settings.of("bert"), asked["anna"][0], options=OPTIONS)
    finally:
        stopped(settings)


def test_a_queue_and_a_disk_can_be_full(tmp_path: Path) -> None:
    anna = replace(Settings(tmp_path), most_queued=2).of("anna")
    for _ in range(2):
        local.queue(anna, LookRequest("x"))
    with pytest.raises(QuotaError, match="2 wait; each person may have 2"):
        local.queue(anna, LookRequest("x"))
    local.queue(anna.of("bert"), LookRequest("x"))
    full = replace(Settings(tmp_path), quota_bytes=10).of("anna")
    with pytest.raises(QuotaError, match="no room left for you"):
        local.queue(full, LookRequest("x"))
    assert len(list_runs(anna)) == 2


def test_a_database_is_rebuilt_with_everybodys_jobs(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "home")
    runs = {owner: local.queue(settings.of(owner), LookRequest("x"))[1] for owner in ("anna", "bert", "")}
    settings.database.write_bytes(b"damaged" * 1000)
    for end in ("-wal", "-shm"):
        settings.database.with_name(settings.database.name + end).unlink(missing_ok=True)
    assert rebuild(settings.of("anna")) is not None
    assert {job.owner: job.run_id for job in JobStore(settings.database).list()} == runs
