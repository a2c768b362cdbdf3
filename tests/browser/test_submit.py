"""A challenge from a run to a score, in Chromium: run, check, repairs, file, verified, scored; and a rehearsal. On the demo."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from playwright.sync_api import Page

from state_engine.library.datasets import DEMO_PATH
from tests.browser.app import Server, keep_picture, no_errors, open_demo, pick, press, settle, shows

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout"),
]


def gene_list(path: Path) -> Path:
    """The demo's genes and one more, as a challenge gives them."""
    with h5py.File(DEMO_PATH) as file:
        var = file["var"]
        names = [name.decode() for name in var[var.attrs["_index"]][:]]
    path.write_text("\n".join([*names, "ONE_MORE"]) + "\n")
    return path


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    settle(page)


def choose(page: Page, key: str, name: str) -> None:
    """An option of a selectbox."""
    page.locator(f"[class*='st-key-{key}'] input").first.click()
    page.locator("[role=option]").filter(has_text=name).first.click()
    settle(page)


def test_from_a_run_to_a_score(server: Server, page: Page, tmp_path: Path) -> None:
    open_demo(server, page)
    pick(page, "perturbations_", ["IFN-beta", "TNF", "Dexamethasone"])
    page.click(".st-key-predict button")
    page.wait_for_url("**/explore*run=*", timeout=240_000)  # a short prediction opens its result
    settle(page)
    page.goto(page.url.replace("/explore", "/submit"))
    settle(page)

    tab(page, "Challenge file")
    page.set_input_files("[class*='st-key-submit_genes_upload'] input[type=file]", gene_list(tmp_path / "gene_names.csv"))
    page.wait_for_selector("text=1,301 genes")
    settle(page)
    press(page, "check")
    page.wait_for_selector("text=problems to solve", timeout=120_000)
    settle(page)
    keep_picture(page, "submit-problems")
    press(page, "repair_all")
    page.wait_for_selector("text=Can be packed. Not checked: perturbations", timeout=120_000)
    settle(page)
    press(page, "write")
    page.wait_for_selector("text=Opened again and verified", timeout=180_000)
    settle(page)
    no_errors(page)
    keep_picture(page, "submit-written")

    tab(page, "Score")
    choose(page, "score_source", "This run")
    choose(page, "score_truth", "Demo")
    press(page, "score")
    page.wait_for_selector("text=of 100 for the run", timeout=240_000)
    settle(page)
    no_errors(page)
    shows(page, "MAE", "PDS", "DES", "Mean baseline", "cell-eval2 0.20", "of the submission for PDS and DES")
    page.get_by_role("button", name="What these numbers mean").click()
    page.wait_for_selector("text=Perturbation discrimination")
    keep_picture(page, "submit-scored")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("text=of 100 for the run")


def test_a_rehearsal(server: Server, page: Page) -> None:
    open_demo(server, page)
    page.goto(page.url.replace("/predict", "/submit"))
    settle(page)
    tab(page, "Score")
    page.get_by_role("radio", name="A rehearsal").or_(page.get_by_role("button", name="A rehearsal")).first.click()
    settle(page)
    press(page, "rehearse")
    page.wait_for_selector("text=of 100 for the rehearsal", timeout=240_000)
    settle(page)
    no_errors(page)
    shows(page, "perturbations set aside", "flatter")
    keep_picture(page, "submit-rehearsal")
