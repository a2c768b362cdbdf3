"""The data sets of an installation: uploads are copied, server files guarded, choices remembered, the demo always there."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import DataError, UnreadableFileError, UnsafeFileError
from state_engine.library.datasets import (
    DEMO_ID,
    get_dataset,
    list_datasets,
    receive_upload,
    register_file,
    server_files,
    set_choices,
)
from state_engine.library.foreign import call
from state_engine.library.trash import forget_dataset
from state_engine.sandbox import Limits
from tests.hostile import write_hanging
from tests.small import write_cells


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(tmp_path / "home", (tmp_path / "data",))


def test_an_upload_is_on_disk_and_removed_with_its_entry(settings: Settings) -> None:
    content = write_cells(settings.home.parent / "cells.h5ad").read_bytes()
    entry = receive_upload(settings, "../../my cells.h5ad", io.BytesIO(content), len(content))
    assert entry.name == "my cells.h5ad" and Path(entry.path).read_bytes() == content
    assert Path(entry.path).is_relative_to(settings.uploads)
    assert get_dataset(settings, entry.id) == entry
    forget_dataset(settings, entry.id)
    assert not Path(entry.path).exists()
    with pytest.raises(DataError, match="not here"):
        get_dataset(settings, entry.id)


def test_what_cannot_be_opened_leaves_nothing_and_is_called_as_its_user_calls_it(settings: Settings) -> None:
    with pytest.raises(UnreadableFileError, match=r"my cells\.h5ad") as caught:
        receive_upload(settings, "my cells.h5ad", io.BytesIO(b"x" * 3_000_000), 3_000_000)
    assert str(settings.home) not in str(caught.value) and not list(settings.uploads.iterdir())
    hanging = write_hanging(settings.home.parent / "data" / "hangs.h5ad")
    quick = partial(call, open_dataset, limits=Limits(seconds=2))
    with pytest.raises(UnsafeFileError, match=r"hangs\.h5ad could not be opened within 2 s"):
        register_file(settings, hanging, lambda path, name: quick(path, path=path, name=name))
    assert [e.id for e in list_datasets(settings)] == [DEMO_ID]


def test_too_large_is_refused_before_copying(settings: Settings) -> None:
    with pytest.raises(UnsafeFileError, match="accepted"):
        receive_upload(replace(settings, max_file_bytes=10), "a.h5ad", io.BytesIO(b"x" * 20), 20)
    assert not settings.uploads.exists()


def test_server_files_only_below_the_allowed_folders(settings: Settings, tmp_path: Path) -> None:
    inside, outside = tmp_path / "data" / "in.h5ad", tmp_path / "out.h5ad"
    write_cells(inside)
    outside.write_bytes(b"2")
    (tmp_path / "data" / "link.h5ad").symlink_to(outside)
    assert server_files(settings) == (inside,)
    entry = register_file(settings, inside)
    assert register_file(settings, inside) == entry
    for path in (outside, tmp_path / "data" / "link.h5ad", tmp_path / "data" / ".." / "out.h5ad"):
        with pytest.raises(UnsafeFileError, match="outside"):
            register_file(settings, path)
    forget_dataset(settings, entry.id)
    assert inside.exists()  # the user's own file stays


def test_choices_are_remembered_for_the_demo_too(settings: Settings) -> None:
    assert [e.id for e in list_datasets(settings)] == [DEMO_ID]
    set_choices(settings, DEMO_ID, Choices(control="PBS"))
    assert get_dataset(settings, DEMO_ID).choices.control == "PBS"
    assert [e.id for e in list_datasets(settings)] == [DEMO_ID]


def test_bad_ids_and_damaged_entries(settings: Settings) -> None:
    for identity in ("../etc", "", "A" * 40):
        with pytest.raises(DataError, match="not the id"):
            get_dataset(settings, identity)
    (settings.home / "datasets").mkdir(parents=True)
    (settings.home / "datasets" / "abcd1234.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        get_dataset(settings, "abcd1234")
    assert [e.id for e in list_datasets(settings)] == [DEMO_ID]
