"""One rule for adding an effect: the mean moves as it says and not below 0, and every place that scores a baseline gets one number."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine import keys
from state_engine.analysis.effects import compare
from state_engine.checkpoints.load import load_model
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.expression import normalise
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan
from state_engine.effects.apply import applied_mean, apply_effect, below_total, within_total
from state_engine.effects.means import effect_table, load_means
from state_engine.effects.store import save_effects
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.prediction.measured_means import measure
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.train.calibration import calibrate
from state_engine.train.cell_features import DenseFeatures
from state_engine.train.cells import Group, TrainingCells
from state_engine.train.conditions import output_sources
from state_engine.train.held_out_scores import score_groups
from tests.small import GENES, write_cells, write_model


def test_shifted_cells_have_exactly_the_mean_that_was_asked_for():
    rng = np.random.default_rng(0)
    cells = (rng.random((200, 5)) * (rng.random((200, 5)) < 0.3)).astype(np.float32)  # most cells lack a gene
    mean, zeros = cells.mean(axis=0, dtype=np.float64), cells == 0
    effect = np.array([0.2, -0.05, 0.0, -9.0, -0.1])
    moved = apply_effect(cells, effect, mean)
    np.testing.assert_allclose(moved.mean(axis=0), applied_mean(mean, effect), atol=1e-6)
    np.testing.assert_array_equal(apply_effect(cells, effect), moved)  # their own mean is the default
    assert (moved >= 0).all()
    assert (moved[:, 1:][zeros[:, 1:]] == 0).all()  # what goes down stays undetected where it was
    cut = np.maximum(cells + effect, 0).mean(axis=0)
    assert cut[1] > mean[1] + effect[1] + 0.01  # why cells are not simply cut at 0


def test_an_embedding_is_shifted_as_it_is():
    cells = np.array([[1.0, -2.0]], dtype=np.float32)
    assert apply_effect(cells, np.array([-3.0, 1.0]), nonnegative=False).tolist() == [[-2, -1]]


def test_a_gene_that_no_cell_has_stays_absent_when_it_should_go_down():
    cells = np.zeros((3, 1), dtype=np.float32)
    assert apply_effect(cells, np.array([-1.0])).tolist() == [[0], [0], [0]]


# ---- one baseline, one number ----

HELD_OUT = ("IFNB1", "B")
PLAN = SplitPlan((("d", "x"),), ("d",), fewshot=(FewShot("d", "B", val=("IFNB1",)),))


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """Shallow counts, so that most cells lack most genes; IFNB1 turns half of the genes down."""
    path = write_cells(tmp_path / "cells.h5ad", 480)
    data = anndata.read_h5ad(path)
    rng = np.random.default_rng(3)
    rate = np.tile(rng.uniform(0.2, 1.5, len(GENES)), (data.n_obs, 1))
    rate[(data.obs["perturbation"] == "IFNB1").to_numpy()] *= np.where(np.arange(len(GENES)) % 2, 0.3, 2.0)
    data.X = sp.csr_matrix(rng.poisson(rate).astype(np.float32) + (np.arange(len(GENES)) == 0))
    data.write_h5ad(path)
    return path


def test_a_baseline_has_one_number_wherever_it_is_scored(counts: Path, tmp_path: Path) -> None:
    """The mean of other contexts for the same held-out condition: training, calibration, Predict, Evaluate, the Genes page."""
    folder, label, context = tmp_path / "model", *HELD_OUT
    card = write_model(folder)
    split = apply_plan(PLAN, [("d", open_dataset(counts))])
    dataset = split.sources[0].dataset
    loaded = load_model(folder)
    table = effect_table(split, output_sources(split, card), GENES)
    save_effects(folder, table)
    x = normalise(dataset.read("X", np.arange(dataset.n_cells)))
    control, truth = (x[dataset.rows(p, context)].mean(axis=0, dtype=np.float64) for p in ("control", label))
    assert (x == 0).mean() > 0.3
    effect = table.mean_of_perturbation(label, context)
    assert effect is not None
    expected = np.abs(applied_mean(control, effect) - truth).mean()
    # cutting each cell at 0 would give another number
    cut = np.maximum(x[dataset.rows("control", context)] + effect, 0).mean(axis=0, dtype=np.float64)
    assert abs(np.abs(cut - truth).mean() - expected) > 0.01

    calibration = calibrate(loaded, table, split)
    assert calibration is not None and calibration.conditions == 1
    rows = {(p, c): dataset.rows(p, c) for p in ("control", label) for c in ("B", "NK")}
    cells = TrainingCells(
        features=DenseFeatures(x), targets=None, perturbations=("control", label), trained=("control", label), contexts=("B", "NK"),
        batches=(), batch=np.full(len(x), -1),
        groups={"train": (Group(1, "NK", rows[label, "NK"], rows["control", "NK"]),), "val": (), "test": ()},
    )  # fmt: skip
    group = Group(1, context, rows[label, context], rows["control", context])
    (trained,) = score_groups(loaded.module, loaded.perturbation_features[:2], cells, (group,), seed=0)

    run = tmp_path / "run"
    run.mkdir()
    most = max(map(len, rows.values()))
    asked = PredictionRequest(
        str(counts), str(folder), (label,), (context,), cells=len(rows["control", context]), observed=most, device="cpu",
        method="mean of other contexts",
    )  # fmt: skip
    predict(asked, run / "result.h5ad")
    result = open_result(run / "result.h5ad")
    predicted = result.mean(result.rows(keys.PREDICTED, context, label))
    measure(asked, card, run / "observed_means.npz")
    page = compare(result, label, context, load_means(run / "observed_means.npz"))

    choices = Choices(perturbation_key=keys.PERTURBATION, control="control", context_key=keys.CONTEXT)
    path = str(run / "result.h5ad")
    evaluate(EvaluationRequest((PredictedFile(path),), path, choices, by_kind=True, effects=str(folder)), tmp_path / "out")
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv").set_index(["method", "metric", "perturbation", "context"])["value"]

    numbers = {
        "training": trained.mae_mean,
        "calibration": calibration.scores["mae_mean"],
        "predict": float(np.abs(predicted - truth).mean()),
        "genes page": next(s.mae for s in page.scores if s.method == "mean of other contexts"),
        "genes page, as a prediction": page.scores[0].mae,
        "evaluate": metrics["mean of other contexts", "expr_mae", label, context],
        "evaluate, as a prediction": metrics["prediction", "expr_mae", label, context],
    }
    assert numbers == pytest.approx(dict.fromkeys(numbers, expected), rel=1e-4)


def test_no_gene_holds_more_than_a_whole_cell() -> None:
    cells = np.array([[1.0, 20, 0], [0.5, 9.2, 3]], np.float32)
    found = below_total(cells, 10_000)
    assert found[0].tolist() == [1, pytest.approx(np.log1p(10_000)), 0] and (found[1] == cells[1]).all()
    assert found.dtype == np.float32 and below_total(cells, None) is cells


def test_a_cell_beyond_the_total_is_scaled_back_to_it() -> None:
    cells = np.log1p(np.array([[6000.0, 3000, 1000], [20_000, 20_000, 0], [10, 0, 0]], np.float32))
    found = within_total(cells, 10_000)
    np.testing.assert_array_equal(found[[0, 2]], cells[[0, 2]])  # within the total: to the bit
    np.testing.assert_allclose(np.expm1(found[1]), [5000, 5000, 0], rtol=1e-4)
    assert found.dtype == np.float32 and within_total(cells, None) is cells
    assert np.isfinite(within_total(np.full((1, 3), 200.0, np.float32), 10_000)).all()
