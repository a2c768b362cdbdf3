"""A biologist's whole walk on real cells: upload, model, prediction, cells, genes, attention, and the files to take home."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import anndata
import pytest
from playwright.sync_api import Page

from state_engine import keys
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import SplitPlan, ZeroShot
from state_engine.train.fit import train_transition
from state_engine.train.request import TrainRequest
from tests.browser.app import Server, keep_picture, lasso, map_drawn, no_errors, pick, press, settle, shows

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HELD_OUT = "CD14+Mono"


@pytest.fixture(scope="module")
def model(server: Server, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of the library, trained on the same cells but one cell type; the test asks for its flow, not for its skill."""
    request = TrainRequest().with_settings(
        name="Kang, CD14+Mono held out", hvgs=500, steps=60, sets_a_step=8, set_size=16, hidden=64, layers=2, heads=4, device="cpu",
        data_name="kang_ifnb.h5ad",
    )  # fmt: skip
    path = real_data / "kang_ifnb.h5ad"
    plan = SplitPlan((("kang", str(path)),), ("kang",), (ZeroShot("kang", HELD_OUT, "test"),))
    folder = tmp_path_factory.mktemp("training") / "run"
    card = train_transition(apply_plan(plan, [("kang", open_dataset(path))]), request, folder)
    shutil.move(folder / "model", server.settings.models / "kang")
    return card.id


def test_from_upload_to_export(server: Server, page: Page, model: str, real_data: Path) -> None:
    page.goto(f"{server.address}/data")
    settle(page)
    page.set_input_files("input[type=file]", real_data / "kang_ifnb.h5ad")
    page.get_by_text("kang_ifnb.h5ad", exact=True).first.wait_for()
    page.get_by_text("column condition").first.wait_for()
    settle(page)
    shows(page, "1,975", "counts")
    keep_picture(page, "real-data")

    press(page, "to_models")
    press(page, f"choose_{model}")
    page.get_by_text("Does it fit your data?").wait_for()
    body = page.inner_text("body")
    assert "Yes." in body or "It can predict, with" in body
    keep_picture(page, "real-models")

    press(page, "to_predict")
    pick(page, "perturbations_", ["stimulated"])
    pick(page, "contexts_", [HELD_OUT])
    keep_picture(page, "real-request")
    page.click(".st-key-predict button")
    # a prediction that takes longer than a person waits has a button instead
    page.wait_for_selector(".st-key-go_explore, .st-key-figure_map", timeout=300_000)
    settle(page)
    keep_picture(page, "real-predicted")
    if "/explore" not in page.url:
        press(page, "go_explore")
    map_drawn(page, "map")
    page.wait_for_timeout(1500)
    no_errors(page)
    keep_picture(page, "real-explore")
    lasso(page, "map")
    keep_picture(page, "real-explore-lasso")

    page.click(".st-key-menu a:has-text('Genes')")
    page.wait_for_selector(".st-key-figure_volcano .js-plotly-plot")
    settle(page)
    no_errors(page)
    shows(page, "go up")
    keep_picture(page, "real-genes")

    page.click(".st-key-menu a:has-text('Attention')")
    page.wait_for_selector(".st-key-compute_attention")
    page.click(".st-key-compute_attention button")
    page.wait_for_selector(".js-plotly-plot", timeout=120_000)
    settle(page)
    no_errors(page)
    keep_picture(page, "real-attention")

    page.click(".st-key-menu a:has-text('Submit')")
    page.wait_for_selector(".st-key-take_cells")
    settle(page)
    _check_downloads(page)
    keep_picture(page, "real-submit")


def _check_downloads(page: Page) -> None:
    """The cells open with AnnData, and the tables are a zip with the genes' table."""
    with page.expect_download(timeout=120_000) as download:
        page.locator(".st-key-take_cells [data-testid=stDownloadButton] button").first.click()
    cells = anndata.read_h5ad(download.value.path())
    assert set(cells.obs[keys.KIND]) >= {keys.PREDICTED, keys.PREDICTED_CONTROL, keys.OBSERVED_CONTROL}
    assert HELD_OUT in set(cells.obs[keys.CONTEXT]) and "raw" in cells.layers
    page.click(".st-key-make_tables button")
    page.wait_for_selector(".st-key-take_tables [data-testid=stDownloadButton]", timeout=120_000)
    settle(page)
    with page.expect_download() as download:
        page.locator(".st-key-take_tables [data-testid=stDownloadButton] button").first.click()
    names = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())).namelist()
    assert any("stimulated" in name and name.endswith(".csv") for name in names), names
