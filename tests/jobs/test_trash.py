"""What is deleted says what needs it, and can be had back for a while."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

from state_engine.config import Settings, load_settings
from state_engine.errors import DataError, RunError
from state_engine.jobs import trash
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.library.datasets import get_dataset, receive_upload, register_public
from state_engine.library.trash import forget_below, forget_dataset, item_of, items, restore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home without anything."""
    return Settings(home=tmp_path / "home")


def _runs(settings: Settings) -> tuple[RunFolder, RunFolder, RunFolder]:
    """A run, one that is derived from it, and one whose request names a file of it."""
    run = RunFolder.create(settings, "predict", {"data": "demo"}, "Interferon")
    derived = RunFolder.create(settings, "look", {}, "Map", parent=run.id)
    naming = RunFolder.create(settings, "evaluate", {"prediction": str(run.result)}, "Evaluation")
    for each in (run, derived, naming):
        each.finish("done")
    return run, derived, naming


def _ids(settings: Settings) -> set[str]:
    return {info.id for info in list_runs(settings)}


def test_a_run_says_what_needs_it_and_comes_back_with_what_is_derived_from_it(settings: Settings) -> None:
    run, derived, naming = _runs(settings)
    run.result.write_text("cells")
    assert {info.id for info in trash.runs_that_need_run(settings, run.id)} == {derived.id, naming.id}
    assert trash.runs_that_need_run(settings, naming.id) == ()
    item = trash.delete_run(settings, run.id)
    assert _ids(settings) == {naming.id} and (item.title, set(item.runs)) == ("Interferon", {run.id, derived.id})
    with pytest.raises(RunError, match=f"{run.id} was deleted on {datetime.now(UTC):%Y-%m-%d}"):
        RunFolder.open(settings, run.id)
    assert items(settings) == (item,)
    restore(settings, item)
    assert _ids(settings) == {run.id, derived.id, naming.id} and run.result.read_text() == "cells"
    assert items(settings) == () and RunFolder.open(settings, run.id).state == "done"


def test_the_trash_is_emptied_after_its_days_and_the_address_still_says_when(settings: Settings) -> None:
    run, _, _ = _runs(settings)
    item = trash.delete_run(settings, run.id)
    assert items(replace(settings, trash_days=1e-9)) == ()
    assert not (settings.home / "trash" / item.id).exists()
    with pytest.raises(RunError, match="was deleted on"):
        RunFolder.open(settings, run.id)
    with pytest.raises(RunError, match="not in the trash any more"):
        restore(settings, item)
    assert load_settings({"STATE_EXPLORER_TRASH_DAYS": "30"}).trash_days == 30


def test_a_run_that_is_running_cannot_be_deleted(settings: Settings) -> None:
    run = RunFolder.create(settings, "predict", {})
    run.start()
    with pytest.raises(RunError, match="is running"):
        trash.delete_run(settings, run.id)
    assert _ids(settings) == {run.id}


def test_a_forgotten_data_set_says_what_needs_it_and_comes_back(settings: Settings) -> None:
    entry = receive_upload(settings, "cells.h5ad", BytesIO(b"cells"), 5, opened=lambda path, name: None)
    by_id = RunFolder.create(settings, "train", {"data": entry.id})
    by_path = RunFolder.create(settings, "predict", {"request": {"data": entry.path}})
    RunFolder.create(settings, "predict", {"data": "demo"})
    assert {i.id for i in trash.runs_that_need_data(settings, entry)} == {by_id.id, by_path.id}
    item = forget_dataset(settings, entry.id)
    with pytest.raises(DataError):
        get_dataset(settings, entry.id)
    assert not Path(entry.path).exists()
    restore(settings, item)
    assert get_dataset(settings, entry.id) == entry and Path(entry.path).read_bytes() == b"cells"


def test_public_data_sets_that_go_with_their_folder_come_back_and_are_found_by_id(settings: Settings) -> None:
    folder = settings.home / "public" / "screen"
    entry = register_public(settings, folder / "cells.h5ad", "Screen")
    assert forget_below(settings, settings.home / "elsewhere") is None and item_of(settings, entry.id) is None
    item = forget_below(settings, folder)
    assert item is not None and item.title == "Screen" and item_of(settings, entry.id) == item
    with pytest.raises(DataError):
        get_dataset(settings, entry.id)
    restore(settings, item)
    assert get_dataset(settings, entry.id) == entry and items(settings) == ()
