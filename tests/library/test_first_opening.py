"""A job opens a file that nobody opened yet in a child first; a file that hangs does not hold the worker up."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.errors import RequestError, UnsafeFileError
from state_engine.library import foreign
from state_engine.library.allowed import check_data
from state_engine.library.datasets import register_file
from state_engine.sandbox import Limits
from tests.hostile import write_hanging
from tests.small import write_cells


def test_a_new_file_is_opened_in_a_child_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path / "home", (tmp_path / "data",))
    (tmp_path / "data").mkdir()
    good, hanging = write_cells(tmp_path / "data" / "good.h5ad"), write_hanging(tmp_path / "data" / "hangs.h5ad")
    check_data(settings, good, "")
    monkeypatch.setattr(foreign, "OPENING", Limits(seconds=2))
    with pytest.raises(UnsafeFileError, match=r"hangs\.h5ad could not be opened"):
        check_data(settings, good, hanging)
    with pytest.raises(RequestError, match="outside"):
        check_data(settings, tmp_path / "elsewhere.h5ad")


def test_a_data_set_that_was_opened_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path / "home", (tmp_path,))
    path = write_cells(tmp_path / "good.h5ad")
    register_file(settings, path)

    def again(*arguments: object, **more: object) -> None:
        raise AssertionError("opened again")

    monkeypatch.setattr("state_engine.library.allowed.call", again)
    check_data(settings, path)
