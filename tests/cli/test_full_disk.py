"""A disk that is full, or takes nothing, is told as that on the command line; nothing of what did not fit is left."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from state_engine.cli import main as command_line
from state_engine.cli.main import main
from state_engine.errors import RequestError
from state_engine.files import room_for
from state_engine.prediction import result_writer
from state_engine.prediction.result import open_result
from tests.library.test_other_formats import mudata
from tests.small import write_cells, write_model

DEMO = ["--data", "assets/demo/demo.h5ad", "--model", "assets/demo/model"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a small disk with some options; it goes after the test."""
    mounted = []

    def make(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("no small disk can be mounted here")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("name", ["x.h5ad", "x.npy"])
def test_a_prediction_that_does_not_fit_is_not_begun(disk: Callable[[str], Path], name: str) -> None:
    place = disk("size=600k")
    words = ["predict", *DEMO, "--all", "--cells", "200", "--output", str(place / name)]
    done = subprocess.run([sys.executable, "-m", "state_engine", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "The disk is full: 0.6 MB are free" in done.stderr and "The result needs" in done.stderr
    assert "Traceback" not in done.stderr and list(place.iterdir()) == []


@pytest.mark.parametrize("command", [["prepare", "--genes", "100", *DEMO[:2]], ["predict", "--replay", *DEMO]])
def test_a_file_that_does_not_fit_is_told_as_that(
    disk: Callable[[str], Path], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk("size=600k")
    assert main([*command, "--output", str(place / "x.h5ad")]) == 1
    said = capsys.readouterr().err
    assert f"MB are free in {place}" in said and "The disk is full" in said and list(place.iterdir()) == []


def test_a_conversion_that_does_not_fit_blames_the_disk_and_not_the_file(
    disk: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = disk("size=60k")
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(home))
    assert main(["inspect", str(mudata(tmp_path))]) == 1
    said = capsys.readouterr().err
    assert "The disk is full" in said and f"free in {home}" in said and "damaged" not in said


def test_a_home_that_takes_nothing_is_told_with_what_to_do(
    disk: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = disk("ro")
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(home))
    assert main(["inspect", str(mudata(tmp_path))]) == 1
    said = capsys.readouterr().err
    assert f"{home} cannot be written." in said and "Set STATE_EXPLORER_HOME" in said


def test_a_home_of_somebody_else_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(home))
    error = PermissionError(errno.EACCES, "Permission denied", str(home / "uploads"))
    told = command_line._told(error, None)
    assert isinstance(told, RequestError) and told.what == f"{home} cannot be written."
    other = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "cells.h5ad"))
    assert command_line._told(other, None) is other


@pytest.mark.parametrize("more", [[], ["--no-raw"], ["--observed", "0"]])
def test_the_room_that_is_asked_for_is_that_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(result_writer, "room_for", lambda folder, size: asked.append(size))
    assert main(["predict", *DEMO, "--all", "--cells", "8", *more, "--output", str(tmp_path / "x.h5ad")]) == 0
    size = (tmp_path / "x.h5ad").stat().st_size
    assert 0.98 * size < asked[0] < 1.02 * size
    assert open_result(tmp_path / "x.h5ad").n_genes
    with pytest.raises(RequestError, match="The disk is full"):
        room_for(tmp_path, 1 << 60)


def test_wrong_settings_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "model")
    cells = write_cells(tmp_path / "cells.h5ad")
    monkeypatch.setenv("STATE_EXPLORER_MAX_FILE_GB", "many")
    assert main(["inspect", str(cells)]) == 1
    assert "STATE_EXPLORER_MAX_FILE_GB" in capsys.readouterr().err
