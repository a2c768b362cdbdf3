"""The command `gene`: genes of all cells as a matrix or a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.data import cell_values
from state_engine.data.dataset import Choices
from tests.small import write_cells


def test_genes_of_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    path = write_cells(tmp_path / "cells.h5ad")
    words = ["gene", "--data", str(path), "--gene", "GENE3", "--gene", "GENE0", "--output"]
    assert main([*words, str(tmp_path / "g.npy")]) == 0 and main([*words, str(tmp_path / "g.csv")]) == 0
    assert "2 genes of 160 cells" in capsys.readouterr().out
    expected = [cell_values.gene_values(path, Choices(), Settings(tmp_path), gene, np.arange(160)) for gene in (3, 0)]
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy"), expected)
    table = pd.read_csv(tmp_path / "g.csv", index_col="cell")
    np.testing.assert_allclose(table[["GENE3", "GENE0"]].to_numpy().T, expected, rtol=1e-6)
    assert len(list((tmp_path / "home" / "genes").glob("*.h5"))) == 1


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    path = write_cells(tmp_path / "cells.h5ad")
    assert main(["gene", "--data", str(path), "--gene", "GENNE3", "--output", str(tmp_path / "g.npy")]) == 1
    assert "GENE3" in capsys.readouterr().err
    assert main(["gene", "--data", str(path), "--gene", "GENE3", "--output", str(tmp_path / "g.txt")]) == 1
    assert ".npy or .csv" in capsys.readouterr().err
