"""A file that never ends to be opened holds up its own session, and nobody else's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from state_engine.library.datasets import DEMO_ID, list_datasets
from state_engine.library.models import list_models
from tests.browser.app import Server, no_errors, settle
from tests.hostile import write_hanging

pytestmark = [pytest.mark.browser, pytest.mark.slow]
QUICK = 12.0  # seconds for two pages on a busy machine; the file is waited for a minute


def test_others_get_their_pages_while_a_file_hangs(server: Server, browser: Browser, tmp_path: Path) -> None:
    model = next(e.card.id for e in list_models(server.settings) if e.demo and e.card)
    addresses = [f"{server.address}/{name}?data={DEMO_ID}&model={model}" for name in ("data", "models")]
    first, other = browser.new_context().new_page(), browser.new_context().new_page()
    for page in (first, other):
        page.set_default_timeout(60_000)
    for address in addresses:  # what a server reads once is read
        other.goto(address)
        settle(other)
    first.goto(f"{server.address}/data")
    settle(first)
    first.set_input_files("[class*='st-key-upload_0'] input[type=file]", write_hanging(tmp_path / "mine.h5ad"))
    uploads = server.settings.uploads
    for _ in range(200):  # until the copy is on disk, which is when it is opened
        if uploads.is_dir() and any(uploads.glob("*.h5ad")):
            break
        time.sleep(0.1)
    assert any(uploads.glob("*.h5ad")), "the file is not being opened"
    started = time.monotonic()
    for address in addresses:
        other.goto(address)
        settle(other)
        no_errors(other)
        assert other.locator("h1").first.inner_text().strip()
    assert time.monotonic() - started < QUICK
    assert any(uploads.glob("*.h5ad")), "the file was not hanging any more: nothing was shown"
    first.get_by_text("mine.h5ad could not be opened within").wait_for(timeout=120_000)
    assert not any(uploads.glob("*.h5ad")) and [e.id for e in list_datasets(server.settings)] == [DEMO_ID]
    for page in (first, other):
        page.context.close()
