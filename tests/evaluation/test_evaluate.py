"""Predicted against measured cells: every metric by hand, baselines by hand, refusals, seeds, words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.data.dataset import Choices
from state_engine.errors import (
    ConfigError,
    GeneError,
    JobCancelled,
    LabelError,
    RequestError,
    RunError,
    ScaleError,
    StateError,
)
from state_engine.evaluation.effects_file import read_condition
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.report import EVALUATION, Evaluation, evaluation_lines, read_evaluation
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.options import command
from state_engine.plain import from_plain, to_plain
from state_engine.progress import Progress

GENES = ("A", "B", "C", "D")
CONTROL = "ctrl"
CHOICES = Choices(perturbation_key="p", control=CONTROL, context_key="c")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


def cells(means: dict[tuple[str, str], Sequence[float]], spread: float = 0.25, genes: Sequence[str] = GENES) -> ad.AnnData:
    """Two cells a condition, their mean plus and minus `spread`: (perturbation, context) -> mean log1p expression."""
    rows, labels, contexts = [], [], []
    for (p, c), mean in means.items():
        rows += [np.array(mean) + spread, np.array(mean) - spread]
        labels += [p, p]
        contexts += [c, c]
    obs = pd.DataFrame({"p": labels, "c": contexts}, index=[f"cell {i}" for i in range(len(rows))]).astype("category")
    return ad.AnnData(sp.csr_matrix(np.array(rows, np.float32)), obs=obs, var=pd.DataFrame(index=list(genes)))


# controls of the two contexts differ; effects are chosen so that every sum is exact in binary
MEASURED = {
    (CONTROL, "T"): (1.0, 2.0, 3.0, 0.5),
    ("x", "T"): (2.0, 2.0, 2.5, 0.5),
    ("y", "T"): (1.0, 3.0, 3.0, 1.5),
    (CONTROL, "B"): (2.0, 1.0, 1.0, 1.0),
    ("x", "B"): (2.5, 1.0, 0.5, 1.0),
    ("y", "B"): (2.0, 1.5, 1.0, 2.0),
}
PREDICTED = {
    ("x", "T"): (1.5, 2.25, 2.5, 0.5),
    ("y", "T"): (1.0, 2.5, 3.0, 1.0),
    ("x", "B"): (2.5, 1.0, 1.0, 1.0),
    ("y", "B"): (2.5, 1.0, 0.5, 1.0),
}


def ask(folder: Path, predicted: ad.AnnData, measured: ad.AnnData, **changes: object) -> EvaluationRequest:
    folder.mkdir(exist_ok=True)
    predicted.write_h5ad(folder / "p.h5ad")
    measured.write_h5ad(folder / "r.h5ad")
    request = EvaluationRequest((PredictedFile(str(folder / "p.h5ad")),), str(folder / "r.h5ad"), CHOICES)
    return replace(request, **changes)  # type: ignore[arg-type]


def values(folder: Path) -> dict[tuple[str, str, str, str], float]:
    table = pd.read_csv(folder / "metrics.csv", keep_default_na=False)
    return {(r.method, r.perturbation, r.context, r.metric): float(r.value) for r in table.itertuples()}


# ---- by hand ----


def test_metrics_of_means_by_hand(tmp_path: Path) -> None:
    evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED)), tmp_path / "out")
    found = values(tmp_path / "out")
    # x in T: predicted minus measured (-0.5, 0.25, 0, 0); effects (0.5, 0.25, -0.5, 0) and (1, 0, -0.5, 0)
    key = ("prediction", "x", "T")
    assert found[*key, "expr_mae"] == pytest.approx(0.75 / 4)
    assert found[*key, "expr_mse"] == pytest.approx((0.25 + 0.0625) / 4)
    assert found[*key, "delta_cosine"] == pytest.approx((0.5 + 0.25) / np.sqrt(0.5625 * 1.25), rel=1e-5)
    a, b = np.array([0.5, 0.25, -0.5, 0]) - 0.0625, np.array([1, 0, -0.5, 0]) - 0.125
    assert found[*key, "delta_pearson"] == pytest.approx(float(a @ b / np.sqrt((a @ a) * (b @ b))), rel=1e-5)
    # in T each prediction is nearest to its own effect; in B the prediction of y is what x does, and the prediction of x
    # (0.5, 0, 0, 0) is at 0.5 from x and at 2 from y
    assert [found["prediction", p, c, "pds_l1"] for p, c in (("x", "T"), ("y", "T"), ("x", "B"), ("y", "B"))] == [1, 1, 1, 0]


def test_baselines_by_hand(tmp_path: Path) -> None:
    made = evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED)), tmp_path / "out")
    found = values(tmp_path / "out")
    assert found["no change", "x", "T", "expr_mae"] == pytest.approx(1.5 / 4)
    assert ("no change", "x", "T", "delta_pearson") not in found and ("no change", "x", "T", "delta_cosine") not in found
    # the effect of x in B, (0.5, 0, -0.5, 0), on the control of T: off by 0.5 in the first gene
    assert found["mean of other contexts", "x", "T", "expr_mae"] == pytest.approx(0.5 / 4)
    # the effect of y in T, (0, 1, 0, 1), on the control of T: (1, 3, 3, 1.5) against (2, 2, 2.5, 0.5)
    assert found["mean of the context", "x", "T", "expr_mae"] == pytest.approx(3.5 / 4)
    ridge = next(m for m in made.methods if m.name == "ridge")
    assert ridge.n_conditions == 0 and "No features" in ridge.reason
    assert "sees" not in made.effects_source and "they see other held-out cells" in made.effects_source
    kept = read_condition(tmp_path / "out" / "effects.npz", "x", "T")
    assert kept is not None and kept.genes == GENES
    assert kept.measured.tolist() == [1, 0, -0.5, 0] and kept.methods["mean of other contexts"].tolist() == [0.5, 0, -0.5, 0]


def test_an_effect_moves_the_mean_and_not_below_zero(tmp_path: Path) -> None:
    """Control cells of T at 0.5 +- 0.5 in gene D, of which x takes 0.75 away in B: the mean becomes 0 (0.125 if each cell were cut at 0)."""
    measured = {k: list(v) for k, v in MEASURED.items()}
    measured["x", "B"][3] = 0.5
    measured[CONTROL, "B"][3] = 1.25
    evaluate(ask(tmp_path, cells(PREDICTED, 0.5), cells(measured, 0.5)), tmp_path / "out")
    kept = read_condition(tmp_path / "out" / "effects.npz", "x", "T")
    assert kept is not None and kept.methods["mean of other contexts"][3] == pytest.approx(-0.5)


def test_the_summary_is_a_mean_of_conditions_and_says_n(tmp_path: Path) -> None:
    measured = {k: v for k, v in MEASURED.items() if k != ("y", "B")}
    made = evaluate(ask(tmp_path, cells(PREDICTED), cells(measured)), tmp_path / "out")
    found = values(tmp_path / "out")
    own = [found["prediction", p, c, "expr_mae"] for p, c in (("x", "T"), ("y", "T"), ("x", "B"))]
    assert made.value("prediction", "expr_mae") == pytest.approx(np.mean(own))
    assert made.value("prediction", "expr_mae", "T") == pytest.approx(np.mean(own[:2]))
    other = next(m for m in made.methods if m.name == "mean of other contexts")
    assert other.n_conditions == 2 and "1 of 3 conditions has none: y in T was not measured" in other.reason
    against = next(c for c in made.comparisons if c.baseline == "mean of other contexts" and c.metric == "expr_mae")
    assert against.n == 2 and against.value == pytest.approx((own[0] + own[2]) / 2)  # the same two conditions on both sides
    assert any("Predicted but not measured with control cells, so not scored: B x y" in r for r in made.remarks)
    # x alone in B has nobody to be told apart from
    assert ("prediction", "x", "B", "pds_l1") not in found


def test_the_verdict_says_where_a_mean_is_better(tmp_path: Path) -> None:
    made = evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED)), tmp_path / "out")
    text = "\n".join(evaluation_lines(made))
    assert "Prediction. Worse than the mean of other contexts: MAE " in text
    assert "Prediction. Better than no change: MAE " in text and "conditions" in text
    for words in ("cell-eval2 0.20", "measured control cells (4, 'ctrl')", "4 conditions in 2 contexts", "anndata "):
        assert words in text


# ---- what is kept ----


def test_what_is_kept_reads_back(tmp_path: Path) -> None:
    made = evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED), held_out="Held out: B."), tmp_path / "out")
    assert read_evaluation(tmp_path / "out") == made and from_plain(Evaluation, to_plain(made)) == made
    assert made.held_out in evaluation_lines(made)
    assert read_evaluation(tmp_path) is None and read_condition(tmp_path / "none.npz", "x", "T") is None
    table = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert list(table.columns[:6]) == ["method", "seed", "perturbation", "context", "metric", "value"]
    # numbers of a whole context, such as the best amplitude, are of no condition's cells
    assert set(table["n_measured"].dropna()) == {2} and set(table["n_control"]) == {2}
    assert set(table.loc[table["n_measured"].isna(), "metric"]) == {"best_amplitude", "amplitude_gain"}
    assert table.loc[table.method == "no change", "n_predicted"].isna().all()
    (tmp_path / "out" / EVALUATION).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_evaluation(tmp_path / "out")
    (tmp_path / "out" / "effects.npz").write_bytes(b"nothing")
    with pytest.raises(RunError):
        read_condition(tmp_path / "out" / "effects.npz", "x", "T")


def test_seeds_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    request = ask(tmp_path, cells(PREDICTED), cells(MEASURED))
    shifted = {k: tuple(np.array(v) + 0.5) for k, v in PREDICTED.items()}
    cells(shifted).write_h5ad(tmp_path / "q.h5ad")
    both = replace(request, predicted=(*request.predicted, PredictedFile(str(tmp_path / "q.h5ad"))))
    one = evaluate(request, tmp_path / "one")
    other = evaluate(replace(request, predicted=both.predicted[1:]), tmp_path / "other")
    made = evaluate(both, tmp_path / "both")
    a, b = one.value("prediction", "expr_mae"), other.value("prediction", "expr_mae")
    assert a is not None and b is not None
    row = next(r for r in made.summary if (r.method, r.metric, r.context) == ("prediction", "expr_mae", ""))
    assert row.value == pytest.approx((a + b) / 2) and row.spread == pytest.approx(abs(a - b) / np.sqrt(2)) and row.n == 4
    assert next(r for r in made.summary if r.method == "no change").spread is None
    assert made.methods[0].files == tuple(p.path for p in both.predicted)
    assert "±" in "\n".join(evaluation_lines(made))


def test_a_raw_layer_may_be_negative(tmp_path: Path) -> None:
    predicted = cells(PREDICTED)
    predicted.layers["raw"] = predicted.X.toarray() - 1
    request = ask(tmp_path, predicted, cells(MEASURED))
    raw = PredictedFile(request.predicted[0].path, "raw", "layers/raw")
    made = evaluate(replace(request, predicted=(*request.predicted, raw)), tmp_path / "out")
    found = values(tmp_path / "out")
    assert found["raw", "x", "T", "expr_mae"] == pytest.approx((1.5 + 0.75 + 1 + 1) / 4)
    assert {m.name for m in made.methods} >= {"raw", "prediction"}


def test_counts_are_normalised_while_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = ad.AnnData(
        sp.csr_matrix(rng.poisson(5, (40, 30)).astype(np.float32)),
        obs=pd.DataFrame({"p": ["x", "y", CONTROL, CONTROL] * 10}, index=[f"c{i}" for i in range(40)]).astype("category"),
        var=pd.DataFrame(index=[f"g{i}" for i in range(30)]),
    )
    logs = counts.copy()
    dense = counts.X.toarray()
    logs.X = np.log1p(dense / dense.sum(1, keepdims=True) * 1e4)
    request = ask(tmp_path, logs, counts, choices=Choices(perturbation_key="p", control=CONTROL))
    made = evaluate(request, tmp_path / "out")
    assert made.value("prediction", "expr_mae") == pytest.approx(0, abs=1e-5)
    assert made.value("prediction", "delta_pearson") == pytest.approx(1, abs=1e-6)


def test_whose_controls(tmp_path: Path) -> None:
    with_own = PREDICTED | {(CONTROL, "T"): (1.5, 2.5, 3.5, 1.0), (CONTROL, "B"): (2.0, 1.0, 1.0, 1.0)}
    request = ask(tmp_path, cells(with_own), cells(MEASURED))
    real = evaluate(request, tmp_path / "real")
    own = evaluate(replace(request, controls="predicted"), tmp_path / "own")
    assert "measured control cells" in real.control_source and "of each prediction (4" in own.control_source
    assert real.value("prediction", "expr_mae") == own.value("prediction", "expr_mae")
    # effect of x in T from its own control: (0, -0.25, -1, -0.5) against (1, 0, -0.5, 0)
    assert values(tmp_path / "own")["prediction", "x", "T", "delta_cosine"] == pytest.approx(
        0.5 / np.sqrt(1.3125 * 1.25), rel=1e-5
    )


def test_a_layer_may_say_nothing_about_a_condition(tmp_path: Path) -> None:
    """As a calibrated layer does where no other context tells the effect: NaN there, and no numbers."""
    predicted = cells(PREDICTED)
    layer = predicted.X.toarray()
    layer[((predicted.obs["p"] == "y") & (predicted.obs["c"] == "B")).to_numpy()] = np.nan
    predicted.layers["calibrated"] = layer
    request = ask(tmp_path, predicted, cells(MEASURED))
    more = PredictedFile(request.predicted[0].path, "calibrated", "layers/calibrated")
    made = evaluate(replace(request, predicted=(*request.predicted, more)), tmp_path / "out")
    found = values(tmp_path / "out")
    assert len(made.conditions) == 4 and ("calibrated", "y", "B", "expr_mae") not in found
    for p, c in (("x", "T"), ("y", "T"), ("x", "B")):
        for metric in ("expr_mae", "pds_l1", "delta_pearson"):
            assert found["calibrated", p, c, metric] == found["prediction", p, c, metric]
    method = next(m for m in made.methods if m.name == "calibrated")
    assert method.n_conditions == 3 and "1 of 4" in method.reason
    against = next(c for c in made.comparisons if (c.method, c.baseline, c.metric) == ("calibrated", "no change", "expr_mae"))
    assert against.n == 3


def test_a_result_holds_both_sides(tmp_path: Path) -> None:
    """Predicted and measured cells of a prediction's result are told apart by their kind."""
    parts = []
    for means, kind in ((PREDICTED, "predicted"), (MEASURED, "observed")):
        part = cells(means)
        part.obs["kind"] = [
            k if p != CONTROL else "observed control" for p, k in zip(part.obs["p"], [kind] * part.n_obs, strict=True)
        ]
        parts.append(part)
    pairs = cells({k: np.array(v) + 1 for k, v in MEASURED.items() if k[0] == CONTROL})
    pairs.obs["kind"] = "predicted control"
    both = ad.concat([*parts, pairs], index_unique="-")
    both.write_h5ad(tmp_path / "result.h5ad")
    path = str(tmp_path / "result.h5ad")
    made = evaluate(EvaluationRequest((PredictedFile(path),), path, CHOICES, by_kind=True), tmp_path / "out")
    evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED)), tmp_path / "apart")
    assert values(tmp_path / "out") == pytest.approx(values(tmp_path / "apart"))
    assert made.control_source == "measured control cells (4, 'ctrl')"
    with pytest.raises(LabelError, match="is no result of a prediction"):
        evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED), by_kind=True), tmp_path / "no")


