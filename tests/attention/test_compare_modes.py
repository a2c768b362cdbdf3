"""The attention mode a model was made in agrees best with cells that it made."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine import keys
from state_engine.attention.compare_modes import check_attention
from state_engine.attention.modes import measurable
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import open_dataset
from state_engine.errors import RequestError
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from tests.small import write_cells, write_model


@pytest.mark.parametrize("mode", ["full", "causal-rotary"])
def test_the_mode_that_made_the_cells_is_found(tmp_path: Path, mode: str) -> None:
    card = write_model(tmp_path / "model", seed=3)
    data = write_cells(tmp_path / "cells.h5ad", n=400, counts=False)
    request = PredictionRequest(
        str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), ("B",), cells=128, attention=mode, device="cpu"
    )
    predict(request, tmp_path / "made.h5ad")
    made = anndata.read_h5ad(tmp_path / "made.h5ad")
    # cells as this mode predicts them become the measured cells of a new data set
    cells = anndata.read_h5ad(data)
    controls = cells[(cells.obs["perturbation"] == "control").to_numpy()]
    simulated = made[(made.obs[keys.KIND] == keys.PREDICTED).to_numpy()]
    whole = anndata.AnnData(
        np.vstack([controls.X.toarray(), simulated.X]).astype(np.float32),
        obs={
            "perturbation": [*controls.obs["perturbation"], *simulated.obs["perturbation"]],
            "cell_type": [*controls.obs["cell_type"], *simulated.obs["context"]],
            "batch": "lane 1",
        },
    )
    whole.var_names = cells.var_names
    whole.obs_names = [f"cell {i}" for i in range(len(whole))]
    whole.uns["log1p"] = {}
    whole.write_h5ad(tmp_path / "whole.h5ad")
    dataset = open_dataset(tmp_path / "whole.h5ad")
    perturbations, contexts = measurable(dataset, card)
    assert perturbations == ("IFNB1", "TNF") and contexts == ("B",)
    asked = PredictionRequest(str(tmp_path / "whole.h5ad"), str(tmp_path / "model"), perturbations, contexts, device="cpu")
    scores = check_attention(asked, load_model(tmp_path / "model"))
    assert scores[0].mode == mode and len(scores) == 3 and scores[0].conditions == 2
    assert scores[0].mae < scores[1].mae <= scores[2].mae


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad", n=40)
    card = read_card(tmp_path / "model")
    perturbations, _ = measurable(open_dataset(data), card)
    assert perturbations == ()  # no condition has enough cells
    request = PredictionRequest(str(data), str(tmp_path / "model"), ("TNF",), ("NK",), device="cpu")
    with pytest.raises(RequestError, match="No condition was measured"):
        check_attention(request, load_model(tmp_path / "model"))
