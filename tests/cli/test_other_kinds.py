"""A model of the other kind, and genes of another species: told by name, with what to do."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest

from state_engine.cli.main import main
from tests.small import write_cells, write_model


def test_a_model_of_the_other_kind_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "assets/demo/demo.h5ad", "--output", str(tmp_path / "x.h5ad")]
    assert main(["predict", "--model", "assets/demo/embedding", "--perturbation", "TNF", *data]) == 1
    assert "embedding is a State Embedding model (SE)" in capsys.readouterr().err
    assert main(["inspect", "assets/demo/demo.h5ad", "--model", "assets/demo/embedding"]) == 1
    assert "choose an ST model" in capsys.readouterr().err
    for command in (["embed"], ["decode", "--gene", "TNF"]):
        assert main([*command, "--model", "assets/demo/model", *data]) == 1
        assert "model is a State Transition model (ST)" in capsys.readouterr().err


def test_names_of_another_species_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "model")
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad"))
    cells.var_names = [name.capitalize() for name in cells.var_names]
    cells.write_h5ad(tmp_path / "mouse.h5ad")
    words = ["predict", "--model", str(tmp_path / "model"), "--perturbation", "TNF", "--cells", "8", "--device", "cpu"]
    for name, told in (("cells", False), ("mouse", True)):
        assert main([*words, "--data", str(tmp_path / f"{name}.h5ad"), "--output", str(tmp_path / f"{name}.out.h5ad")]) == 0
        out = capsys.readouterr().out
        assert ("24 of 24 genes match only when case is ignored" in out) is told
