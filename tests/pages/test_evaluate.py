"""The Evaluate page without a browser: what is asked of the worker, and what a finished evaluation says. Jobs are done at once here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts.evaluate import charts as evaluatechart
from pages.parts.evaluate.answer import metric_table
from pages.parts.evaluate.conditions import offered, paired, title
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.report import EvaluatedCondition, EvaluatedMethod, Evaluation, read_evaluation
from state_engine.evaluation.request import EvaluationRequest, HeldOutRequest
from state_engine.evaluation.verdict import Comparison, SummaryRow, sentence, verdict
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.allowed import check_readable
from state_engine.library.datasets import DEMO_PATH, receive_upload
from state_engine.metrics.profiles import HOUSE
from state_engine.plain import from_plain, to_plain
from tests.evaluation.test_evaluate import CONTROL, MEASURED, PREDICTED, cells
from tests.pages.make_run import make_run
from tests.pages.opened import figures, opened, page_at, text
from tests.pages.queued import queued


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the page submits; evaluations of files are done at once, tests of models are not."""
    jobs: list[tuple[str, dict[str, Any]]] = []

    def submit(settings: Settings, request: object, title: str) -> tuple[str, str]:
        run = queued(settings, request, title)
        jobs.append((run.manifest.kind, run.request))
        run.start()
        if isinstance(request, EvaluationRequest):
            evaluate(request, run.path)
        run.finish("done")
        return "job", run.id

    monkeypatch.setattr(local, "submit", submit)
    return jobs


def page_of(monkeypatch: pytest.MonkeyPatch, home: Path, **thread: str) -> AppTest:
    page = opened(monkeypatch, "evaluate", None, home, **thread)
    assert not page.exception
    return page


def way(page: AppTest, name: str) -> AppTest:
    page.segmented_control(key="evaluate_what").set_value(name).run()
    assert not page.exception
    return page


# ---- asking ----