# ---- refusals ----


def test_refusals_are_sentences(tmp_path: Path) -> None:
    request = ask(tmp_path, cells(PREDICTED), cells(MEASURED))
    out = tmp_path / "out"
    with pytest.raises(LabelError, match="no column 'q' for the perturbation"):
        evaluate(replace(request, choices=replace(CHOICES, perturbation_key="q")), out)
    with pytest.raises(LabelError, match="no control label 'nobody'"):
        evaluate(replace(request, choices=replace(CHOICES, control="nobody")), out)
    with pytest.raises(LabelError, match="not named"):
        evaluate(replace(request, choices=replace(CHOICES, perturbation_key=None)), out)
    with pytest.raises(LabelError, match="has no control cells"):
        evaluate(replace(request, controls="predicted"), out)
    others = {(f"z{p}", c): v for (p, c), v in PREDICTED.items()}
    with pytest.raises(
        RequestError, match=r"both predicted and measured.*B x zx.*Measured, in contexts with control cells: B x x"
    ):
        evaluate(ask(tmp_path / "l", cells(others), cells(MEASURED)), out)
    assert not out.exists()
    with pytest.raises(ConfigError):
        replace(request, predicted=())
    with pytest.raises(ConfigError):
        replace(request, profile="all")
    with pytest.raises(ConfigError):
        replace(request, profile="full", cell_eval="/usr/bin/python3")


