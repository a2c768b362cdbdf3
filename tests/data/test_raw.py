"""The raw part of a file as the expression: its own genes, through the same gate, for every verb; and normalisation as the page has it."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.cli.main import main
from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import RepresentationError
from state_engine.prediction.result import open_result
from tests.small import GENES, write_cells, write_model


def write_raw(path: Path) -> Path:
    """Counts of all genes in raw, in another order and with two more; z-scores of 6 genes in X; guides among the rows of raw/var."""
    cells = anndata.read_h5ad(write_cells(path))
    order = list(reversed(range(len(GENES))))
    values = sp.csr_matrix(np.hstack([cells.X.toarray()[:, order], np.full((cells.n_obs, 2), 9, np.float32)]))
    raw = anndata.AnnData(values, obs=cells.obs)
    raw.var_names = [*(GENES[i] for i in order), "GENE99", "guide 1"]
    raw.var["feature_types"] = ["Gene Expression"] * 25 + ["CRISPR Guide Capture"]
    scaled = anndata.AnnData(np.random.default_rng(0).normal(size=(cells.n_obs, 6)).astype(np.float32), obs=cells.obs)
    scaled.var_names = list(GENES[:6])
    scaled.raw = raw
    scaled.obsm["X_pca"] = np.zeros((cells.n_obs, 3), np.float32)
    scaled.write_h5ad(path)
    return path


def test_raw_is_read_where_it_is_chosen(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "cells.h5ad")
    plain, raw = open_dataset(path), open_dataset(path, Choices(expression="raw"))
    assert plain.scale.scale is None and "--expression raw" in plain.scale.fix and plain.n_genes == 6
    assert any("'raw' part (26 genes) is not read" in note for note in plain.notes)
    assert (raw.expression, raw.scale.scale, raw.n_genes) == ("raw/X", "counts", 25)
    assert raw.genes.names[:2] == ("GENE23", "GENE22") and raw.genes.names[-1] == "GENE99"
    assert [m.name for m in raw.representations] == ["raw/X", "obsm/X_pca"]
    rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(raw.read("raw/X", rows), anndata.read_h5ad(path).raw.X[rows].toarray()[:, :25])
    assert "The expression is taken from raw/X." in raw.notes and not any("is not read" in note for note in raw.notes)
    assert plain.file.expressions == raw.file.expressions == ("X", "raw")
    with pytest.raises(RepresentationError, match="no expression matrix 'layers/counts'"):
        open_dataset(path, Choices(expression="layers/counts"))


def test_a_file_without_raw_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(RepresentationError, match="no 'raw' part") as error:
        open_dataset(write_cells(tmp_path / "cells.h5ad"), Choices(expression="raw"))
    assert "It has: X" in str(error.value)


@pytest.mark.parametrize("what", ["shape", "text"])
def test_a_raw_part_that_cannot_be_read_spoils_nothing_else(tmp_path: Path, what: str) -> None:
    path = write_raw(tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        if what == "shape":
            del file["raw/X"].attrs["shape"]
            file["raw/X"].attrs["shape"] = np.array([160, 30])
        else:
            del file["raw/X"]
            file["raw"].create_dataset("X", data=np.array([["a"]], dtype="S1"))
    data = open_dataset(path)
    assert data.file.raw is None and data.n_genes == 6 and any("raw/X" in note for note in data.notes)


def test_commands_take_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, same = write_raw(tmp_path / "cells.h5ad"), write_cells(tmp_path / "plain.h5ad")
    write_model(tmp_path / "model")
    assert main(["inspect", str(path), "--expression", "raw"]) == 0 and "expression: raw/X, counts" in capsys.readouterr().out
    for data, more in ((path, ["--expression", "raw"]), (same, [])):
        words = ["predict", "--model", str(tmp_path / "model"), "--data", str(data), "--perturbation", "TNF", "--cells", "12"]
        assert main([*words, "--device", "cpu", *more, "--output", str(tmp_path / f"{data.stem}.out.h5ad")]) == 0
    first, second = (open_result(tmp_path / f"{name}.out.h5ad") for name in ("cells", "plain"))
    assert first.genes == second.genes
    rows = first.rows("predicted")
    # one gene more in the depth of a cell, so nearly the same values: those of the other file's genes by their names
    assert np.corrcoef(first.read(rows).ravel(), second.read(rows).ravel())[0, 1] > 0.99
