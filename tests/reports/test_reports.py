"""The report of each kind of run holds the numbers of the run, what it is worth, and how to make it again."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from state_engine.analysis import stored
from state_engine.analysis.effects import effect_sizes
from state_engine.analysis.recall import found_genes, found_words
from state_engine.cli.main import main
from state_engine.comparison.compare import compare
from state_engine.comparison.request import ComparedSide, CompareRequest
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.errors import RequestError, RunError
from state_engine.evaluation.evaluate import evaluate
from state_engine.evaluation.report import number_words
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.jobs.many import requests_of
from state_engine.jobs.reporting import report_name, report_of_folder, report_of_run
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.reports.document import number
from state_engine.reports.prediction import _verdict
from state_engine.screening.report import read_ranking
from tests.pages.finished_run import finished_run
from tests.pages.make_run import make_run
from tests.pages.test_screen import made as made_screen
from tests.pages.test_screen import thread as thread
from tests.pages.test_train import finished as trained
from tests.prediction.make_result import make_result
from tests.reports.test_document import HOSTILE, Tags


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    for name in ("home", "data"):
        (tmp_path / name).mkdir()
    return tmp_path / "home"


def attached(report: Tags, name: str) -> object:
    (link,) = [a["href"] for _, a in report.tags if a.get("download") == name]
    return json.loads(base64.b64decode((link or "").partition("base64,")[2]))


def test_a_prediction(home: Path, tmp_path: Path) -> None:
    run = make_run(Settings(home))
    report = Tags(report_of_run(Settings(home), run, tmp_path / "r.html").read_text())
    sizes = effect_sizes(open_result(run.result))
    for row in sizes.itertuples():
        assert number(row.effect_size) in report.text and f"{row.perturbation} in {row.context}" in report.text
    assert {"svg", "table"} <= {tag for tag, _ in report.tags} and "UMAP of" in report.text
    assert (
        "effect size (log1p)" in report.text and "measured control (100)" in report.text and "observed control" not in report.text
    )
    assert re.fullmatch(r"cells_a-model_drugA-drugB-in-B-T_[0-9a-f]{6}\.html", report_name(Settings(home), run))
    assert "Of 4 measured conditions nothing says whether the model was trained on them." in report.text
    for perturbation, context in open_result(run.result).conditions():  # the sentence of the Genes page
        compared = stored.read_comparison(stored.comparison_path(run.path, perturbation, context))
        assert found_words(compared, found_genes(compared)) in report.text
    assert "Mann-Whitney" in report.text and "10.1101/2025.06.26.661135" in report.text and str(home) not in report.text
    manifest = attached(report, "manifest.json")
    assert isinstance(manifest, dict) and manifest["seed"] == 42 and manifest["settings"]["set_size"] == 16
    (asked,) = requests_of(json.dumps(attached(report, f"{run.id}.json")).encode())
    assert isinstance(asked.request, PredictionRequest) and asked.request.data == "cells.h5ad" and asked.request.cells == 30


def test_the_verdict_on_a_prediction_is_that_of_its_conditions() -> None:
    told = ["better", "worse", "worse", "cannot be told", "no baseline", "better"]
    kinds = ["test"] * 5 + ["in training"]
    result: Any = SimpleNamespace(exposure=lambda perturbation, context: kinds[int(perturbation)])
    compared: Any = [SimpleNamespace(perturbation=str(i), context="B") for i in range(6)]
    words = _verdict(compared, result, pd.DataFrame({"exposure": kinds, "standing": told}))
    assert words == [
        "Of 4 held-out conditions with a measurement, the prediction is better than the mean in 1, worse than the mean in 2, "
        "not to be told from it in 1.",
        "1 measured condition was in training: agreement there is recall, not a test.",
    ]
    none = _verdict(compared[4:5], result, pd.DataFrame({"exposure": ["test"], "standing": ["no baseline"]}))
    assert none == ["1 held-out condition was measured; there is no mean baseline to compare with."]


def test_every_name_of_a_file_is_text(home: Path, tmp_path: Path) -> None:
    run = RunFolder.create(Settings(home), "predict", to_plain(PredictionRequest("c.h5ad", "m", (HOSTILE,))), HOSTILE)
    make_result(run.result, perturbations=(HOSTILE, "drugB"), contexts=("B",))
    run.finish("done")
    report = Tags(report_of_run(Settings(home), run, tmp_path / "r.html").read_text())
    assert not {tag for tag, _ in report.tags} & {"script", "img"}
    assert not any(name.startswith("on") for _, attributes in report.tags for name in attributes)


def test_an_embedding_has_a_report_without_genes(home: Path, tmp_path: Path) -> None:
    run = make_run(Settings(home), embedding="X_state", decoder=False)
    text = Tags(report_of_run(Settings(home), run, tmp_path / "r.html").read_text()).text
    assert "predicts an embedding, not genes" in text and "Manifest" in text


def test_an_evaluation(tmp_path: Path) -> None:
    result = str(make_result(tmp_path / "result.h5ad"))
    request = EvaluationRequest(
        (PredictedFile(result),), result, Choices(perturbation_key="perturbation", control="control", context_key="context"), by_kind=True
    )  # fmt: skip
    found = evaluate(request, tmp_path / "ev")
    assert main(["report", "--run", str(tmp_path / "ev"), "--output", str(tmp_path / "r.html")]) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "ev").iterdir() if p.is_file()}
    for part in before:  # no report is written over what it reports on
        assert main(["report", "--run", str(tmp_path / "ev"), "--output", str(part)]) == 1
    assert before == {p: p.read_bytes() for p in before}
    for _ in range(2):  # over another report it is
        assert main(["report", "--run", str(tmp_path / "ev"), "--output", str(tmp_path / "ev" / "r.html")]) == 0
    text = Tags((tmp_path / "r.html").read_text()).text
    for row in found.summary:
        if row.context == "" and row.method == "prediction":
            metric = next(m for m in found.scored if m.name == row.metric)
            assert number_words(row, metric) in text
    assert found.judgements[0].short in text and "nearest neighbours" in text and found.engine in text


def test_a_training_and_a_screen(home: Path, tmp_path: Path, thread: dict[str, str]) -> None:
    run = trained(home)
    text = Tags(report_of_run(Settings(home), run, tmp_path / "t.html").read_text()).text
    assert "Cannot be told from the mean effect of the other contexts by 2 conditions: MAE 0.0500 against 0.0400" in text
    assert "Evaluate says which metrics can tell" in text
    assert "0.0700" in text and "Loss of the training" in text and "0.80 x the model" in text
    screen = made_screen(home, thread)
    text = Tags(report_of_run(Settings(home, (home.parent / "data",)), screen, tmp_path / "s.html").read_text()).text
    for row in read_ranking(screen.file("ranking.csv")).itertuples():
        assert number(row.score) in text and number(row.q) in text
    assert "cells.h5ad" in text and str(home.parent) not in text


def test_a_comparison(home: Path, tmp_path: Path) -> None:
    run = make_run(Settings(home))
    side = ComparedSide((str(run.result),))
    found = compare(CompareRequest(side, ComparedSide((str(run.result),), "observed"), draws=20, map=False), tmp_path / "c")
    assert main(["report", "--run", str(tmp_path / "c"), "--output", str(tmp_path / "r.html")]) == 0
    text = Tags((tmp_path / "r.html").read_text()).text
    assert found.words()[0] in text and all(p.pearson.words in text for p in found.pairs) and "(20 draws)" in text
    assert "A small negative number says that no difference is seen." in text


def test_what_has_no_report_is_told(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = RunFolder.create(Settings(home), "fetch", {"name": "x"}, "Fetched")
    with pytest.raises(RequestError, match="no report"):
        report_of_run(Settings(home), other, tmp_path / "r.html")
    with pytest.raises(RequestError, match="nothing to report"):
        report_of_folder(Settings(home), home, tmp_path / "r.html")
    (tmp_path / "ev").mkdir()
    (tmp_path / "ev" / "evaluation.json").write_text("{")
    with pytest.raises(RunError):
        report_of_folder(Settings(home), tmp_path / "ev", tmp_path / "r.html")
    assert main(["report", "--run", "no-such", "--output", str(tmp_path / "r.html")]) == 1
    assert "not the id of a run" in capsys.readouterr().err and not (tmp_path / "r.html").exists()


def test_a_run_by_its_id(home: Path, tmp_path: Path) -> None:
    run = finished_run(home)
    assert main(["report", "--run", run.id, "--output", str(tmp_path / "r.html")]) == 0
    assert "drugA" in (tmp_path / "r.html").read_text()