def test_an_empty_page_teaches_and_has_the_demo(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    page = page_of(monkeypatch, home)
    assert page.title[0].value == "How good is it?" and "No model was trained here yet" in text(page)
    page.button(key="evaluate_demo").click().run()
    ((kind, plain),) = asked
    request = from_plain(HeldOutRequest, plain)
    assert kind == "test" and Path(request.model) == DEMO_PATH.parent / "model" and "IFN-beta" in request.split
    check_readable(Settings(home), request.model)
    assert RunFolder.open(Settings(home), page.session_state["thread_evaluation"]).manifest.title.startswith("Demo model")
    assert "left no numbers" in text(page)
    assert "No finished prediction has measured cells" in text(way(page_of(monkeypatch, home), "A prediction"))


def test_a_prediction_is_compared_with_the_measured_cells_of_its_data_set(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    run = make_run(Settings(home), calibrated=True)
    page = way(page_of(monkeypatch, home, data=""), "A prediction")
    assert "4 measured conditions" in page.selectbox(key="evaluate_run").options[0]
    page.button(key="evaluate_start_run").click().run()
    assert not page.exception
    ((kind, plain),) = asked
    request = from_plain(EvaluationRequest, plain)
    assert kind == "evaluate" and request.by_kind and request.real == str(run.result)
    assert request.methods == ("corrected", "raw", "calibrated")
    said = text(page)
    # the raw prediction is off by 0.2 in every gene, the corrected one finds the measured effect
    assert "Better than no change" in said and "4 conditions in 2 contexts" in said and "Metrics: cell-eval2" in said
    assert "1 of 4 conditions is not predicted by it" in said
    # the verdict is a sentence; its numbers are folded
    (verdict_words,) = [box.value for box in (*page.info, *page.success, *page.warning) if "**" in box.value]
    assert verdict_words.count(".") <= 2 and len(verdict_words) < 160, verdict_words
    assert verdict_words.split("**")[2][:1] in ("", " "), "what follows the bold part stands apart, or the marks are shown"
    assert {"The numbers behind it", "What is missing, and why"} <= {e.label for e in page.expander}
    assert len(figures(page)) == 3  # skill, conditions, genes
    table = next(m.value for m in page.markdown if "MAE ↓" in m.value and "|:--|" in m.value)
    assert "Calibrated (n 3)" in table and "**" in table
    page.selectbox(key="evaluation_context").set_value("T").run()
    other = next(m.value for m in page.markdown if "MAE ↓" in m.value and "|:--|" in m.value)
    assert other != table and not page.exception
    again = page_of(monkeypatch, home, evaluation=page.session_state["thread_evaluation"])
    assert "Better than no change" in text(again)


def test_two_files(monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]) -> None:
    other = cells({pair: np.array(mean) + 1 for pair, mean in MEASURED.items()})
    screen = ad.concat([other, other], index_unique="-")  # an effect needs three cells of a condition
    for name, made in (("predicted.h5ad", cells(PREDICTED)), ("measured.h5ad", cells(MEASURED)), ("screen.h5ad", screen)):
        made.write_h5ad(tmp_path / name)
        with (tmp_path / name).open("rb") as file:
            receive_upload(Settings(home), name, file, (tmp_path / name).stat().st_size)
    page = way(page_of(monkeypatch, home), "Two files")
    for key, name in (("predicted", "predicted.h5ad"), ("real", "measured.h5ad")):
        box = page.selectbox(key=f"evaluate_{key}")
        box.set_value(next(o for o in box.options if o == name)).run()
    for key in ("predicted", "real"):
        page.selectbox(key=f"evaluate_{key}_perturbation").set_value("p").run()
        page.selectbox(key=f"evaluate_{key}_context").set_value("c").run()
    asked_for = {name: page.query_params[name] for name in ("what", "predicted", "real")}
    again = page_at(monkeypatch, "evaluate", None, home)
    for name, value in asked_for.items():
        again.query_params[name] = value
    again.run()
    assert again.segmented_control(key="evaluate_what").value == "Two files" and not again.exception
    assert [again.selectbox(key=f"evaluate_{key}").value for key in ("predicted", "real")] == [
        page.selectbox(key=f"evaluate_{key}").value for key in ("predicted", "real")
    ]
    page.multiselect(key="evaluate_control").set_value([CONTROL]).run()
    page.selectbox(key="evaluate_elsewhere_files").set_value("screen.h5ad").run()
    page.button(key="evaluate_start_files").click().run()
    assert not page.exception
    request = from_plain(EvaluationRequest, asked[0][1])
    assert request.choices == Choices(perturbation_key="p", control=CONTROL, context_key="c") == request.predicted_choices
    assert Path(request.measured_elsewhere).read_bytes()[:4] == b"\x89HDF" and request.elsewhere_choices is not None
    assert "Worse than the mean of other contexts" in text(page) and "| Measured elsewhere |" in text(page)
    page.selectbox(key="evaluation_metric").set_value("delta_pearson").run()
    assert not page.exception and "no change" not in page.selectbox(key="evaluation_guess").options
    page.selectbox(key="evaluation_method").set_value("mean of other contexts").run()
    assert "r = " in text(page)
    chosen = {"metric": "delta_pearson", "method": "mean of other contexts"}
    assert {name: page.query_params[name] for name in chosen} == chosen and "condition" not in page.query_params  # as usual
    other = page_at(monkeypatch, "evaluate", None, home, evaluation=page.session_state["thread_evaluation"])
    for name, value in chosen.items():
        other.query_params[name] = value
    other.run()
    assert other.selectbox(key="evaluation_metric").value == "delta_pearson" and not other.exception
    assert other.selectbox(key="evaluation_method").value == "mean of other contexts"


def test_a_table_of_effects(
    monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    cells(MEASURED).write_h5ad(tmp_path / "measured.h5ad")
    with (tmp_path / "measured.h5ad").open("rb") as file:
        receive_upload(Settings(home), "measured.h5ad", file, (tmp_path / "measured.h5ad").stat().st_size)
    table = tmp_path / "theirs.csv"
    table.write_text("perturbation,A,B,C,D\nx,1,0,0,0\ny,0,0.5,0,1\n")
    page = way(page_of(monkeypatch, home), "Two files")
    page.segmented_control(key="evaluate_kind").set_value("effects").run()
    # as the uploader leaves it; the upload itself is walked in the browser tests
    page.session_state["evaluate_effects_taken"] = (str(table), "theirs.csv: 2 conditions, 4 genes")
    page.selectbox(key="evaluate_real").set_value("measured.h5ad").run()
    page.selectbox(key="evaluate_real_perturbation").set_value("p").run()
    page.selectbox(key="evaluate_real_context").set_value("c").run()
    page.multiselect(key="evaluate_control").set_value([CONTROL]).run()
    page.button(key="evaluate_start_files").click().run()
    assert not page.exception
    request = from_plain(EvaluationRequest, asked[0][1])
    assert request.predicted[0].path == str(table) and request.predicted_choices is None
    assert "4 conditions in 2 contexts" in text(page)


# ---- answers ----

METRICS = HOUSE["minimal"].metrics
COMPARED = (
    Comparison("corrected", "no change", "expr_mae", 0.12, 0.11, 4, 1),
    Comparison("corrected", "mean of other contexts", "expr_mae", 0.12, 0.13, 4, 3),
    Comparison("corrected", "mean of other contexts", "delta_pearson", -0.1, 0.5, 4, 0),
)
MADE = Evaluation(
    1, "minimal", "r.h5ad", 10, tuple(EvaluatedCondition(p, c, 5, 6, 7) for p in "xy" for c in "AB"),
    (EvaluatedMethod("corrected", "prediction", ("p",), 4), EvaluatedMethod("no change", "baseline", (), 4),
     EvaluatedMethod("mean of other contexts", "baseline", (), 2, "2 of 4 conditions have none.")),
    (SummaryRow("corrected", "expr_mae", "", 0.12, 0.01, 4), SummaryRow("no change", "expr_mae", "", 0.11, None, 4),
     SummaryRow("mean of other contexts", "expr_mae", "", 0.13, None, 2), SummaryRow("corrected", "delta_pearson", "", -0.1, None, 4),
     SummaryRow("mean of other contexts", "delta_pearson", "", 0.5, None, 2)),
    COMPARED, tuple(map(sentence, verdict(COMPARED, METRICS))), "measured", "training", "cell-eval2", "", "cpu",
)  # fmt: skip


def test_the_best_of_each_row_is_bold_and_what_is_missing_a_dash() -> None:
    made, _ = metric_table(MADE)
    lines = made.splitlines()
    assert lines[0].startswith("| | Prediction | No change | Mean of other contexts (n 2) |")
    assert lines[2] == "| MAE ↓ | 0.1200 ±0.0100 | **0.1100** | 0.1300 |"
    assert lines[3] == "| Pearson ↑ | −0.1000 | – | **0.5000** |" and len(lines) == 4


def test_worse_is_said_first_with_numbers() -> None:
    made = replace(MADE, statements=verdict(COMPARED, METRICS))
    said = made.said_of("corrected")
    assert [s.text for s in said if s.worse] == [
        "Worse than no change: MAE 0.120 against 0.110, better in 1 of 4 conditions.",
        "Worse than the mean of other contexts: Pearson -0.100 against 0.500, better in 0 of 4 conditions.",
    ]
    better = ["Better than the mean of other contexts: MAE 0.120 against 0.130, better in 3 of 4 conditions."]
    assert [s.text for s in said if not s.worse] == better
    # a file of before the statements has the same as sentences
    assert [(s.worse, s.text) for s in MADE.said_of("corrected")] == [(s.worse, s.text) for s in said]
    close = (
        Comparison("a", "no change", "expr_mae", 0.12, 0.12001, 4, 2),
        Comparison("b", "no change", "expr_mae", 0.12001, 0.12, 4, 2),
    )
    (one,) = verdict(close, METRICS)
    assert sentence(one) == "B. Worse than no change: MAE 0.12001 against 0.12000, better in 2 of 4 conditions."
    assert one.worse and (one.method, one.baseline) == ("b", "no change")
    assert made.said_of("raw") == MADE.said_of("raw") == () and title("raw") == "Raw prediction" and title("mine") == "Mine"


def test_conditions_are_paired_and_counted() -> None:
    table = pd.DataFrame(
        [("corrected", s, p, "A", "expr_mae", v) for s, p, v in ((1, "x", 0.1), (2, "x", 0.3), (1, "y", 0.5))]
        + [("no change", 0, "x", "A", "expr_mae", 0.4), ("no change", 0, "z", "A", "expr_mae", 0.4)],
        columns=["method", "seed", "perturbation", "context", "metric", "value"],
    )
    rows = paired(table, "expr_mae", "corrected", "no change")
    assert rows.to_dict("records") == [{"perturbation": "x", "context": "A", "own": 0.2, "other": 0.4}]
    figure = evaluatechart.conditions(rows, "Prediction", "No change", "MAE", False, ("x", "A"))
    assert [t.name for t in figure.data] == ["prediction better (1)", "not better (0)", None]
    assert paired(table, "expr_mae", "corrected", "ridge").empty


def test_conditions_are_compared_by_the_metrics_of_the_table_alone() -> None:
    names = [metric.name for metric in METRICS]
    table = pd.DataFrame({"metric": names, "perturbation": "x"})
    main, every = ([m.name for m in offered(MADE, table, detail)] for detail in (False, True))
    assert "expr_mae" in main and "weighted_r2" not in main and {"expr_mae", "weighted_r2"} <= set(every)
    shown, _ = metric_table(replace(MADE, summary=tuple(SummaryRow("corrected", n, "", 0.1, None, 4) for n in names)))
    assert all(f"| {metric.title} " in shown for metric in METRICS if metric.name in main) and "Weighted R²" not in shown
    assert offered(MADE, table.assign(perturbation=""), True) == []


def test_effects_are_drawn_and_correlated() -> None:
    measured, predicted = np.array([1, -1, 0, 0.1], np.float32), np.array([0.5, -0.5, 0, 0.05], np.float32)
    figure = evaluatechart.effects(("a", "b", "c", "d"), measured, predicted, "prediction", names=2)
    assert sorted(a.text for a in figure.layout.annotations) == ["a", "b"]
    assert evaluatechart.agreement(measured, predicted) == pytest.approx(1)
    assert evaluatechart.agreement(measured, np.zeros(4, np.float32)) is None


def test_a_kept_evaluation_reads_back(tmp_path: Path) -> None:
    assert from_plain(Evaluation, to_plain(MADE)) == MADE and read_evaluation(tmp_path) is None
    made = replace(MADE, statements=verdict(COMPARED, METRICS), metrics=METRICS, flatters=True)
    assert from_plain(Evaluation, to_plain(made)) == made and made.doubtful and made.scored == MADE.scored
    assert replace(MADE, held_out="It may have seen them, which flatters it.").doubtful and not MADE.doubtful


def test_skill_is_told_by_what_was_in_the_training(
    monkeypatch: pytest.MonkeyPatch, home: Path, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """The prediction says what of each condition its model was trained on: a table of context by perturbation, recall apart."""
    run = make_run(Settings(home))
    trained = {("drugA", "B"): (True, True, True), ("drugA", "T"): (False, True, False), ("drugB", "B"): (True, False, False)}
    data = ad.read_h5ad(run.result)
    manifest = json.loads(data.uns["state_explorer"])
    manifest["trained_on"] = [[*pair, *parts] for pair, parts in trained.items()]
    manifest["exposure"] = [["drugA", "B", "in training"], ["drugA", "T", "test"], ["drugB", "B", "test"]]
    data.uns["state_explorer"] = json.dumps(manifest)
    data.write_h5ad(run.result)
    page = way(page_of(monkeypatch, home, data=""), "A prediction")
    page.button(key="evaluate_start_run").click().run()
    assert not page.exception
    (table,) = (m.value for m in page.markdown if "**Context trained**" in m.value)
    known, unknown = (line for line in table.splitlines() if line.startswith("| **Context"))
    assert known.count("1 condition") == 2 and unknown.count("1 condition") == 1 and known.split("|")[3].strip() == "–"
