"""Where results may be written: never over an input; a folder that is missing is made, one that is a file or folder is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from state_engine.cli.main import main
from state_engine.errors import RequestError
from state_engine.files import free_folder, free_output
from tests.small import write_cells, write_model


def test_the_folder_of_an_output_is_made(tmp_path: Path) -> None:
    free_output(tmp_path / "a" / "b" / "x.h5ad", tmp_path / "other.h5ad")
    assert (tmp_path / "a" / "b").is_dir()
    free_folder(tmp_path / "c" / "d")
    assert (tmp_path / "c" / "d").is_dir()


def test_inputs_are_not_written_over_under_any_name(tmp_path: Path) -> None:
    data = tmp_path / "cells.h5ad"
    data.write_bytes(b"x")
    (tmp_path / "link.h5ad").symlink_to(data)
    os.link(data, tmp_path / "hard.h5ad")
    model = tmp_path / "model"
    model.mkdir()
    for output in (data, tmp_path / "link.h5ad", tmp_path / "hard.h5ad", tmp_path / "model" / ".." / "cells.h5ad"):
        with pytest.raises(RequestError, match="over an input"):
            free_output(output, data)
    with pytest.raises(RequestError, match="over an input"):
        free_output(model / "new.h5ad", data, model)
    with pytest.raises(RequestError, match="is a folder"):
        free_output(model, data)
    with pytest.raises(RequestError, match="is a file"):
        free_folder(data)
    with pytest.raises(RequestError, match="cannot be made"):
        free_output(data / "x" / "y.h5ad")


def test_an_input_that_is_not_given_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    free_output(Path("sets.csv"), "")  # `enrich` without --gene-sets could write nothing into the folder one is in


@pytest.mark.parametrize("more", [[], ["--replay"]], ids=["predict", "replay"])
def test_commands_keep_their_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    data, model = write_cells(tmp_path / "cells.h5ad"), tmp_path / "model"
    write_model(model)
    before = data.read_bytes()
    asked = ["predict", "--data", str(data), "--model", str(model), *more]
    for output in (data, tmp_path):
        assert main([*asked, "--output", str(output)]) == 1
    assert data.read_bytes() == before
    said = capsys.readouterr().err
    assert "over an input" in said and "is a folder" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "name", ["n" * 300 + ".h5ad", "a\0b.h5ad", "n" * 300 + "/x.h5ad"], ids=["long", "zero byte", "long folder"]
)
def test_names_that_no_file_can_have_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"cannot be (written|made)"):
        free_output(tmp_path / name, tmp_path / "cells.h5ad")
    with pytest.raises(RequestError, match=r"cannot be (written|made)"):
        free_folder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder is there in which nothing can be made")
def test_a_folder_that_takes_no_files_is_refused_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for check in (lambda: free_output(Path("/proc/x.h5ad")), lambda: free_folder(Path("/proc/self"))):
        with pytest.raises(RequestError, match="cannot be written"):
            check()
    data, model = write_cells(tmp_path / "cells.h5ad"), tmp_path / "model"
    write_model(model)
    assert main(["predict", "--data", str(data), "--model", str(model), "--all", "--output", "/proc/x.h5ad"]) == 1
    assert "/proc/x.h5ad cannot be written." in capsys.readouterr().err


def test_an_error_of_the_system_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "n" * 5000]) == 1
    assert capsys.readouterr().err.startswith("File name too long: ")
