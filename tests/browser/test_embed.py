"""Real cells through the Embed page: two data sets embedded, mapped, compared with each other, their genes read, and taken home."""

from __future__ import annotations

import io
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Page

from tests.browser.app import Server, keep_picture, lasso, map_drawn, no_errors, press, settle, shows

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_real_cells_are_embedded_and_compared(server: Server, page: Page, real_data: Path) -> None:
    for name, cells in (("pbmc3k", "2,700"), ("kang_ifnb", "1,975")):
        _embed(server, page, real_data / f"{name}.h5ad", cells)
    lasso(page, "embedding")
    page.get_by_text("1,975 cells of 1,975 shown").wait_for()
    _similar(page)
    _genes(page)
    _files(page)


def _embed(server: Server, page: Page, file: Path, cells: str) -> None:
    page.goto(f"{server.address}/data")
    settle(page)
    page.set_input_files("input[type=file]", file)
    page.locator("[data-testid=stSidebar]").get_by_text(f"{cells} cells x").wait_for()  # read, and chosen for the other pages
    settle(page)
    page.click(".st-key-menu a:has-text('Embed')")
    page.wait_for_selector(".st-key-embed button")
    settle(page)
    shows(page, f"Embed {cells} cells", "genes of the model are in the data set")
    page.click(".st-key-embed button")
    page.get_by_text(f"{file.name} with Demo SE").first.wait_for()
    map_drawn(page, "embedding")
    settle(page)
    no_errors(page)
    shows(page, f"{cells} cells, coloured by cell_type")
    assert "embedding=" in page.url  # this address brings the result back
    keep_picture(page, f"embed-{file.stem}")


def _similar(page: Page) -> None:
    _view(page, "Similar cells")
    shows(page, "4,675 reference cells of 2 data sets")
    shows(page, "Find cells like these", within=".st-key-find_similar")  # those of the lasso
    page.locator(".st-key-pick_way button", has_text="By label").click()
    settle(page)
    shows(page, "Find cells like these 222 cells")  # B cells
    page.click(".st-key-find_similar button")
    page.get_by_text("What are these cells like").wait_for()
    settle(page)
    no_errors(page)
    with page.expect_download() as download:
        page.click("[class*='st-key-download_labels'] button")
    labels = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()), keep_default_na=False)
    # the demo's model was pretrained on simulated cells: of real ones it says little, so which label is not asked
    assert len(labels) == 222 and labels["label"].str.len().gt(0).all() and labels["similarity"].between(-1, 1).all()
    keep_picture(page, "embed-similar")


def _genes(page: Page) -> None:
    _view(page, "Genes it reads")
    page.click(".st-key-genes_read_go button")
    page.wait_for_selector(".st-key-figure_genes_read .js-plotly-plot", timeout=120_000)
    settle(page)
    no_errors(page)
    shows(page, "Genes that CLS attends to in B")
    keep_picture(page, "embed-genes")


def _files(page: Page) -> None:
    _view(page, "Files")
    with page.expect_download() as download:
        page.click(".st-key-embed_h5ad button")
    cells = anndata.read_h5ad(download.value.path())
    assert cells.obsm["X_state"].shape == (1975, 74)
    with page.expect_download() as download:
        page.click(".st-key-embed_npy button")
    assert np.array_equal(np.load(download.value.path()), cells.obsm["X_state"], equal_nan=True)
    press(page, "embed_use")
    shows(page, "kang_ifnb · X_state", within=".st-key-thread")


def _view(page: Page, name: str) -> None:
    page.locator(".st-key-embed_view button", has_text=name).click()
    settle(page)
