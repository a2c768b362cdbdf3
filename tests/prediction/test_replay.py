"""Replay: every cell replaced in place, the rest of the file untouched, and refusals that name labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.load import load_model
from state_engine.data.cell_sets import replay_plan
from state_engine.data.dataset import Choices
from state_engine.errors import RepresentationError, UnknownLabelError
from state_engine.prediction.replay import ReplayRequest, replay
from tests.small import embedding_changes, write_cells, write_model


@pytest.fixture
def asked(tmp_path: Path) -> ReplayRequest:
    write_model(tmp_path / "model")
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad", counts=False))
    cells.obsm["X_hvg"] = cells.X.toarray()
    cells.uns["note"] = "kept"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return ReplayRequest(str(tmp_path / "cells.h5ad"), str(tmp_path / "model"), device="cpu")


def test_each_window_is_the_model_on_the_drawn_controls(asked: ReplayRequest, tmp_path: Path) -> None:
    summary = replay(asked, tmp_path / "out.h5ad")
    before, after = anndata.read_h5ad(asked.data), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert summary["simulated"] == summary["cells"] == len(before)
    loaded = load_model(Path(asked.model))
    basal = before.obsm["X_hvg"]
    plan = replay_plan(before.obs["perturbation"].to_numpy(str), before.obs["cell_type"].to_numpy(str), "control", 8, 42)
    for window in plan:
        row = loaded.card.perturbations.index(window.perturbation)
        with torch.inference_mode():
            expected = loaded.module(
                torch.tensor(basal[window.basal])[None], loaded.perturbation_features[row][None], attention="full"
            ).predicted[0]
        np.testing.assert_allclose(after.obsm["X_hvg"][window.target], np.clip(expected.numpy(), 0, 14), atol=1e-5)


def test_the_rest_of_the_file_is_the_same(asked: ReplayRequest, tmp_path: Path) -> None:
    replay(asked, tmp_path / "out.h5ad")
    before, after = anndata.read_h5ad(asked.data), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert after.uns["note"] == "kept" and before.obs.equals(after.obs) and list(before.var_names) == list(after.var_names)
    assert (before.X != after.X).nnz == 0


def test_an_embedding_and_its_genes(tmp_path: Path) -> None:
    write_model(tmp_path / "model", **embedding_changes())
    data = write_cells(tmp_path / "cells.h5ad", embedding=6)
    replay(ReplayRequest(str(data), str(tmp_path / "model"), device="cpu"), tmp_path / "out.h5ad")
    before, after = anndata.read_h5ad(data), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert not np.allclose(before.obsm["X_state"], after.obsm["X_state"])
    assert after.X.min() >= 0 and after.X.shape == before.X.shape


def test_unknown_labels_are_an_error_unless_allowed(asked: ReplayRequest, tmp_path: Path) -> None:
    cells = anndata.read_h5ad(asked.data)
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(str).replace("TNF", "MYC")
    cells.write_h5ad(tmp_path / "other.h5ad")
    other = replace(asked, data=str(tmp_path / "other.h5ad"))
    with pytest.raises(UnknownLabelError, match="MYC"):
        replay(other, tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()
    assert replay(replace(other, allow_unknown=True), tmp_path / "out.h5ad")["simulated"] == cells.n_obs


def test_the_representation_must_be_there(asked: ReplayRequest, tmp_path: Path) -> None:
    plain = write_cells(tmp_path / "plain.h5ad")
    with pytest.raises(RepresentationError, match="X_hvg"):
        replay(replace(asked, data=str(plain)), tmp_path / "out.h5ad")
    replay(replace(asked, data=str(plain), embedding_key="X", choices=Choices(scale="counts")), tmp_path / "out.h5ad")
    assert anndata.read_h5ad(tmp_path / "out.h5ad").X.max() <= 14
