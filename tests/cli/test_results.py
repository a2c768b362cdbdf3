"""`prepare` and `de`: the numbers of the pages, from the command line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import get_args

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine.analysis import differential as de
from state_engine.attention.cell_set import AttentionRequest, attention_of_set
from state_engine.attention.maps import load_maps
from state_engine.cli import results
from state_engine.cli.main import main
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result
from tests.small import write_cells, write_model


def test_prepare_writes_the_variable_genes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_cells(tmp_path / "cells.h5ad")
    assert main(["prepare", "--data", str(data), "--genes", "12", "--output", str(tmp_path / "out.h5ad")]) == 0
    assert "12 of 24 genes by scanpy" in capsys.readouterr().out
    made = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert made.obsm["X_hvg"].shape == (160, 12) and made.shape == (160, 24)
    assert main(["prepare", "--data", str(data), "--genes", "12", "--output", str(data)]) == 1
    assert main(["prepare", "--data", str(data), "--genes", "900", "--output", str(tmp_path / "x.h5ad")]) == 1
    assert "900 genes cannot be chosen" in capsys.readouterr().err


def test_label_writes_labels_given_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, labels, output = write_cells(tmp_path / "cells.h5ad"), tmp_path / "labels.csv", tmp_path / "out.h5ad"
    labels.write_text("cell,label,term\ncell-3,B cell,CL:0000236\ncell-9,odd ones,\n")
    words = ["label", "--data", str(data), "--labels", str(labels)]
    assert main([*words, "--column", "mine", "--output", str(output)]) == 0
    assert "mine of 2 of 160 cells" in capsys.readouterr().out
    obs = anndata.read_h5ad(output).obs
    assert obs["mine"].dropna().to_dict() == {"cell-3": "B cell", "cell-9": "odd ones"}
    assert obs["mine_term"].dropna().to_dict() == {"cell-3": "CL:0000236"}
    before = labels.read_bytes()
    for wrong in (labels, data):
        assert main([*words, "--output", str(wrong)]) == 1
    assert main([*words, "--column", "batch", "--output", str(output)]) == 1
    assert "a column 'batch' already" in capsys.readouterr().err and labels.read_bytes() == before


def test_de_writes_the_table_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_result(tmp_path / "result.h5ad")
    result = open_result(path)
    conditions = result.conditions()
    assert main(["de", "--data", str(path), "--output", str(tmp_path / "all.csv")]) == 0
    table = pd.read_csv(tmp_path / "all.csv")
    assert len(table) == len(conditions) * result.n_genes
    perturbation, context = conditions[-1]
    words = ["--perturbation", perturbation, "--context", context, "--reference", "observed control", "--expression", "raw"]
    assert main(["de", "--data", str(path), *words, "--output", str(tmp_path / "one.csv")]) == 0
    one, same = pd.read_csv(tmp_path / "one.csv"), de.differential(result, perturbation, context, "observed control", "raw")
    assert set(one["perturbation"]) == {perturbation} and one["log2_fold_change"].abs().is_monotonic_decreasing
    np.testing.assert_allclose(one.set_index("gene")["p_value"][same["gene"]], same["p_value"])
    assert "Genes of each condition by |log2_fold_change|" in capsys.readouterr().out
    words[-1] = "observed"
    assert main(["de", "--data", str(path), *words, "--output", str(tmp_path / "measured.csv")]) == 0
    assert pd.read_csv(tmp_path / "measured.csv")["p_value"].is_monotonic_increasing
    capsys.readouterr()
    assert main(["de", "--data", str(path), "--perturbation", "NO", "--output", str(tmp_path / "x.csv")]) == 1
    assert "no NO" in capsys.readouterr().err and not (tmp_path / "x.csv").exists()


def test_the_choices_are_those_of_the_engine() -> None:
    assert get_args(de.Reference) == results.REFERENCES and get_args(de.Expression) == results.EXPRESSIONS


def test_attention_of_one_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad")
    words = [
        "attention",
        "--model",
        str(tmp_path / "model"),
        "--data",
        str(data),
        "--perturbation",
        "TNF",
        "--cells",
        "16",
        "--device",
        "cpu",
    ]
    output = ["--output", str(tmp_path / "a.npz")]
    assert main([*words, "--context", "B", "--set", "2", *output]) == 0
    asked = PredictionRequest(str(data), str(tmp_path / "model"), ("TNF",), ("B",), cells=16, device="cpu")
    attention_of_set(AttentionRequest(asked, "TNF", "B", 1), tmp_path / "b.npz")
    np.testing.assert_array_equal(load_maps(tmp_path / "a.npz").perturbed, load_maps(tmp_path / "b.npz").perturbed)
    for more, match in ((["--context", "B", "--set", "3"], "no set 3"), ([], "one set")):
        capsys.readouterr()
        assert main([*words, *more, *output]) == 1
        assert match in capsys.readouterr().err


def test_tables_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_result(tmp_path / "result.h5ad")
    assert main(["tables", "--run", str(tmp_path)]) == 1 and "no manifest.json" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    assert main(["tables", "--run", str(tmp_path)]) == 0 and "tables.zip" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "tables.zip") as archive:
        assert "cells.csv" in archive.namelist()