def test_other_genes_are_counted(tmp_path: Path) -> None:
    request = ask(tmp_path, cells(PREDICTED, genes=("A", "B", "C", "E")), cells(MEASURED))
    with pytest.raises(GeneError, match=r"3 are in all files: 4 were predicted, 4 measured. Not in all: E"):
        evaluate(request, tmp_path / "out")
    made = evaluate(replace(request, common_genes=True), tmp_path / "out")
    assert made.n_genes == 3 and "3 are in all files" in " ".join(made.remarks)
    with pytest.raises(GeneError, match="share no gene"):
        evaluate(ask(tmp_path, cells(PREDICTED, genes=("E", "F", "G", "H")), cells(MEASURED)), tmp_path / "out")
    reordered = cells(PREDICTED)[:, ["C", "A", "D", "B"]].copy()
    same = evaluate(ask(tmp_path, reordered, cells(MEASURED)), tmp_path / "out")
    assert same.value("prediction", "expr_mae") == evaluate(
        ask(tmp_path, cells(PREDICTED), cells(MEASURED)), out_of(tmp_path)
    ).value("prediction", "expr_mae")


def out_of(folder: Path) -> Path:
    return folder / "again"


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (-1.0, "negative|down to")])
def test_bad_values_are_counted(tmp_path: Path, value: float, words: str) -> None:
    bad = cells(PREDICTED)
    dense = bad.X.toarray()
    dense[3, 2] = value
    bad.X = dense
    with pytest.raises(ScaleError, match=words):
        evaluate(ask(tmp_path, bad, cells(MEASURED)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage.startswith("Scoring"):
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        evaluate(ask(tmp_path, cells(PREDICTED), cells(MEASURED)), tmp_path / "out", stop)
    assert not (tmp_path / "out").exists()


def test_effects_of_a_run_make_the_baselines(tmp_path: Path) -> None:
    from state_engine.effects.store import save_effects
    from state_engine.effects.table import EffectTable

    request = ask(tmp_path, cells(PREDICTED), cells(MEASURED))
    with pytest.raises(RunError, match="no effects of training cells"):
        evaluate(replace(request, effects=str(tmp_path)), tmp_path / "out")
    table = EffectTable(
        ("x", "y"), ("N", "N"), np.array([5, 5]), np.array([[0, 0, 0, 1, 0.5], [0, 0, 0, 0, 0.25]], np.float32),
        {"N": np.ones(5, np.float32)}, ("E", "D", "C", "B", "A"),
    )  # fmt: skip
    (tmp_path / "run" / "model").mkdir(parents=True)
    save_effects(tmp_path / "run" / "model", table)
    made = evaluate(replace(request, effects=str(tmp_path / "run")), tmp_path / "out")
    # x in training: (A, B, C, D) moves by (0.5, 1, 0, 0); on the control of T (1.5, 3, 3, 0.5) against (2, 2, 2.5, 0.5)
    assert values(tmp_path / "out")["mean of other contexts", "x", "T", "expr_mae"] == pytest.approx(2 / 4)
    context = next(m for m in made.methods if m.name == "mean of the context")
    assert context.n_conditions == 0 and "in the training cells" in context.reason
    assert "2 conditions in the training cells; no cell scored here is among them" in made.effects_source
    with pytest.raises(GeneError, match="1 of 4 is not among its 5 features: Q"):
        renamed = ask(tmp_path, cells(PREDICTED, genes=("A", "B", "C", "Q")), cells(MEASURED, genes=("A", "B", "C", "Q")))
        evaluate(replace(renamed, effects=str(tmp_path / "run")), tmp_path / "out")


def test_a_ridge_regression_on_features(tmp_path: Path) -> None:
    """Four perturbations whose effects are a line in one feature: each is found from the other three, the one without features not."""
    line = {"w": 0.0, "x": 1.0, "y": 2.0, "z": 3.0}
    direction = np.array([0.25, -0.125, 0.5, 0.0])
    measured = {(CONTROL, "T"): np.ones(4)} | {(p, "T"): np.ones(4) + f * direction for p, f in line.items()}
    measured["other", "T"] = np.array([1.0, 2.0, 1.0, 1.0])
    (tmp_path / "f.csv").write_text("label,a\n" + "".join(f"{p},{f}\n" for p, f in line.items()))
    request = ask(tmp_path, cells({k: v for k, v in measured.items() if k[0] != CONTROL}), cells(measured))
    made = evaluate(replace(request, features=str(tmp_path / "f.csv")), tmp_path / "out")
    found = values(tmp_path / "out")
    assert [found["ridge", p, "T", "expr_mae"] for p in line] == pytest.approx([0] * 4, abs=0.01)
    ridge = next(m for m in made.methods if m.name == "ridge")
    assert ridge.n_conditions == 4 and "other in T has no features" in ridge.reason
    (tmp_path / "f.csv").write_text("label,a\nx,1\ny,2\n")
    made = evaluate(replace(request, features=str(tmp_path / "f.csv")), tmp_path / "out")
    assert "three different perturbations" in next(m for m in made.methods if m.name == "ridge").reason


# ---- the command ----


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from state_engine.cli.main import main

    request = ask(tmp_path, cells(PREDICTED), cells(MEASURED))
    words = command(request, output=str(tmp_path / "out")).split()[3:]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "no change" in said and "Worse than" in said and "Metrics: cell-eval2" in said
    assert main([*words, "--json"]) == 0
    assert from_plain(Evaluation, json.loads(capsys.readouterr().out)).profile == "minimal"
    assert main([w.replace("ctrl", "nobody") for w in words]) == 1
    assert "no control label 'nobody'" in capsys.readouterr().err
    with pytest.raises(StateError):
        evaluate(replace(request, real=str(tmp_path / "none.h5ad")), tmp_path / "out")


def test_files_of_two_depths_are_compared_at_that_of_the_prediction(tmp_path: Path) -> None:
    from tests.evaluation.screens import log1p, screen

    counts, deep = screen(1, n=6), log1p(screen(1, n=6), 1e6)
    choices = Choices(perturbation_key="target_gene", control="non-targeting", context_key="context")
    for predicted, measured, words in (
        (deep, log1p(counts), "r.h5ad was normalised to 10,000 per cell; its values are brought to 1,000,000"),
        (deep, counts, "The counts of r.h5ad are normalised to 1,000,000 per cell"),
        (log1p(counts), deep, "r.h5ad was normalised to 1,000,000 per cell; its values are brought to 10,000"),
    ):
        made = evaluate(ask(tmp_path, predicted, measured, choices=choices), tmp_path / "out")
        assert any(words in r for r in made.remarks)
        table = pd.read_csv(tmp_path / "out" / "metrics.csv")
        mae = table[(table["metric"] == "expr_mae") & (table["method"] == "prediction")]["value"]
        assert len(mae) and mae.max() < 1e-5
