"""What a command writes never lands on what it reads, under whatever name that was given; names say what is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine.cli.main import main
from tests.small import write_cells, write_model

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model, and a home of its own for converted copies."""
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    write_model(tmp_path / "model")
    return tmp_path / "model"


def _converted(tmp_path: Path, kind: str) -> Path:
    """Cells in a format that is converted."""
    cells = write_cells(tmp_path / "cells.h5ad")
    if kind == "zarr":
        anndata.read_h5ad(cells).write_zarr(tmp_path / "cells.zarr")
        return tmp_path / "cells.zarr"
    import gzip

    place = tmp_path / "cells.h5ad.gz"
    place.write_bytes(gzip.compress(cells.read_bytes()))
    return place


def _content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    return {str(p): p.read_bytes() for p in files}


COMMANDS = {
    "predict": ["predict", "--all", "--model", "{model}"],
    "replay": ["predict", "--replay", "--model", "{model}"],
    "prepare": ["prepare", "--genes", "5"],
    "attention": ["attention", "--model", "{model}", "--perturbation", "TNF", "--context", "B"],
    "de": ["de"],
    "template": ["template", "--challenge", "vcc2025", "--model", "{model}"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["gz", "zarr"])
def test_a_converted_input_is_kept(
    tmp_path: Path, model: Path, kind: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _converted(tmp_path, kind)
    before = _content(data)
    for output in [data] if kind == "gz" else [data / ".zgroup", data / "new.h5ad"]:
        words = [word.format(model=model) for word in COMMANDS[command]]
        assert main([*words, "--data", str(data), "--output", str(output)]) == 1
        assert "over an input" in capsys.readouterr().err
    assert _content(data) == before


@pytest.mark.parametrize("kind", ["gz", "zarr"])
def test_a_converted_input_is_called_as_it_was_typed(
    tmp_path: Path, model: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _converted(tmp_path, kind)
    assert main(["inspect", str(data)]) == 0
    assert capsys.readouterr().out.startswith(f"{data.name}: ")
    assert main(["inspect", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"]["name"] == data.name
    words = ["--model", str(model), "--data", str(data), "--output", str(tmp_path / "p.h5ad"), "--expression", "layers/none"]
    assert main(["predict", "--all", *words]) == 1
    assert f"{data.name} has no expression matrix 'layers/none'" in capsys.readouterr().err


def test_evaluate_writes_no_tables_into_a_data_set(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _converted(tmp_path, "zarr")
    before = _content(data)
    words = ["--perturbation-key", "perturbation", "--control", "control", "--context-key", "cell_type"]
    words += ["--real", str(data), "--predicted", str(data)]
    assert main(["evaluate", *words, "--output", str(data / "tables")]) == 1
    assert "over an input" in capsys.readouterr().err and _content(data) == before


@pytest.mark.parametrize(
    ("option", "given", "output"),
    [
        ("--perturbations-file", "pf.h5ad", "pf.h5ad"),
        ("--cells-file", "cf.npy", "cf.npy"),
        ("--cells-file", "cf.csv", "cf.npy"),
        ("--perturbations-file", "cf.csv", "cf.NPY"),
    ],
)
def test_lists_are_kept(
    tmp_path: Path, model: Path, option: str, given: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / given).write_text("perturbation,num_cells\nTNF,4\n")
    data = write_cells(tmp_path / "cells.h5ad")
    words = ["predict", "--data", str(data), "--model", str(model), option, str(tmp_path / given)]
    assert main([*words, "--output", str(tmp_path / output)]) == 1
    assert "over an input" in capsys.readouterr().err
    assert (tmp_path / given).read_text().endswith("TNF,4\n")


def test_a_matrix_takes_no_table_of_another_program_away(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--data", str(write_cells(tmp_path / "cells.h5ad")), "--model", str(model), "--all", "--cells", "8"]
    (tmp_path / "mine.csv").write_text("mine")
    assert main([*words, "--output", str(tmp_path / "mine.npy")]) == 1
    assert "mine.csv exists." in capsys.readouterr().err and (tmp_path / "mine.csv").read_text() == "mine"
    for _ in range(2):  # a pair is replaced like any other result
        assert main([*words, "--output", str(tmp_path / "new.NPY")]) == 0
    assert len(np.load(tmp_path / "new.NPY")) == len(pd.read_csv(tmp_path / "new.csv"))


def test_names_say_what_is_written(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--data", str(write_cells(tmp_path / "cells.h5ad")), "--model", str(model), "--all", "--cells", "8"]
    for name in ("q.txt", "q.h5"):
        assert main([*words, "--output", str(tmp_path / name)]) == 1
        assert f"{name} is no name for a prediction." in capsys.readouterr().err and not (tmp_path / name).exists()
    assert main([*words, "--output", str(tmp_path / "Q.H5AD")]) == 0
    shutil.move(tmp_path / "Q.H5AD", tmp_path / "q.h5ad")
    assert anndata.read_h5ad(tmp_path / "q.h5ad").n_obs


def test_a_pipe_is_no_output(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.h5ad")
    words = ["--data", str(write_cells(tmp_path / "cells.h5ad")), "--output", str(tmp_path / "pipe.h5ad")]
    for command in (["predict", "--model", str(model), "--all"], ["prepare", "--genes", "5"]):
        assert main([*command, *words]) == 1
        assert "exists and is no regular file" in capsys.readouterr().err
    assert (tmp_path / "pipe.h5ad").is_fifo()


def test_two_results_are_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = str(tmp_path / "s.csv")
    words = ["query", "--lancedb", str(tmp_path / "stored"), "--data", str(write_cells(tmp_path / "cells.h5ad"))]
    assert main([*words, "--output", same, "--transfer", "cell_type", "--labels", same]) == 1
    assert "s.csv is named twice." in capsys.readouterr().err
