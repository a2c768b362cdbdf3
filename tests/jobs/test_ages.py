"""Old runs go only after a warning, into the trash, and only where the installation says so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from state_engine.config import Settings, load_settings
from state_engine.files import write_json
from state_engine.jobs.ages import WARNING, due, keep, sweep
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.library.trash import items
from state_engine.plain import to_plain

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def run_of(settings: Settings, days: float, request: dict[str, object] | None = None, parent: str = "") -> RunFolder:
    run = RunFolder.create(settings, "look" if parent else "predict", request or {}, f"{days:g} days old", parent=parent)
    created = (NOW - timedelta(days=days)).isoformat()
    write_json(run.path / "manifest.json", to_plain(replace(run.manifest, created=created, state="done")))
    return run


def listed(settings: Settings) -> tuple:
    return list_runs(settings)


def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert load_settings({}).run_days is None and load_settings({"STATE_EXPLORER_RUN_DAYS": "30"}).run_days == 30
    settings = Settings(tmp_path)
    run_of(settings, 1000)
    assert due(settings, listed(settings), NOW) == {} and sweep(settings, listed(settings), NOW + 100 * DAY) == ()
    assert not (tmp_path / "ages.json").exists()


def test_a_run_goes_a_week_after_its_warning_and_can_be_had_back(tmp_path: Path) -> None:
    settings = Settings(tmp_path, run_days=30)
    old, young = run_of(settings, 31), run_of(settings, 29)
    assert sweep(settings, listed(settings), NOW) == () and old.path.is_dir()  # the first look warns, however old it is
    assert due(settings, listed(settings), NOW) == {old.id: (NOW + WARNING).date()}
    assert sweep(settings, listed(settings), NOW + WARNING - DAY) == ()
    assert sweep(settings, listed(settings), NOW + WARNING) == (old.id,)
    assert not old.path.exists() and young.path.is_dir() and [item.runs for item in items(settings)] == [(old.id,)]


def test_what_shall_stay_or_is_needed_stays(tmp_path: Path) -> None:
    settings = Settings(tmp_path, run_days=30)
    kept, needed, with_derived = run_of(settings, 50), run_of(settings, 50), run_of(settings, 50)
    run_of(settings, 1, {"of": needed.id})
    derived = run_of(settings, 50, parent=with_derived.id)
    due(settings, listed(settings), NOW)
    keep(settings, kept.id)
    assert set(due(settings, listed(settings), NOW)) == {needed.id, with_derived.id, derived.id}
    gone = sweep(settings, [i for i in listed(settings) if i.id != derived.id], NOW + WARNING)
    assert gone == (with_derived.id,) and kept.path.is_dir() and needed.path.is_dir() and not derived.path.exists()
