"""The Submit page opened without a browser: what is handed out, and a challenge file from the first check to the archive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts import take_home
from pages.parts.submit import export as exportpage
from pages.parts.submit import form as submitform
from pages.parts.submit.export import contents
from state_engine.challenge import submit as submission
from state_engine.challenge.spec import load_rules
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.data.files.zarr_copy import STORE, write_zip
from state_engine.jobs import local
from state_engine.jobs.requests import MatrixRequest, StoreRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.other_formats import as_h5ad
from state_engine.prediction.matrix import write_predicted
from state_engine.prediction.result import open_result
from tests.pages.finished_run import finished_run
from tests.pages.opened import opened, page_at, text
from tests.pages.queued import queued
from tests.prediction.make_result import make_result

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("home"))


@pytest.fixture
def genes(tmp_path: Path) -> Path:
    """The run's genes and one more."""
    path = tmp_path / "gene_names.csv"
    path.write_text("\n".join([*(f"G{i}" for i in range(40)), "EXTRA"]) + "\n")
    return path


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> AppTest:
    """The page on a finished run, where jobs are done at once in this process."""
    monkeypatch.setattr(local, "submit", done_at_once)
    return page_at(monkeypatch, "submit", run, run.path.parents[1])


LANES: list[str | None] = []  # in which the page asked for jobs


def done_at_once(
    settings: Settings, request: object, title: str = "", parent: str = "", lane: str | None = None
) -> tuple[str, str]:
    LANES.append(lane)
    run = queued(settings, request, title, parent=parent)
    run.start()
    if isinstance(request, submission.SubmissionRequest):
        submission.submit(request, run.path)
    elif isinstance(request, StoreRequest):
        write_zip(RunFolder.open(settings, parent).result, RunFolder.open(settings, parent).file(STORE))
    elif isinstance(request, MatrixRequest):
        write_predicted(
            open_result(RunFolder.open(settings, parent).result), RunFolder.open(settings, parent).file("predicted.npy")
        )
    else:
        exportpage.export.write_tables(RunFolder.open(settings, parent).path)
    run.finish("done")
    return "", run.id


def test_without_a_run_it_says_what_belongs_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = opened(monkeypatch, "submit", None, tmp_path)
    assert "No prediction is chosen" in text(page)
    page.session_state["submit_tab"] = "Challenge file"
    page.run()
    assert "There is nothing to submit yet" in text(page)
    assert not page.exception


def test_a_run_is_handed_out(page: AppTest, run: RunFolder) -> None:
    page.run()
    assert not page.exception
    assert "400 cells (120 predicted, 60 predicted control, 100 measured control, 120 measured)" in text(page)
    page.button(key="make_tables").click().run()
    assert (run.path / "tables.zip").exists()
    assert not [b for b in page.button if b.key == "make_tables"]
    page.button(key="make_matrix").click().run()
    assert np.load(run.path / "predicted.npy").shape == (120, 40) and (run.path / "predicted.csv").exists()
    page.button(key="make_zarr_store").click().run()
    opened_again = open_dataset(as_h5ad(run.path / "result.zarr.zip", Settings(run.path.parents[1])))
    assert opened_again.n_cells == 400 and opened_again.n_genes == 40 and not page.exception


def test_a_check_needs_the_gene_list(page: AppTest) -> None:
    page.session_state["submit_tab"] = "Challenge file"
    page.run()
    assert page.button(key="check").disabled
    assert "cells of B, T would go in together" in text(page)


