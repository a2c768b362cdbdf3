"""The calibrated layer: the weights applied by hand, nothing where there is no baseline, and a context deaf to its own effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine import keys
from state_engine.checkpoints.card import Calibration
from state_engine.checkpoints.store import set_calibration
from state_engine.data.dataset import open_dataset
from state_engine.effects.apply import apply_effect, within_total
from state_engine.effects.store import EFFECTS, save_effects
from state_engine.effects.table import EffectTable
from state_engine.effects.transfer import Likeness
from state_engine.errors import CheckpointError
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from tests.small import GENES, embedding_changes, write_cells, write_model

WEIGHTS = Calibration(0.25, 0.5, 0.0, 1.0, (0.5, 0.5), ("B",), ("IFNB1",), 1, 40, "", 0)


def effects_of(width: int = len(GENES), features: tuple[str, ...] = GENES, rows=(("IFNB1", "B"), ("TNF", "B"), ("TNF", "NK"))):
    values = np.random.default_rng(5).normal(size=(len(rows), width)).astype(np.float32)
    controls = {c: np.zeros(width, np.float32) for c in ("B", "NK")}
    labels = tuple(p for p, _ in rows), tuple(c for _, c in rows)
    return EffectTable(*labels, np.ones(len(rows), int), values, controls, features)


def ask(tmp_path: Path, table: EffectTable | None, weights: Calibration | None = WEIGHTS, **changes: object) -> PredictionRequest:
    write_model(tmp_path / "model", **changes)
    set_calibration(tmp_path / "model", weights)
    if table is not None:
        save_effects(tmp_path / "model", table)
    data = write_cells(tmp_path / "cells.h5ad", embedding=6)
    return PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=20, observed=16, device="cpu")


def run(request: PredictionRequest, name: str = "result.h5ad") -> tuple[anndata.AnnData, tuple[str, ...]]:
    output = Path(request.data).with_name(name)
    remarks = predict(request, output).remarks
    return anndata.read_h5ad(output), remarks


def of(result: anndata.AnnData, kind: str, label: str, context: str) -> np.ndarray:
    obs = result.obs
    return ((obs[keys.KIND] == kind) & (obs[keys.PERTURBATION] == label) & (obs[keys.CONTEXT] == context)).to_numpy()


def test_the_mean_cell_moves_by_the_weights(tmp_path: Path) -> None:
    table = effects_of()
    result, _ = run(ask(tmp_path, table))
    for label, context in (("IFNB1", "NK"), ("TNF", "B"), ("TNF", "NK")):
        here, control = of(result, keys.PREDICTED, label, context), of(result, keys.PREDICTED_CONTROL, "control", context)
        corrected, basal = result.X[here].astype(float), result.X[control].astype(float)
        other = table.effect(label, "B" if context == "NK" else "NK")
        expected = 0.25 * corrected.mean(0) + 0.75 * basal.mean(0) + 0.5 * other
        calibrated = result.layers["calibrated"][here]
        np.testing.assert_allclose(calibrated.mean(0), np.maximum(expected, 0), atol=1e-5)
        assert (calibrated >= 0).all()
        up = other > 0  # there a cell is itself plus both parts, as it should be everywhere
        np.testing.assert_allclose(calibrated[:, up], (basal + 0.25 * (corrected - basal) + 0.5 * other)[:, up], atol=1e-5)


def test_all_of_the_paired_effect_is_the_corrected_prediction(tmp_path: Path) -> None:
    result, _ = run(ask(tmp_path, effects_of(), replace(WEIGHTS, paired=1.0, mean=0.0)))
    here = of(result, keys.PREDICTED, "TNF", "B")
    np.testing.assert_allclose(result.layers["calibrated"][here], result.X[here], atol=1e-5)


def test_without_a_baseline_there_is_nothing_and_it_is_said(tmp_path: Path) -> None:
    """IFNB1 was trained on in B alone: for B itself no other context says anything."""
    result, remarks = run(ask(tmp_path, effects_of()))
    assert np.isnan(result.layers["calibrated"][of(result, keys.PREDICTED, "IFNB1", "B")]).all()
    assert np.isfinite(result.layers["calibrated"][~of(result, keys.PREDICTED, "IFNB1", "B")]).all()
    manifest = json.loads(result.uns[keys.MANIFEST])["calibration"]
    assert manifest["without"] == [["IFNB1", "B"]] and (manifest["paired"], manifest["mean"]) == (0.25, 0.5)
    assert (
        "0.25 of the predicted effect and 0.50 of the mean effect over other contexts, as fitted on 1 held-out condition."
        in remarks[0]
        and "IFNB1 in B: trained on in no other" in remarks[0]
    )


def test_a_context_does_not_hear_its_own_training_effect(tmp_path: Path) -> None:
    table = effects_of()
    request = ask(tmp_path, table)
    before, _ = run(request)
    loud = table.effects.copy()
    loud[table.perturbations.index("TNF")] += 5.0  # TNF in B
    save_effects(tmp_path / "model", replace(table, effects=loud))
    after, _ = run(request, "other.h5ad")
    own, other = of(before, keys.PREDICTED, "TNF", "B"), of(before, keys.PREDICTED, "TNF", "NK")
    np.testing.assert_array_equal(before.layers["calibrated"][own], after.layers["calibrated"][own])
    assert np.abs(before.layers["calibrated"][other] - after.layers["calibrated"][other]).max() > 1


def test_control_and_measured_cells_are_what_they_are(tmp_path: Path) -> None:
    result, _ = run(ask(tmp_path, effects_of()))
    rest = (result.obs[keys.KIND] != keys.PREDICTED).to_numpy()
    np.testing.assert_array_equal(result.layers["calibrated"][rest], result.X[rest])


@pytest.mark.parametrize(
    ("table", "weights"), [(effects_of(), None), (None, WEIGHTS), (effects_of(rows=(("JUN,FOS", "B"),)), WEIGHTS)]
)
def test_there_is_no_layer_without_weights_effects_or_any_baseline(tmp_path: Path, table, weights) -> None:
    result, remarks = run(ask(tmp_path, table, weights))
    assert "calibrated" not in result.layers and remarks == ()
    assert json.loads(result.uns[keys.MANIFEST])["calibration"] is None


def test_an_embedding_is_calibrated_as_it_is(tmp_path: Path) -> None:
    table = effects_of(6, ())
    result, _ = run(ask(tmp_path, table, **{**embedding_changes(), "decoder": None}))
    here, control = of(result, keys.PREDICTED, "TNF", "NK"), of(result, keys.PREDICTED_CONTROL, "control", "NK")
    corrected, basal = result.obsm["X_state"][here], result.obsm["X_state"][control]
    expected = basal + 0.25 * (corrected - basal) + 0.5 * table.effect("TNF", "B")
    np.testing.assert_allclose(result.obsm["X_state_calibrated"][here], expected, atol=1e-5)


def test_decoded_expression_is_calibrated(tmp_path: Path) -> None:
    result, _ = run(ask(tmp_path, effects_of(), **embedding_changes()))
    assert result.layers["calibrated"].shape == result.X.shape and "X_state_calibrated" not in result.obsm


@pytest.mark.parametrize("table", [effects_of(5, ()), effects_of(features=GENES[::-1])])
def test_effects_of_other_features_are_refused(tmp_path: Path, table) -> None:
    with pytest.raises(CheckpointError, match="not of the features"):
        run(ask(tmp_path, table))
    assert not (tmp_path / "result.h5ad").exists()


def test_damaged_effects_are_refused(tmp_path: Path) -> None:
    request = ask(tmp_path, effects_of())
    (tmp_path / "model" / EFFECTS).write_bytes(b"not this")
    with pytest.raises(CheckpointError, match="damaged"):
        run(request)


NEW = replace(
    WEIGHTS, paired=0.4, mean=0.5, transfer="shrunk", chosen="mixture", why="Closest.", without={"paired": (0.6, 0.0, 0.0)}
)


def test_what_the_card_recommends_is_the_default_output(tmp_path: Path) -> None:
    table = effects_of()
    result, remarks = run(ask(tmp_path, table, NEW))
    np.testing.assert_array_equal(result.X, result.layers["calibrated"])
    assert "default output is the calibrated prediction. Closest." in remarks[0]
    here, control = of(result, keys.PREDICTED, "TNF", "NK"), of(result, keys.PREDICTED_CONTROL, "control", "NK")
    corrected = result.layers["corrected"]
    # one other context, whose errors are not known: its effect as it is
    effect = 0.5 * table.effect("TNF", "B")
    start = (0.4 * corrected[here] + 0.6 * corrected[control]).astype(np.float32)
    # the mean is that of the effect added to each cell; the cells get there by molecules
    expected = within_total(apply_effect(start, effect), 1e4)
    np.testing.assert_allclose(result.X[here].mean(axis=0), expected.mean(axis=0), rtol=0.02)
    assert np.expm1(result.X[here], dtype=np.float64).sum(axis=1).max() < 1e4 * 1.001
    # IFNB1 in B: no other context tells, so a part of its own effect alone
    lone, basal = of(result, keys.PREDICTED, "IFNB1", "B"), of(result, keys.PREDICTED_CONTROL, "control", "B")
    lone_cells = (0.6 * corrected[lone] + 0.4 * corrected[basal]).astype(np.float32)
    np.testing.assert_allclose(result.X[lone].mean(axis=0), within_total(lone_cells, 1e4).mean(axis=0), rtol=0.02)
    opened = open_result(tmp_path / "result.h5ad")
    assert opened.layers() == ("calibrated", "corrected", "raw") and opened.recommends_calibrated
    np.testing.assert_array_equal(opened.read(np.flatnonzero(here), layer="corrected"), corrected[here])


def test_the_paired_method_is_the_prediction_of_before(tmp_path: Path) -> None:
    request = ask(tmp_path, effects_of(), NEW)
    mixed, _ = run(request)
    alone, _ = run(replace(request, method="paired"), "paired.h5ad")
    np.testing.assert_array_equal(alone.X, mixed.layers["corrected"])
    assert set(alone.layers) == {"raw"}
    set_calibration(tmp_path / "model", None)
    before, _ = run(request, "before.h5ad")
    np.testing.assert_array_equal(before.X, alone.X)
    assert open_result(tmp_path / "before.h5ad").layers() == ("corrected", "raw")


def test_blocks_have_weights_of_their_own(tmp_path: Path) -> None:
    labels = ("TNF", "IFNB1", "JUN,FOS", "x", "y")
    rows = (*((p, "B") for p in labels), *((p, "NK") for p in labels if p != "IFNB1"))
    table = effects_of(rows=rows)
    request = ask(tmp_path, table, NEW)
    set_calibration(tmp_path / "model", NEW, replace(NEW, paired=0.0, mean=0.0, common=1.0, kind="blocks"))
    result, _ = run(replace(request, perturbations=("IFNB1",)))
    here, control = of(result, keys.PREDICTED, "IFNB1", "NK"), of(result, keys.PREDICTED_CONTROL, "control", "NK")
    expected = within_total(apply_effect(result.X[control], table.mean_of_context("NK")), 1e4)
    np.testing.assert_allclose(result.X[here].mean(axis=0), expected.mean(axis=0), rtol=0.02)


def test_an_embedding_that_is_recommended_is_the_default_too(tmp_path: Path) -> None:
    result, _ = run(ask(tmp_path, effects_of(6, ()), NEW, **{**embedding_changes(), "decoder": None}))
    np.testing.assert_array_equal(result.obsm["X_state"], result.obsm["X_state_calibrated"])
    here = np.flatnonzero(of(result, keys.PREDICTED, "TNF", "NK"))
    opened = open_result(tmp_path / "result.h5ad")
    np.testing.assert_array_equal(opened.features(here), result.obsm["X_state_corrected"][here])


def test_noise_of_control_cells_is_taken_out_of_them_and_of_perturbed_cells_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    controls = {c: rng.normal(5.5, 0.3, len(GENES)).astype(np.float32) for c in "ACD"}
    noise = {c: np.full(len(GENES), 0.2, np.float32) for c in controls}
    labels, effects = (("TNF",) * 3, tuple("ACD")), rng.normal(size=(3, len(GENES))).astype(np.float32)
    table = EffectTable(*labels, np.ones(3, int), effects, controls, GENES, control_errors=noise)
    request = ask(tmp_path, table, replace(NEW, paired=0.0, mean=0.0, correction=1.0))
    nothing, remarks = run(replace(request, perturbations=("TNF",)))
    assert "noise of the context's mean control cell is taken out" in remarks[0]
    here, control = of(nothing, keys.PREDICTED, "TNF", "NK"), of(nothing, keys.PREDICTED_CONTROL, "control", "NK")
    # without an effect no gene differs between perturbed and control cells, though both are moved
    np.testing.assert_allclose(nothing.X[here], nothing.X[control], atol=1e-5)
    moved = nothing.X[control].mean(0) - nothing.layers["corrected"][control].mean(0)
    source = open_dataset(tmp_path / "cells.h5ad")
    raw = source.read("X", source.control_rows("NK"))
    cells = np.log1p(raw / raw.sum(axis=1, keepdims=True) * 1e4)
    likeness = Likeness(table, {"NK": cells.mean(0)}, {"NK": cells.var(0, ddof=1) / len(cells)})
    assert np.corrcoef(moved, likeness.correction("NK"))[0, 1] > 0.9 and np.abs(moved).max() > 0.01
    set_calibration(tmp_path / "model", replace(NEW, paired=0.0, mean=0.5, correction=1.0))
    with_effect, _ = run(replace(request, perturbations=("TNF",)), "effect.h5ad")
    np.testing.assert_array_equal(with_effect.X[control], nothing.X[control])
    up = (with_effect.X[here] > nothing.X[here]).all(axis=0)
    likeness_effect = 0.5 * likeness.likeness_weighted("TNF", "NK").effect
    assert up.any() and (np.sign(likeness_effect[up]) == 1).all()
    measured = (with_effect.obs[keys.KIND].isin([keys.OBSERVED, keys.OBSERVED_CONTROL])).to_numpy()
    np.testing.assert_array_equal(with_effect.X[measured], with_effect.layers["corrected"][measured])
    assert json.loads(with_effect.uns[keys.MANIFEST])[keys.X_KIND] == "mixture"
