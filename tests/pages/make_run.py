"""A finished run on disk without a worker: result, map and attention maps, small and made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np

from state_engine import keys
from state_engine.analysis import projection as pr
from state_engine.analysis import stored
from state_engine.attention.maps import maps_name
from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result


def make_run(
    settings: Settings,
    data: Path | None = None,
    embedding: str | None = None,
    decoder: bool = True,
    calibrated: bool = False,
    observed: bool = True,
) -> RunFolder:
    """A run of two perturbations in two contexts, 30 cells each, in sets of 16."""
    request = PredictionRequest(
        data=str(data or settings.home / "cells.h5ad"),
        model=str(settings.models / "a-model"),
        perturbations=("drugA", "drugB"),
        contexts=("B", "T"),
        cells=30,
    )
    run = RunFolder.create(settings, "predict", to_plain(request), "drugA, drugB in B, T")
    run.record(seed=42, settings={"set_size": 16, "attention": "full"})
    make_result(run.result, embedding=embedding, decoder=decoder, calibrated=calibrated, observed=observed)
    _fill_names(run.result)
    result = open_result(run.result)
    rows = np.flatnonzero(result.obs[keys.KIND].isin(pr.KINDS).to_numpy())
    xy = np.random.default_rng(0).normal(size=(len(rows), 2)).astype(np.float32)
    settings_of_map = pr.Settings(7, "corrected expression (log1p)", len(rows), len(rows), False, 50, 15)
    pr.Projection(xy, rows.astype(np.int32), np.ones(50, np.float32) / 50, settings_of_map).save(run.file("projection.npz"))
    if result.has_expression:  # as the job that makes the map leaves them
        for condition in result.conditions():
            stored.answer(run.path, *condition, result=result)
        stored.effects_for(run.path)
    run.finish("done")
    return run


def _fill_names(path: Path) -> None:
    """Observed control rows name themselves as their basal cell, as the predict verb writes them."""
    data = anndata.read_h5ad(path)
    own = data.obs[keys.BASAL_CELL].astype(str).to_numpy()
    control = (data.obs[keys.KIND] == keys.OBSERVED_CONTROL).to_numpy()
    own[control] = data.obs_names[control]
    data.obs[keys.BASAL_CELL] = own
    data.write_h5ad(path)


def make_maps(
    run: RunFolder, mode: str = "full", tokens: float = 0.0, perturbation: str = "drugA", context: str = "B"
) -> np.ndarray:
    """Random maps of 3 layers and 2 heads of 16 cells for the first set; returns the perturbed weights."""
    rng = np.random.default_rng(0)
    weights = rng.random((2, 3, 2, 16, 16)).astype(np.float32)
    if mode != "full":
        weights *= np.tril(np.ones((16, 16), np.float32))
    weights *= (1 - tokens) / weights.sum(-1, keepdims=True)
    result = open_result(run.result)
    cells = result.obs[keys.BASAL_CELL].iloc[result.rows(keys.PREDICTED, context, perturbation)[:16]].astype(str)
    np.savez(
        run.file(maps_name(perturbation, context, 0)),
        perturbed=weights[0],
        control=weights[1],
        cells=cells.to_numpy(str),
        batches=np.array(["1"] * 8 + ["2"] * 8),
        basal=rng.random((16, 40)).astype(np.float16),
        genes=np.array(result.genes or [f"feature {i}" for i in range(40)]),
        token_share=np.full((3, 2), tokens, np.float32),
        about=json.dumps({"mode": mode}),
    )
    return weights[0]