def test_from_the_first_check_to_a_verified_file(page: AppTest, run: RunFolder, genes: Path) -> None:
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_genes"] = str(genes)
    page.run()
    page.button(key="check").click().run()
    assert not page.exception
    assert "#### 2 problems to solve" in text(page)
    assert "1 of 41 genes is missing" in text(page)
    assert not [b for b in page.button if b.key == "write"]
    page.button(key="repair_all").click().run()
    # the data set of this run is not there any more, so its control cells fill nothing; zeros are asked for by name
    assert "cannot be filled from control cells" in text(page)
    next(b for b in page.button if str(b.key).endswith("_zeros")).click().run()
    # the list of perturbations was not given
    assert "#### Can be packed. Not checked: perturbations" in text(page)
    assert LANES[-1] == "short"  # somebody waits for a check, also beside a training
    page.button(key="write").click().run()
    assert LANES[-1] is None
    assert "Opened again and verified: 220 cells x 41 genes, no problem found" in text(page)
    folder = run.path.parent / page.session_state["thread_submission"]
    assert (folder / "submission.vcc").stat().st_size > 0


def test_one_repair_solves_one_problem_and_can_be_undone(page: AppTest, genes: Path) -> None:
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_genes"] = str(genes)
    page.run()
    page.button(key="check").click().run()
    button = next(b for b in page.button if str(b.key).endswith("rename-control"))
    button.click().run()
    assert "#### 1 problem to solve" in text(page)
    page.button(key="repair_none").click().run()
    assert "#### 2 problems to solve" in text(page)


def test_a_changed_choice_makes_the_report_out_of_date(page: AppTest, genes: Path, tmp_path: Path) -> None:
    page.session_state["submit_tab"] = "Challenge file"
    page.session_state["submit_genes"] = str(genes)
    page.run()
    page.button(key="check").click().run()
    assert "Out of date" not in text(page)
    other = tmp_path / "other.csv"
    other.write_text("G0\nG1\n")
    page.session_state["submit_genes"] = str(other)
    page.run()
    assert "Out of date: check again" in text(page)


def test_an_earlier_check_opens_from_its_address(page: AppTest, run: RunFolder, genes: Path) -> None:
    asked = submission.SubmissionRequest("vcc2025", str(run.result), True, genes=str(genes))
    _, identity = done_at_once(Settings(home=run.path.parents[1]), asked)
    page.session_state["submit_tab"] = "Challenge file"
    page.query_params["submission"] = identity
    page.run()
    assert "2 problems to solve" in text(page)
    assert "Out of date" not in text(page)
    assert "41 genes" in text(page)


def test_a_list_is_kept_under_its_own_name_and_nowhere_else(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    path = submitform.keep_list(settings, "../../gene names.csv", b"A\n")
    assert path.name == "gene_names.csv"
    assert path.resolve().is_relative_to(tmp_path / "challenge")
    assert submitform.keep_list(settings, "gene names.csv", b"A\n") == path
    assert submitform.keep_list(settings, "gene names.csv", b"B\n") != path
    assert submitform.keep_list(settings, "...", b"C\n").name == "list.csv"


def test_the_rules_are_sentences_with_their_numbers() -> None:
    lines = " ".join(submitform.rule_lines(load_rules("vcc2025")))
    assert "18,080 genes" in lines and "`non-targeting`" in lines and "At most 100,000 cells" in lines
    other = " ".join(submitform.rule_lines(load_rules("vcc2026")))
    assert "raw whole counts" in other and "must not be in the file" in other


def test_a_large_file_is_not_sent_through_the_browser(monkeypatch: pytest.MonkeyPatch, page: AppTest, run: RunFolder) -> None:
    monkeypatch.setattr(take_home, "MOST_BYTES", 10)
    page.run()
    assert "too large to send through the browser" in text(page)
    assert str(run.result) in [code.value for code in page.code]


def test_an_embedding_is_called_an_embedding(tmp_path: Path) -> None:
    words = contents(open_result(make_result(tmp_path / "result.h5ad", embedding="X_state", decoder=False)))
    assert "embedding `X_state` of 40 dimensions" in words


def test_both_pages_import_nothing_heavy() -> None:
    names = ("submit.check", "submit.score", "submit.template", "genes.compare", "genes.table")
    code = f"import sys, {', '.join(f'pages.parts.{name}' for name in names)}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    )
    assert "state_engine.challenge.submit" in loaded
    assert not loaded & {"torch", "pdex", "scanpy", "umap", "sklearn", "numba", "anndata"}
