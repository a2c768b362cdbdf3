"""The Submit page's forms of 2026, of templates and of scores, opened without a browser; jobs are done at once in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts.submit import template as templatepage
from state_engine import keys
from state_engine.challenge import submit as submission
from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.score import score
from state_engine.challenge.score_request import RehearsalRequest, ScoreRequest
from state_engine.challenge.scores import SCORES, ContextScores, MetricScore, Scores
from state_engine.challenge.submit import SubmissionRequest
from state_engine.config import Settings
from state_engine.files import write_json
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DEMO_PATH, receive_upload
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.request import PredictionRequest
from tests.challenge.next_year import NEXT
from tests.pages.finished_run import finished_run
from tests.pages.opened import page_at, text
from tests.pages.queued import queued

ROOT = Path(__file__).resolve().parents[2]
CANNED = Scores(
    "vcc2026", "p", "t",
    (ContextScores("NK", (MetricScore("pds_cosine", 0.7, 0.5, 0.9, 0.5, 4), MetricScore("de_wilcoxon_lfc_nmae", 2.0, 1.0, 0.5, -2.0, 4)),
                   -0.75, 4, 100, 90),),
    -0.75, 40, "cell-eval2 0.20.0", {"pdex": "0.3.0"}, "of the measurement", "Mann-Whitney U", "mean response",
    "4 perturbations set aside. It has seen the other 3, so these scores flatter.", ("A remark.",),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def truth(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The measured cells of the run, as a data set of their own. Returns its name."""
    cells = anndata.read_h5ad(run.result)
    kept = cells[cells.obs[keys.KIND].isin([keys.OBSERVED, keys.OBSERVED_CONTROL]).to_numpy()].copy()
    del kept.layers[keys.RAW_LAYER]
    path = tmp_path_factory.mktemp("truth") / "measured.h5ad"
    anndata.AnnData(kept.X, obs=kept.obs[[keys.PERTURBATION, keys.CONTEXT]], var=kept.var).write_h5ad(path)
    with path.open("rb") as file:
        receive_upload(Settings(home=run.path.parents[1]), "measured.h5ad", file, path.stat().st_size)
    return "measured.h5ad"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> AppTest:
    monkeypatch.setattr(local, "submit", done_at_once)
    return page_at(monkeypatch, "submit", run, run.path.parents[1])


def done_at_once(settings: Settings, request: object, title: str = "", **_: object) -> tuple[str, str]:
    run = queued(settings, request, title)
    run.start()
    if isinstance(request, SubmissionRequest):
        submission.submit(request, run.path)
    elif isinstance(request, ScoreRequest):
        score(request, run.path)
    elif isinstance(request, RehearsalRequest):
        write_json(run.file(SCORES), to_plain(CANNED))
        run.file("scores.csv").write_text("perturbation,metric,value\n")
    run.finish("done")
    return "", run.id


def last_request(page: AppTest, run: RunFolder, name: str) -> dict[str, Any]:
    return RunFolder.open(Settings(home=run.path.parents[1]), page.session_state[f"thread_{name}"]).request


def test_a_2026_check_asks_for_contexts_and_a_counts_step(page: AppTest, run: RunFolder, tmp_path: Path) -> None:
    genes = tmp_path / "gene_names.csv"
    genes.write_text("\n".join(["gene_name", *(f"G{i}" for i in range(40))]) + "\n")
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_challenge"] = "vcc2026"
    page.session_state["submit_genes"] = str(genes)
    page.run()
    assert not page.exception and "raw whole counts" in text(page)
    page.selectbox(key="submit_rounding").set_value("stochastic").run()
    page.button(key="check").click().run()
    assert not page.exception
    asked = from_plain(SubmissionRequest, last_request(page, run, "submission"))
    assert asked.challenge == "vcc2026" and asked.contexts == ("B", "T") and asked.controls == ("cells.h5ad",)
    assert asked.counts == CountsOptions("stochastic", 0, None)
    assert "The control file cells.h5ad cannot be read" in text(page)
    assert "Out of date" not in text(page)


def test_one_context_can_be_taken_for_2025(page: AppTest, run: RunFolder, tmp_path: Path) -> None:
    genes = tmp_path / "gene_names.csv"
    genes.write_text("\n".join(f"G{i}" for i in range(40)) + "\n")
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_genes"] = str(genes)
    page.run()
    assert "would go in together" in text(page)
    key = next(m.key for m in page.multiselect if str(m.key).startswith("submit_contexts_"))
    page.multiselect(key=key).set_value(["T"]).run()
    assert "would go in together" not in text(page)
    page.button(key="check").click().run()
    assert from_plain(SubmissionRequest, last_request(page, run, "submission")).contexts == ("T",)


