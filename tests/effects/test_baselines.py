"""Baselines in the model's place: the same layout, the effects of training cells by hand, and refusals that name conditions."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from state_engine import keys
from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.effects.baselines import baseline_effects
from state_engine.effects.store import effects_hash, save_effects
from state_engine.effects.table import BASELINES, EffectTable, fit_ridge
from state_engine.errors import CheckpointError, ConfigError, RequestError
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.request import METHODS, PredictionRequest, estimate
from tests.prediction.test_calibrated import effects_of
from tests.small import GENES, embedding_changes, write_cells, write_model

ROWS = (("IFNB1", "B"), ("TNF", "B"), ("TNF", "NK"), ("JUN,FOS", "NK"))


@pytest.fixture
def request_(tmp_path: Path) -> PredictionRequest:
    write_model(tmp_path / "model")
    save_effects(tmp_path / "model", effects_of(rows=ROWS))
    data = write_cells(tmp_path / "cells.h5ad", embedding=6)
    return PredictionRequest(
        str(data), str(tmp_path / "model"), ("TNF",), cells=20, observed=16, device="cpu", method="mean of other contexts"
    )


def run(request: PredictionRequest, name: str = "result.h5ad") -> anndata.AnnData:
    output = Path(request.data).with_name(name)
    predict(request, output)
    return anndata.read_h5ad(output)


def rows(result: anndata.AnnData, kind: str, context: str, label: str) -> np.ndarray:
    obs = result.obs
    return ((obs[keys.KIND] == kind) & (obs[keys.CONTEXT] == context) & (obs[keys.PERTURBATION] == label)).to_numpy()


def of(result: anndata.AnnData, context: str, label: str = "TNF") -> tuple[np.ndarray, np.ndarray]:
    """Predicted cells and their basal cells."""
    control = rows(result, keys.PREDICTED_CONTROL, context, "control")
    return result.X[rows(result, keys.PREDICTED, context, label)], result.X[control]


def test_the_mean_of_other_contexts_moves_the_mean_cell_by_it(request_: PredictionRequest) -> None:
    result = run(request_)
    for context, other in (("B", "NK"), ("NK", "B")):
        cells, basal = of(result, context)
        effect = effects_of(rows=ROWS).effect("TNF", other)
        np.testing.assert_allclose(cells.mean(0), np.maximum(basal.mean(0) + effect, 0), atol=1e-5)
        assert np.abs(cells.mean(0) - basal.mean(0)).max() > 0.5


def test_the_layout_is_that_of_the_models_prediction(request_: PredictionRequest) -> None:
    ours, models = run(request_), run(replace(request_, method="model"), "model.h5ad")
    for column in (keys.KIND, keys.PERTURBATION, keys.CONTEXT, keys.BASAL_CELL, keys.CELL_SET):
        assert ours.obs[column].tolist() == models.obs[column].tolist()
    assert list(ours.var_names) == list(models.var_names) and ours.shape == models.shape
    rest = (ours.obs[keys.KIND] != keys.PREDICTED).to_numpy()
    np.testing.assert_allclose(ours.X[rest], models.X[rest], atol=1e-5)  # the same control and measured cells
    assert ours.obs[keys.CONFIDENCE].isna().all() and not ours.obs[keys.FALLBACK].any()
    assert "raw" not in ours.layers and "calibrated" not in ours.layers


def test_no_change_is_the_basal_cells_and_needs_no_effects(request_: PredictionRequest) -> None:
    (Path(request_.model) / "baselines.safetensors").unlink()
    result = run(replace(request_, method="no change"))
    cells, basal = of(result, "B")
    np.testing.assert_array_equal(cells, basal)


def test_the_mean_of_the_context_leaves_the_perturbation_out(request_: PredictionRequest) -> None:
    result = run(replace(request_, method="mean of the context"))
    for context, others in (("B", "IFNB1"), ("NK", "JUN,FOS")):
        cells, basal = of(result, context)
        effect = effects_of(rows=ROWS).effect(others, context)
        np.testing.assert_allclose(cells.mean(0), np.maximum(basal.mean(0) + effect, 0), atol=1e-5)


def test_more_cells_than_a_block_have_one_mean(request_: PredictionRequest) -> None:
    result = run(replace(request_, cells=2500, contexts=("B",)))
    cells, basal = of(result, "B")
    effect = effects_of(rows=ROWS).effect("TNF", "NK")
    np.testing.assert_allclose(cells.mean(0), np.maximum(basal.mean(0) + effect, 0), atol=1e-4)


def test_what_it_says_of_itself(request_: PredictionRequest) -> None:
    made = predict(request_, Path(request_.data).with_name("r.h5ad"))
    manifest = json.loads(anndata.read_h5ad(Path(request_.data).with_name("r.h5ad")).uns[keys.MANIFEST])
    assert manifest["method"] == manifest["request"]["method"] == "mean of other contexts"
    assert "Not predicted by the model but by a baseline, 'mean of other contexts'" in manifest["remarks"][0] == made.remarks[0]
    assert made.sets == 0 and manifest["effects_hash"] == effects_hash(Path(request_.model)) != ""
    assert from_plain(PredictionRequest, to_plain(request_)) == request_
    assert "--method 'mean of other contexts'" in command(request_)
    assert "--method" not in command(replace(request_, method="model"))
    with pytest.raises(ConfigError, match="Known: model, paired, no change"):
        replace(request_, method="guess")


def test_the_command_line_takes_a_baseline(
    request_: PredictionRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command(request_, output=str(tmp_path / "cli.h5ad")))[3:]
    assert main(words) == 0 and "Not predicted by the model" in capsys.readouterr().out
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "cli.h5ad").X, run(request_).X)


def test_conditions_without_a_baseline_are_named_and_nothing_is_written(request_: PredictionRequest, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"says nothing about IFNB1 in B, JUN,FOS in NK.*no other context"):
        run(replace(request_, perturbations=("IFNB1", "TNF", "JUN,FOS")))
    assert not (tmp_path / "result.h5ad").exists()


def test_a_model_without_effects_is_refused(request_: PredictionRequest) -> None:
    (Path(request_.model) / "baselines.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no effects of its training cells"):
        run(request_)


def test_ridge_wants_features(request_: PredictionRequest) -> None:
    with pytest.raises(ConfigError, match="no perturbation features"):
        run(replace(request_, method="ridge"))


def test_ridge_is_fitted_over_perturbations_and_leaves_the_asked_one_out(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    labels = ("control", *(f"P{i}" for i in range(6)))
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    save_file({"features": torch.from_numpy(vectors)}, tmp_path / "model" / "perturbations.safetensors")
    card = replace(read_card(tmp_path / "model"), perturbations=labels, perturbation_encoding="features")
    table = effects_of(rows=tuple((p, "B") for p in labels[1:6]))
    save_effects(tmp_path / "model", table)
    asked = (("P0", "B"), ("P5", "NK"))  # one that was trained on, one that was not
    found = baseline_effects("ridge", tmp_path / "model", card, asked, GENES, len(GENES))
    others = fit_ridge(labels[1:6], vectors[1:6], table.effects)
    np.testing.assert_allclose(found["P5", "NK"], others.predict(vectors[6:7])[0], atol=1e-5)
    np.testing.assert_allclose(found["P0", "B"], others.left_out[0], atol=1e-5)
    with pytest.raises(RequestError, match=r"NEW in B.*no features"):
        baseline_effects("ridge", tmp_path / "model", card, (("NEW", "B"),), GENES, len(GENES))


def test_decoded_genes_move_and_an_embedding_moves_where_there_are_none(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "cells.h5ad", embedding=6)
    asked = PredictionRequest(str(data), "", ("TNF",), cells=20, device="cpu", method="mean of other contexts")
    write_model(tmp_path / "decoded", **embedding_changes())
    save_effects(tmp_path / "decoded", effects_of(rows=ROWS))
    decoded = run(replace(asked, model=str(tmp_path / "decoded")))
    assert not decoded.obsm and decoded.X.shape[1] == len(GENES)
    cells, basal = of(decoded, "NK")
    effect = effects_of(rows=ROWS).effect("TNF", "B")
    np.testing.assert_allclose(cells.mean(0), np.maximum(basal.mean(0) + effect, 0), atol=1e-5)

    write_model(tmp_path / "plain", **{**embedding_changes(), "decoder": None})
    table: EffectTable = effects_of(6, (), ROWS)
    save_effects(tmp_path / "plain", table)
    plain = run(replace(asked, model=str(tmp_path / "plain")), "plain.h5ad")
    here, control = rows(plain, keys.PREDICTED, "NK", "TNF"), rows(plain, keys.PREDICTED_CONTROL, "NK", "control")
    np.testing.assert_allclose(plain.obsm["X_state"][here], plain.obsm["X_state"][control] + table.effect("TNF", "B"), atol=1e-5)


def test_a_baseline_costs_no_forward_pass(request_: PredictionRequest) -> None:
    from state_engine.data.dataset import open_dataset

    dataset, card = open_dataset(request_.data), read_card(Path(request_.model))
    assert estimate(request_, dataset, card).seconds == 0 < estimate(replace(request_, method="model"), dataset, card).seconds
    assert METHODS[:2] == ("model", "paired") and METHODS[2:] == BASELINES
