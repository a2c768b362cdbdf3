"""What a data set and a model have in common, counted from labels and gene names."""

from __future__ import annotations

from pathlib import Path

import anndata

from state_engine.data.dataset import open_dataset
from state_engine.prediction.overlap import naming_genes, overlap_of, perturbations_of
from tests.small import write_cells, write_model


def test_perturbations_genes_and_contexts_are_counted(tmp_path: Path) -> None:
    card = write_model(tmp_path / "model")
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad"))
    gene = str(cells.var_names[0])
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(str).replace({"TNF": gene})
    cells[:, :20].copy().write_h5ad(tmp_path / "fewer.h5ad")
    data = open_dataset(tmp_path / "fewer.h5ad")
    found = overlap_of(data, card)
    assert perturbations_of(data) == tuple(p for p in data.perturbations if p != "control")
    assert set(found.known) == {"IFNB1", "JUN,FOS"} and (found.perturbations, found.offered) == (3, len(card.perturbations) - 1)
    assert found.contexts == len(data.contexts) and found.seen == tuple(c for c in data.contexts if c in card.contexts)
    assert (found.genes_found, found.genes) in {(20, 24), (None, None)}
    assert found.useful == (not found.blocking)
    assert naming_genes(data) == (gene,)
