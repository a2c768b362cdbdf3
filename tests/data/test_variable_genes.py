"""HVGs as a representation: the genes scanpy chooses, normalised as a model reads them, recorded in the copy."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy

from state_engine.data.dataset import open_dataset
from state_engine.data.variable_genes import add_hvgs
from state_engine.errors import GeneError
from tests.small import write_cells


def test_the_copy_has_the_variable_genes_in_log1p(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "cells.h5ad")
    made = add_hvgs(open_dataset(data), 10, tmp_path / "hvg.h5ad")
    before, after = anndata.read_h5ad(data), anndata.read_h5ad(tmp_path / "hvg.h5ad")
    log1p = before.copy()
    scanpy.pp.normalize_total(log1p, target_sum=1e4)
    scanpy.pp.log1p(log1p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.highly_variable_genes(log1p, n_top_genes=10, flavor="seurat")
    assert list(made.genes) == list(log1p.var_names[log1p.var["highly_variable"]])
    np.testing.assert_allclose(after.obsm["X_hvg"], log1p[:, list(made.genes)].X.toarray(), atol=1e-5)
    note = json.loads(after.uns["state_explorer_hvg"])
    assert note["genes"] == list(made.genes) and "flavor seurat" in note["method"]
    assert (before.X != after.X).nnz == 0
    assert any(r.name == "obsm/X_hvg" for r in open_dataset(tmp_path / "hvg.h5ad").representations)


def test_more_genes_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeneError, match="24"):
        add_hvgs(open_dataset(write_cells(tmp_path / "cells.h5ad")), 100, tmp_path / "hvg.h5ad")
    assert not (tmp_path / "hvg.h5ad").exists()
