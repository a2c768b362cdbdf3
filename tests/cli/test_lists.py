"""Lists of names on the command line: read however they were saved, or a sentence."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from state_engine.cli.main import main
from state_engine.cli.options import add_names
from state_engine.prediction.result import open_result
from tests.data.files.test_text import BAD, GOOD, NAMES


@pytest.mark.parametrize("kind", GOOD)
def test_names_of_a_file_join_those_that_were_given(tmp_path: Path, kind: str) -> None:
    (tmp_path / "list.txt").write_bytes(GOOD[kind])
    options = argparse.Namespace(perturbations=["IL6", "TNF"])
    add_names(options, "perturbations", tmp_path / "list.txt")
    assert options.perturbations == ["IL6", *NAMES]


@pytest.mark.parametrize("kind", [*BAD, "not there"])
def test_a_list_that_cannot_be_read_ends_with_a_sentence(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind in BAD:
        (tmp_path / "my list.txt").write_bytes(BAD[kind][0])
    common = ["--model", "assets/demo/model", "--data", "assets/demo/demo.h5ad", "--output", str(tmp_path / "p.h5ad")]
    for command, option in (("predict", "--perturbations-file"), ("decode", "--genes-file")):
        assert main([command, *common, option, str(tmp_path / "my list.txt")]) == 1
        assert "my list.txt cannot be read" in capsys.readouterr().err and not (tmp_path / "p.h5ad").exists()


def test_a_table_gives_its_first_column_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.tsv").write_text("target_gene\tcells\nIFN-beta\t20\nLPS\t30\n")
    common = ["--model", "assets/demo/model", "--data", "assets/demo/demo.h5ad", "--output", str(tmp_path / "p.h5ad")]
    assert main(["predict", *common, "--perturbations-file", str(tmp_path / "list.tsv"), "--cells", "8"]) == 0
    said = capsys.readouterr().out
    assert "list.tsv begins with the heading 'target_gene'" in said and "list.tsv has 2 columns: the first is taken" in said
    assert set(open_result(tmp_path / "p.h5ad").obs["perturbation"]) >= {"IFN-beta", "LPS"}


@pytest.mark.parametrize("option", ["--perturbations-file", "--cells-file"])
def test_a_list_that_is_a_pipe_is_not_waited_for(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    common = ["--model", "assets/demo/model", "--data", "assets/demo/demo.h5ad", "--output", str(tmp_path / "p.h5ad")]
    assert main(["predict", *common, option, str(tmp_path / "pipe")]) == 1
    assert "no regular file" in capsys.readouterr().err