def test_a_run_is_scored_against_measured_cells(
    page: AppTest, run: RunFolder, truth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.session_state["submit_tab"] = "Score"
    page.run()
    assert not page.exception
    box = page.selectbox(key="score_truth")
    box.select_index(box.options.index(truth)).run()
    page.button(key="score").click().run()
    assert not page.exception
    said = text(page)
    assert "#### Overall" in said and "of 100 for the run" in said
    for words in (
        "MAE ↓",
        "PDS ↑",
        "DES ↑",
        "Mean baseline",
        "cell-eval2 0.20",
        "of the submission for PDS and DES",
        "pdex 0.3.0",
    ):
        assert words in said, words
    assert "Perturbation discrimination" in said  # the definitions
    again = page_at(monkeypatch, "submit", run, run.path.parents[1])
    again.query_params["submit_tab"] = "Score"
    again.query_params["scoring"] = page.session_state["thread_scoring"]
    again.session_state["submit_tab"] = "Score"
    assert "of 100 for the run" in text(again.run())


def test_scores_of_2026_are_no_percentages_and_flattery_is_said(page: AppTest, run: RunFolder) -> None:
    _, identity = done_at_once(Settings(home=run.path.parents[1]), RehearsalRequest("vcc2026", PredictionRequest("", "", ())))
    page.session_state["submit_tab"] = "Score"
    page.session_state["thread_scoring"] = identity
    page.run()
    assert not page.exception
    said = text(page)
    assert "Overall −0.750 of the rehearsal" in said and "Not a percentage" in said and "flatter" in said
    drawn = [str(getattr(node, "value", "")) for node in page.main]
    seen, metrics, overall = (
        next(n for n, words in enumerate(drawn) if part in words)
        for part in ("so these scores flatter", "| Metric |", "#### Overall")
    )
    assert seen < metrics < overall  # what the model has seen, then each metric, and the sum last
    assert "−2.000" in said and "Replicate" in said and "A remark." in said


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_a_rehearsal_asks_for_what_it_says(page: AppTest, run: RunFolder) -> None:
    page.session_state["submit_tab"] = "Score"
    page.session_state["score_what"] = "A rehearsal"
    page.run()
    assert "needs a data set with measured perturbations" in text(page)
    page.session_state["thread_data"] = "demo"
    page.session_state["thread_model"] = demo_model(run)
    page.run()
    assert not page.exception and "cannot forget" in text(page)
    page.slider(key="rehearse_share").set_value(40).run()
    page.button(key="rehearse").click().run()
    asked = from_plain(RehearsalRequest, last_request(page, run, "scoring"))
    assert asked.share == 0.4 and asked.prediction.contexts == ("B",) and asked.prediction.cells == 51


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_a_template_becomes_a_prediction_and_the_form_is_ready(
    page: AppTest, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templatepage, "go", lambda name: None)
    wanted = tmp_path / "pert_counts.csv"
    wanted.write_text("target_gene,n_cells\nTNF,30\nIFN-beta,50\nNEW,20\n")
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_counts"] = str(wanted)
    page.session_state["thread_data"], page.session_state["thread_model"] = "demo", demo_model(run)
    page.run()
    assert not page.exception
    assert "The model knows 2 of 3 targets." in text(page)
    assert not [b for b in page.button if b.key == "template_predict"]
    page.radio(key="template_unknown").set_value("transfer").run()
    assert "Choose the screens that measured the others" in text(page)
    # the demo itself as the screen: it measured no NEW either
    box = page.multiselect(key="template_measured")
    box.set_value([name for name in box.options if name.startswith("Demo")]).run()
    assert not page.exception and "None of the others was measured in Demo" in text(page)
    page.radio(key="template_unknown").set_value("mean").run()
    page.button(key="template_predict").click().run()
    made = RunFolder.open(Settings(home=run.path.parents[1]), page.session_state["thread_run"])
    asked = from_plain(PredictionRequest, made.request)
    assert asked.cells == 50 and asked.perturbations == ("TNF", "IFN-beta", "NEW") and asked.contexts == ("B",)
    assert asked.unknown_effect == "mean"
    assert page.session_state["submit_repairs"] == ("drop-extra-perturbations", "first-cells", "rename-control")
    assert page.session_state["submit_repairs_of"] == str(made.result)


def demo_model(run: RunFolder) -> str:
    from state_engine.library.models import list_models

    return next(e.card.id for e in list_models(Settings(home=run.path.parents[1])) if e.demo and e.card)


@pytest.fixture
def next_year(run: RunFolder) -> None:
    folder = run.path.parents[1] / "challenges"
    folder.mkdir(exist_ok=True)
    (folder / "next.toml").write_text(NEXT)


def test_a_challenge_of_its_own_file_has_its_rules(page: AppTest, next_year: None) -> None:
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_challenge"] = "next"
    page.run()
    said = text(page)
    assert not page.exception and "What the Challenge of the next year asks for" in said
    assert "labelled `ctrl`" in said and "the label in `knockdown`" in said and "Exactly 40 cells" in said


def test_a_challenge_of_its_own_file_has_its_options_of_scoring(page: AppTest, next_year: None) -> None:
    page.session_state["submit_tab"] = "Score"
    page.session_state["score_challenge"] = "next"
    page.run()
    assert not page.exception and page.selectbox(key="score_rounding") is not None
    assert not [box for box in page.selectbox if box.key in ("score_training", "score_fdr")]
    page.session_state["score_challenge"] = "vcc2025"
    page.run()
    assert len([box for box in page.selectbox if box.key in ("score_training", "score_fdr")]) == 2


def test_receipts_are_pasted_and_compared(page: AppTest) -> None:
    import json

    page.session_state["submit_tab"] = "Score"
    page.run()
    page.text_area(key="receipts_text").set_value("no receipt").run()
    page.button(key="receipts_add").click().run()
    assert "not JSON" in text(page) and not page.exception
    both = [
        {"entry_id": "a", "raw_pds": 0.49737, "score_pds": -0.005514},
        {"entry_id": "b", "raw_pds": 0.513831, "score_pds": 0.030952},
    ]
    page.text_area(key="receipts_text").set_value(json.dumps(both)).run()
    page.button(key="receipts_add").click().run()
    assert not page.exception
    assert "pds: baseline 0.4999, replicate 0.9513" in text(page)
    assert list(page.dataframe[-1].value["Submission"]) == ["a", "b"]
