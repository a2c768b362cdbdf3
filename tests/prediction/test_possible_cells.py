"""No predicted cell is impossible: each kind of prediction, with effects far too large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine import keys
from state_engine.checkpoints.card import Calibration
from state_engine.checkpoints.load import load_model
from state_engine.checkpoints.store import set_calibration
from state_engine.effects.store import save_effects
from state_engine.effects.table import EffectTable
from state_engine.prediction.predict import predict
from state_engine.prediction.request import Method, PredictionRequest
from tests.prediction.test_calibrated import WEIGHTS, effects_of
from tests.small import GENES, write_cells, write_model

TOTAL = 1e4
NEW = replace(WEIGHTS, paired=0.5, mean=0.5, chosen="mixture", transfer="shrunk")


def sums(cells: np.ndarray) -> np.ndarray:
    return np.expm1(cells.astype(np.float64)).sum(axis=1)


def ask(tmp_path: Path, weights: Calibration | None = NEW) -> PredictionRequest:
    write_model(tmp_path / "model")
    set_calibration(tmp_path / "model", weights)
    table: EffectTable = effects_of(rows=(("IFNB1", "B"), ("TNF", "B"), ("TNF", "NK"), ("IFNB1", "NK")))
    save_effects(tmp_path / "model", replace(table, effects=table.effects * 6))  # e^6-fold: more than there can be
    data = write_cells(tmp_path / "cells.h5ad")
    return PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=20, observed=16, device="cpu")


# a baseline's cells are moved so that their mean is its number, wherever it is scored (`effects.apply`): no gene of theirs is above the total
@pytest.mark.parametrize("method", ["model", "paired", "no change", "mean of other contexts", "likeness-weighted mean"])
def test_no_cell_is_impossible(tmp_path: Path, method: Method) -> None:
    request = replace(ask(tmp_path), method=method)
    loaded = load_model(tmp_path / "model")
    with_torch = loaded.module.state_dict()
    for name, value in with_torch.items():
        if name.endswith("weight"):
            value.mul_(4)  # a network that overshoots
    predict(request, tmp_path / "out.h5ad", loaded=loaded if request.by_network else None)
    result = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert result.n_vars == len(GENES)  # all genes are there, so measured cells sum to the total
    predicted = (result.obs[keys.KIND] == keys.PREDICTED).to_numpy()
    measured = (result.obs[keys.KIND] == keys.OBSERVED_CONTROL).to_numpy()
    np.testing.assert_allclose(sums(result.X[measured]), TOTAL, rtol=1e-3)
    kinds = [result.X, *(result.layers[name] for name in ("calibrated", "corrected") if name in result.layers)]
    assert len(kinds) == (3 if method == "model" else 1)
    for values in kinds:
        assert values[predicted].max() <= np.log1p(TOTAL) * (1 + 1e-6) and values[predicted].min() >= 0
    if method == "model":  # the default output
        assert TOTAL * 0.99 < sums(result.X[predicted]).max() <= TOTAL * (1 + 2e-4)
        assert sums(result.layers["corrected"][predicted]).max() > 1.1 * TOTAL  # what would have been without


def test_mean_effects_of_unknown_labels_are_bounded_too(tmp_path: Path) -> None:
    request = replace(ask(tmp_path, None), perturbations=("TNF", "new"), allow_unknown=True, unknown_effect="mean")
    predict(request, tmp_path / "out.h5ad")
    result = anndata.read_h5ad(tmp_path / "out.h5ad")
    there = (result.obs[keys.KIND] == keys.PREDICTED).to_numpy()
    assert result.X[there].max() <= np.log1p(TOTAL) * (1 + 1e-6)
