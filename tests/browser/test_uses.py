"""Heads, labels by hand and pretraining in Chromium: fit on the demo, call an uploaded file, take labels home, label a group, pretrain."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import anndata
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from state_engine.library.datasets import DEMO_PATH
from tests.browser.app import Server, keep_picture, lasso, map_drawn, no_errors, open_demo, press, settle, shows

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout"),
]
SLOW = 600_000  # milliseconds that a job may take on a busy machine


def fill(page: Page, key: str, value: str) -> None:
    """Type into a widget and leave it."""
    box = page.locator(f"[class*='st-key-{key}'] input, [class*='st-key-{key}'] textarea").first
    box.fill(value)
    box.press("Control+Enter" if key.endswith("settings") else "Enter")
    settle(page)


def choose(page: Page, key: str, words: str) -> None:
    """Choose an option of a selectbox by typing."""
    box = page.locator(f"[class*='st-key-{key}'] input").first
    box.fill(words)
    page.locator("[data-testid=stSelectboxVirtualDropdown] li, [role=option]").first.wait_for()
    page.keyboard.press("Enter")
    settle(page)


def test_a_head_is_fitted_and_applied_to_an_uploaded_file(server: Server, page: Page, tmp_path: Path) -> None:
    open_demo(server, page)
    page.goto(page.url.replace("/predict", "/finetune"))
    page.wait_for_selector("text=What does the head read?")
    settle(page)
    no_errors(page)
    keep_picture(page, "finetune-form")
    choose(page, "head_vectors_demo", "Expression")
    page.get_by_text("More options").click()
    for key, value in (("max_epochs", "8"), ("resamples", "50"), ("variable_genes", "200"), ("components", "10")):
        fill(page, f"head_{key}", value)
    page.click(".st-key-finetune button")
    page.wait_for_selector(".st-key-figure_head_confusion .js-plotly-plot", timeout=SLOW)
    settle(page)
    no_errors(page)
    shows(
        page,
        "it was not fitted on",
        "Beside simple methods",
        "Can its probabilities be believed?",
        "Which cells does it get wrong?",
    )
    address = page.url
    assert "finetuning=" in address
    keep_picture(page, "finetune-report")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".st-key-figure_head_confusion .js-plotly-plot")
    settle(page)

    some = anndata.read_h5ad(DEMO_PATH)[:300].copy()
    truth = some.obs["cell_type"].astype(str).to_numpy()
    some.write_h5ad(tmp_path / "mine.h5ad")
    press(page, "finetune_apply")
    page.get_by_text("Upload a file").click()
    page.set_input_files("input[type=file]", tmp_path / "mine.h5ad")
    page.get_by_role("button", name="Call the cells of mine.h5ad").wait_for()
    settle(page)
    keep_picture(page, "finetune-apply")
    page.click(".st-key-annotate button")
    page.get_by_text("call the cells of mine.h5ad?").wait_for(timeout=SLOW)
    settle(page)
    no_errors(page)
    keep_picture(page, "finetune-called")
    with page.expect_download() as download:
        page.click(".st-key-called_csv button")
    labels = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert len(labels) == 300 and (labels["predicted_label"].to_numpy() == truth).mean() > 0.8
    with page.expect_download() as download:
        page.click(".st-key-called_h5ad button")
    cells = anndata.read_h5ad(download.value.path())
    assert cells.obs["predicted_label"].astype(str).tolist() == labels["predicted_label"].tolist()
    assert "annotation=" in page.url


def test_a_group_and_a_lasso_are_labelled_by_hand(server: Server, page: Page) -> None:
    open_demo(server, page)
    page.goto(page.url.replace("/predict", "/embed"))
    page.wait_for_selector(".st-key-embed button")
    settle(page)
    page.click(".st-key-embed button")
    map_drawn(page, "embedding", SLOW)
    settle(page)
    choose(page, "label_group_embed_cell_type", "NK")
    choose(page, "label_term_embed", "NK cell")
    press(page, "label_give_embed")
    page.wait_for_selector("text=are labelled, in 1 round")
    shows(page, "natural killer cell")
    lasso(page, "embedding")
    box = page.locator("[class*='st-key-label_term_embed'] input").first
    box.fill("my own cells")
    page.keyboard.press("Enter")
    settle(page)
    press(page, "label_give_embed")
    page.wait_for_selector("text=in 2 rounds")
    shows(page, "labelled my own cells, lasso on the map")
    keep_picture(page, "labels-by-hand")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("text=in 2 rounds")
    settle(page)
    press(page, "label_undo_embed")
    page.wait_for_selector("text=in 1 round")
    with page.expect_download() as download:
        page.click(".st-key-label_csv_embed button")
    labels = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
    known = anndata.read_h5ad(DEMO_PATH, backed="r").obs["cell_type"]
    assert len(labels) == (known == "NK").sum() and set(labels["term"]) == {"CL:0000623"}
    page.get_by_text("Make a data set with them").click()
    page.click(".st-key-label_make_embed button")
    page.wait_for_selector(".st-key-label_tune_embed button", timeout=SLOW)
    settle(page)
    press(page, "label_tune_embed")
    page.wait_for_selector("text=What does the head read?")
    settle(page)
    shows(page, "1 label: natural killer cell")
    no_errors(page)


def test_a_model_is_pretrained_for_a_few_steps(server: Server, page: Page) -> None:
    open_demo(server, page)
    page.goto(page.url.replace("/predict", "/pretrain"))
    page.wait_for_selector("text=Which genes, and how large?")
    settle(page)
    no_errors(page)
    keep_picture(page, "pretrain-form")
    choose(page, "pretrain_preset", "tiny")
    fill(page, "pretrain_steps_tiny", "12")
    page.click(".st-key-pretrain button")
    page.wait_for_selector("text=It is in your library", timeout=SLOW)
    settle(page)
    no_errors(page)
    shows(page, "What does its embedding keep?")
    assert "pretraining=" in page.url
    page.wait_for_selector(".st-key-figure_pretrain_loss .js-plotly-plot")
    keep_picture(page, "pretrain-done")
    press(page, "pretraining_card")
    page.wait_for_selector(".st-key-se_facts")
    shows(page, "SE of Demo: simulated PBMC screen")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024])
def test_it_can_be_read_at_any_width_and_in_the_dark(browser: Browser, server: Server, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(120_000)
    page = context.new_page()
    shown: dict[str, Callable[[], object]] = {
        f"{server.address}/finetune?data=demo": lambda: page.wait_for_selector("text=What does the head read?"),
        f"{server.address}/pretrain?data=demo": lambda: page.wait_for_selector("text=Which genes, and how large?"),
    }
    for choice, there, figure in (
        ("finetuning", "head", "head_confusion"), ("pretraining", "pretraining", "pretrain_loss"), ("annotation", "annotation.json", "")
    ):  # fmt: skip
        for run in sorted(server.settings.runs.glob(f"*/{there}"))[-1:]:
            ready = f".st-key-figure_{figure} .js-plotly-plot" if figure else ".st-key-called_csv"
            name = "pretrain" if choice == "pretraining" else "finetune"
            shown[f"{server.address}/{name}?data=demo&{choice}={run.parent.name}"] = lambda ready=ready: page.wait_for_selector(
                ready
            )
    for number, (address, ready) in enumerate(shown.items()):
        page.goto(address)
        ready()
        settle(page)
        no_errors(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
        keep_picture(page, f"uses-{scheme}-{width}-{number}")
    context.close()
