"""Perturbations that the model does not know: the mean effect of the others, marked, in every matrix of the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine import keys
from state_engine.errors import UnknownLabelError
from state_engine.options import command
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from tests.small import embedding_changes, write_cells, write_model


def ask(tmp_path: Path, **changes: object) -> PredictionRequest:
    write_model(tmp_path / "model", **(embedding_changes() if changes.pop("embedding", False) else {}))
    data = write_cells(tmp_path / "cells.h5ad", embedding=6)
    request = PredictionRequest(
        str(data), str(tmp_path / "model"), ("IFNB1", "NEW", "TNF"), cells=20, observed=16, device="cpu", allow_unknown=True,
        unknown_effect="mean",
    )  # fmt: skip
    return replace(request, **changes)  # type: ignore[arg-type]


def of(result: anndata.AnnData, kind: str, label: str, context: str) -> np.ndarray:
    obs = result.obs
    return ((obs[keys.KIND] == kind) & (obs[keys.PERTURBATION] == label) & (obs[keys.CONTEXT] == context)).to_numpy()


@pytest.mark.parametrize("embedding", [False, True])
def test_unknown_labels_get_the_mean_effect_of_the_known_ones(tmp_path: Path, embedding: bool) -> None:
    predict(ask(tmp_path, embedding=embedding), tmp_path / "result.h5ad")
    result = anndata.read_h5ad(tmp_path / "result.h5ad")
    matrices = {"X": result.X, **{f"layers/{k}": v for k, v in result.layers.items()}, **dict(result.obsm)}
    assert len(matrices) == (4 if embedding else 2)
    for context in ("B", "NK"):
        control = of(result, keys.PREDICTED_CONTROL, "control", context)
        new = of(result, keys.PREDICTED, "NEW", context)
        assert result.obs[keys.FALLBACK][new].all() and result.obs[keys.CONFIDENCE][new].isna().all()
        for name, matrix in matrices.items():
            known = [matrix[of(result, keys.PREDICTED, p, context)].mean(0) for p in ("IFNB1", "TNF")]
            effect = np.mean(known, axis=0) - matrix[control].mean(0)
            if name == "X":  # the mean moves as the effect says, not below 0
                np.testing.assert_allclose(matrix[new].mean(0), np.maximum(matrix[control].mean(0) + effect, 0), atol=1e-5)
                assert (matrix[new] >= 0).all()
            else:
                np.testing.assert_allclose(matrix[new], matrix[control] + effect, atol=1e-5)
            assert np.abs(effect).max() > 1e-3


def test_the_others_are_untouched_and_the_result_says_so(tmp_path: Path) -> None:
    request = ask(tmp_path)
    made = predict(request, tmp_path / "mean.h5ad")
    predict(replace(request, unknown_effect="control"), tmp_path / "control.h5ad")
    a, b = anndata.read_h5ad(tmp_path / "mean.h5ad"), anndata.read_h5ad(tmp_path / "control.h5ad")
    same = (a.obs[keys.PERTURBATION] != "NEW").to_numpy()
    assert np.array_equal(a.X[same], b.X[same]) and not np.array_equal(a.X[~same], b.X[~same])
    assert "NEW: not known to the model; they have the mean effect of the other 2 labels" in " ".join(made.remarks)
    assert json.loads(a.uns[keys.MANIFEST])["request"]["unknown_effect"] == "mean"
    assert "--unknown-effect mean" in command(request)


def test_without_any_known_label_there_is_no_mean(tmp_path: Path) -> None:
    with pytest.raises(UnknownLabelError, match="knows none"):
        predict(ask(tmp_path, perturbations=("NEW", "NEWER")), tmp_path / "result.h5ad")
    assert not (tmp_path / "result.h5ad").exists()
