"""One condition, one number: the demo's held-out block by the training's scores, its card, the test, an evaluation, and the Genes page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from state_engine import keys
from state_engine.analysis.effects import compare
from state_engine.checkpoints.load import load_model
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import parse_plan
from state_engine.effects.means import load_means
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest, PredictedFile, split_of_card
from state_engine.library.datasets import DEMO_PATH
from state_engine.prediction.measured_means import measure
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.train.cells import choose_inputs, read_training_cells
from state_engine.train.held_out_scores import by_condition, score_groups
from state_engine.train.request import TrainRequest

MODEL = DEMO_PATH.parent / "model"
LABEL, CONTEXT = "TNF", "B"
# method -> what a training calls its MAE and r
METHODS = {
    "corrected": ("mae_corrected", "r_paired"),
    "raw": ("mae_raw", "r_raw"),
    "mean of other contexts": ("mae_mean", "r_mean"),
}
Numbers = dict[tuple[str, str], float]


def of_table(folder: Path) -> Numbers:
    table = pd.read_csv(folder / "metrics.csv", keep_default_na=False)
    here = (
        table[(table.perturbation == LABEL) & (table.context == CONTEXT)].set_index(["method", "metric"])["value"].astype(float)
    )
    return {(m, n): here[m, name] for m in METHODS for n, name in (("mae", "expr_mae"), ("r", "delta_pearson"))}


def of_page(folder: Path, n: int) -> tuple[Numbers, Numbers]:
    """What the Genes page and an evaluation say of a prediction of n cells."""
    path = folder / "result.h5ad"
    asked = PredictionRequest(str(DEMO_PATH), str(MODEL), (LABEL,), (CONTEXT,), cells=n, observed=2000, device="cpu")
    folder.mkdir()
    predict(asked, path)
    card = load_model(MODEL).card
    measure(asked, card, folder / "observed_means.npz")
    scores = {s.method: s for s in compare(open_result(path), LABEL, CONTEXT, load_means(folder / "observed_means.npz")).scores}
    page = {(m, n): getattr(scores[m], name) for m in METHODS for n, name in (("mae", "mae"), ("r", "pearson"))}
    choices = Choices(perturbation_key=keys.PERTURBATION, control=card.control, context_key=keys.CONTEXT, scale="log1p")
    files = PredictedFile(str(path), "corrected"), PredictedFile(str(path), "raw", "layers/raw")
    evaluate(EvaluationRequest(files, str(path), choices, by_kind=True, effects=str(folder)), folder / "out")
    return page, of_table(folder / "out")


def test_a_held_out_condition_has_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    loaded, dataset = load_model(MODEL), open_dataset(DEMO_PATH)
    text = split_of_card(loaded.card, dataset)
    plan = parse_plan(text)
    split = apply_plan(plan, [(plan.datasets[0][0], dataset)])
    cells = read_training_cells(split, choose_inputs(split, TrainRequest()), TrainRequest(), tmp_path)
    order = [loaded.card.perturbations.index(p) for p in cells.perturbations]
    groups = [g for g in cells.groups["test"] if (cells.perturbations[g.perturbation], g.context) == (LABEL, CONTEXT)]
    (trained,) = by_condition(score_groups(loaded.module, loaded.perturbation_features[order], cells, groups, 42))
    card = next(c.scores for c in loaded.card.training.conditions if (c.perturbation, c.context) == (LABEL, CONTEXT))
    evaluate_held_out(HeldOutRequest(model=str(MODEL), split=text, device="cpu"), tmp_path / "test")
    page, evaluation = of_page(tmp_path / "all", len(dataset.control_rows(CONTEXT)))
    numbers = {
        "training": {
            (m, n): trained.scores[name] for m, names in METHODS.items() for n, name in zip(("mae", "r"), names, strict=True)
        },
        "card": {(m, n): card[name] for m, names in METHODS.items() for n, name in zip(("mae", "r"), names, strict=True)},
        "test": of_table(tmp_path / "test"),
        "evaluation": evaluation,
    }
    for way, found in numbers.items():
        assert found == pytest.approx(page, abs=2e-6), way
    # of fewer cells, which of the control cells were drawn is no part of the number
    few_page, few = of_page(tmp_path / "few", 64)
    assert few == pytest.approx(few_page, abs=2e-6)
    assert few["corrected", "mae"] == pytest.approx(page["corrected", "mae"], rel=0.02)
