"""The box for files: pieces, an interruption, a reload in the middle, several files and a folder, as users do it."""

from __future__ import annotations

import filecmp
from pathlib import Path

import anndata
import numpy as np
import pytest
from playwright.sync_api import Page, Route

from state_engine.library.datasets import list_datasets
from tests.browser.app import Server, keep_picture, no_errors, settle
from tests.small import write_cells

pytestmark = [pytest.mark.browser, pytest.mark.slow]
BOX = ".st-key-upload_box"


def big_cells(path: Path) -> Path:
    """Write a data set of three pieces."""
    cells = anndata.read_h5ad(write_cells(path.with_name("small.h5ad")))
    cells.obsm["X_noise"] = np.random.default_rng(0).normal(size=(cells.n_obs, 17_000)).astype(np.float32)
    cells.write_h5ad(path)
    return path


def test_an_upload_goes_on_after_an_interruption_and_after_a_reload(server: Server, page: Page, tmp_path: Path) -> None:
    path = big_cells(tmp_path / "cells.h5ad")
    sent: list[str] = []

    def piece(route: Route) -> None:
        if route.request.method != "PUT":
            return route.continue_()
        sent.append(route.request.url.split("offset=")[1])
        # the first piece passes; then the line is dead
        return route.continue_() if len(sent) == 1 else route.abort()

    page.goto(f"{server.address}/data")
    settle(page)
    page.route("**/api/upload/**", piece)
    page.locator(f"{BOX} input.pick-files").set_input_files(path)
    page.get_by_text("Interrupted at 8 MB; it goes on by itself").wait_for()
    keep_picture(page, "upload-interrupted")
    page.unroute("**/api/upload/**")
    page.reload()
    settle(page)
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url.split("offset=")[1]) if request.method == "PUT" else None)
    page.locator(f"{BOX} input.pick-files").set_input_files(path)
    page.get_by_role("heading", name="cells.h5ad").wait_for()
    settle(page)
    no_errors(page)
    assert sent[0] == "0" and seen[0] == str(8 * 1024 * 1024) and "0" not in seen
    (entry,) = [e for e in list_datasets(server.settings) if e.origin == "upload"]
    assert filecmp.cmp(entry.path, path, shallow=False)
    assert not list((server.settings.home / "incoming").iterdir())


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning", "ignore:Consolidated")
def test_several_files_and_a_folder_come_at_once(server: Server, page: Page, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_cells(tmp_path / f"{name}.h5ad")
    page.goto(f"{server.address}/data")
    settle(page)
    page.locator(f"{BOX} input.pick-files").set_input_files([tmp_path / "one.h5ad", tmp_path / "two.h5ad"])
    page.get_by_role("heading", name="two.h5ad").wait_for()
    settle(page)
    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        anndata.read_h5ad(tmp_path / "one.h5ad").write_zarr(tmp_path / "store.zarr")
    page.locator(f"{BOX} input.pick-folder").set_input_files(tmp_path / "store.zarr")
    page.get_by_role("heading", name="store.zarr").wait_for()
    settle(page)
    no_errors(page)
    assert {"one.h5ad", "two.h5ad", "store.zarr"} <= {e.name for e in list_datasets(server.settings)}


def test_an_upload_can_be_paused_and_what_is_no_data_set_is_refused(server: Server, page: Page, tmp_path: Path) -> None:
    junk = tmp_path / "junk.h5ad"
    junk.write_bytes(b"no cells " * 4_000_000)
    page.goto(f"{server.address}/data")
    settle(page)
    page.route("**/api/upload/**", lambda route: (page.wait_for_timeout(700), route.continue_())[1])
    page.locator(f"{BOX} input.pick-files").set_input_files(junk)
    page.locator(f"{BOX} .pause").click()
    page.get_by_text("Paused at").wait_for()
    keep_picture(page, "upload-paused")
    page.locator(f"{BOX} .pause").click()
    page.get_by_text("junk.h5ad").and_(page.locator("[data-testid=stAlertContentError] *")).first.wait_for()
    assert "junk.h5ad" not in {e.name for e in list_datasets(server.settings)}
