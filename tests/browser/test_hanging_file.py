"""Files that never end to be opened hold up their own person, in however many tabs, and nobody else."""

from __future__ import annotations

import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from state_engine.library.arriving import PIECE
from state_engine.library.datasets import DEMO_ID, list_datasets
from state_engine.library.models import list_models
from tests.browser.app import Server, no_errors, settle
from tests.hostile import write_hanging
from tests.small import write_cells

pytestmark = [pytest.mark.browser, pytest.mark.slow]
UPLOAD = ".st-key-upload_box input.pick-files"


def visit(page: Page, addresses: list[str]) -> None:
    """Open the pages, one after the other; each has to come whole."""
    for address in addresses:
        page.goto(address)
        settle(page)
        no_errors(page)
        assert page.locator("h1").first.inner_text().strip()


def choose_large(page: Page, file: Path) -> None:
    """Choose a large file in the upload box. Its bytes are sent from here before the box asks how many are there: Playwright takes ten seconds
    for a hundred megabytes of a request's body, in which the first file would be given up."""

    def send(route: Route) -> None:
        address, there, size = route.request.url, 0, file.stat().st_size
        with file.open("rb") as content:
            while route.request.method == "HEAD" and there < size:
                piece = content.read(PIECE)
                asked = urllib.parse.urlencode({"name": file.name, "size": size, "offset": there})
                headers = {"X-Upload-Token": route.request.headers["x-upload-token"]}
                urllib.request.urlopen(urllib.request.Request(f"{address}?{asked}", piece, headers, method="PUT")).close()
                there += len(piece)
        route.continue_()

    page.route("**/api/upload/*", send)
    with page.expect_response("**/api/upload/*"):
        page.set_input_files(UPLOAD, file)


def copies(server: Server, n: int) -> list[Path]:
    """Return the uploads of the server once there are this many: whole and with their names, which is when they are opened."""
    uploads, found = server.settings.uploads, list[Path]()
    for _ in range(300):
        found = list(uploads.glob("[!.]*.h5ad")) if uploads.is_dir() else []
        if len(found) == n:
            break
        time.sleep(0.1)
    assert len(found) == n
    return found


def test_others_get_their_pages_while_a_file_hangs(server: Server, browser: Browser, tmp_path: Path) -> None:
    model = next(e.card.id for e in list_models(server.settings) if e.demo and e.card)
    addresses = [f"{server.address}/{name}?data={DEMO_ID}&model={model}" for name in ("data", "models", "predict")]
    first, other = browser.new_context().new_page(), browser.new_context().new_page()
    for page in (first, other):
        page.set_default_timeout(60_000)
    visit(other, addresses)  # what a server reads once is read
    first.goto(f"{server.address}/data")
    settle(first)
    choose_large(first, write_hanging(tmp_path / "mine.h5ad"))
    (hanging,) = copies(server, 1)
    visit(other, addresses)
    assert hanging.exists(), "the file was not hanging any more: nothing was shown"

    # four of one person are two at a time, so a file of somebody else is opened meanwhile
    for i in range(3):
        tab = first.context.new_page()
        tab.goto(f"{server.address}/data")
        settle(tab)
        choose_large(tab, write_hanging(tmp_path / f"mine-{i}.h5ad"))
    copies(server, 4)
    other.goto(f"{server.address}/data")
    settle(other)
    other.set_input_files(UPLOAD, write_cells(tmp_path / "theirs.h5ad"))
    other.get_by_text("column perturbation").first.wait_for()
    no_errors(other)
    assert hanging.exists(), "the file was not hanging any more: nothing was shown"

    first.get_by_text("mine.h5ad could not be opened within").wait_for(timeout=120_000)
    assert not hanging.exists()
    assert sorted(e.name for e in list_datasets(server.settings) if e.id != DEMO_ID) == ["theirs.h5ad"]
    for page in (first, other):
        page.context.close()
