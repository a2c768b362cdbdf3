"""Evaluated predictions become counts by their kind: no effect gives back the counts of the control cells."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_engine import keys
from state_engine.data.dataset import Choices
from state_engine.evaluation.baselines import EvaluatedBaseline
from state_engine.evaluation.counts import counts_of_context
from state_engine.evaluation.files import open_files
from state_engine.evaluation.request import EvaluationRequest, PredictedFile

CHOICES = Choices(perturbation_key="perturbation", context_key="", control="control")


def files_of(folder: Path, name: str) -> tuple[EvaluationRequest, np.ndarray]:
    """A measurement, and a prediction of no effect for its first 20 control cells, whose basal cells are called NAME0, NAME1 …"""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 3, 30), (80, 30)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": np.repeat(["control", "G1", "G2"], [40, 20, 20])}, [f"cell{i}" for i in range(80)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(30)])
    ad.AnnData(sp.csr_matrix(counts), obs, var).write_h5ad(folder / "real.h5ad")
    own = counts[:20]
    values = np.log1p(own / own.sum(1, keepdims=True) * 1e4).astype(np.float32)
    said = pd.DataFrame(
        {
            keys.PERTURBATION: "G1",
            keys.KIND: keys.PREDICTED,
            keys.BASAL_CELL: [f"{name}{i}" for i in range(20)],
            keys.BASAL_ROW: np.arange(20),
        },
        [f"p{i}" for i in range(20)],
    )
    made = ad.AnnData(values, said, var)
    made.uns[keys.MANIFEST] = json.dumps({"request": {}, "method": "model", keys.X_KIND: "corrected", "depth": 1e4})
    made.write_h5ad(folder / "predicted.h5ad")
    request = EvaluationRequest(
        (PredictedFile(str(folder / "predicted.h5ad")),), str(folder / "real.h5ad"), CHOICES, profile="vcc2026"
    )
    return request, counts


def cells_of(request: EvaluationRequest) -> tuple[dict[str, np.ndarray], list[str]]:
    files, remarks = open_files(request), list[str]()
    zero = EvaluatedBaseline("no change", {("G1", keys.ALL): np.zeros(30)})
    _, made = counts_of_context(files, (zero,), request, keys.ALL, remarks)
    order = [files.genes.index(f"G{i}") for i in range(30)]
    return {m: cells[(cells.obs.iloc[:, 0] == "G1").to_numpy()].X.toarray()[:, order] for m, _, cells in made}, remarks


def test_cells_without_an_effect_keep_the_counts_of_their_control_cell(tmp_path: Path) -> None:
    request, counts = files_of(tmp_path, "cell")
    made, remarks = cells_of(request)
    assert np.abs(made["prediction"] - counts[:20]).sum() <= 1e-3 * counts[:20].sum()
    assert any("(corrected)" in r and "rounding donor" in r for r in remarks)
    # a baseline's cells are control cells of the measurement, whichever were drawn
    controls = {tuple(row) for row in counts[:40].astype(int).tolist()}
    assert sum(tuple(row) in controls for row in made["no change"].astype(int).tolist()) >= 18


def test_where_control_cells_are_not_there_cells_are_rounded_at_random(tmp_path: Path) -> None:
    made, remarks = cells_of(files_of(tmp_path, "elsewhere")[0])
    assert any("rounding stochastic" in r for r in remarks)
    assert (made["prediction"] == np.trunc(made["prediction"])).all()
