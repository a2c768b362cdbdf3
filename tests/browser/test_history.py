"""Back goes back one page, and what a page shows besides is in its address: one entry of the browser's history for each step."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page

from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DEMO_ID
from tests.browser.app import Server, running_app, settle
from tests.pages.finished_run import finished_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, RunFolder]]:
    home = tmp_path_factory.mktemp("home")
    run = finished_run(home)
    with running_app(home) as server:
        assert server.settings == Settings(home)
        yield server, run


def entries(page: Page) -> int:
    return int(page.evaluate("history.length"))


def title_is(page: Page, start: str) -> None:
    page.wait_for_function(f"document.title.startsWith('{start}')")
    settle(page)


def test_back_goes_back_one_page_at_a_time(browser: Browser, looked_at: tuple[Server, RunFolder]) -> None:
    server, run = looked_at
    page = browser.new_page()
    page.goto(f"{server.address}/runs?data={DEMO_ID}&run={run.id}")
    title_is(page, "Runs")
    before, way = entries(page), ("Genes", "Attention", "Predict", "Genes")
    for name in way:
        page.click(f".st-key-menu a:has-text('{name}')")
        title_is(page, name)
        page.wait_for_timeout(500)
        assert parse_qs(urlsplit(page.url).query)["run"] == [run.id]
    # Genes notes condition and gene in its address, the first time by an entry of its own
    assert entries(page) - before == len(way) + 1
    for name in ("Predict", "Attention", "Genes", "Genes", "Runs"):
        page.go_back()
        title_is(page, name)
        page.wait_for_timeout(500)
        assert parse_qs(urlsplit(page.url).query)["run"] == [run.id]
    page.close()


def test_what_another_page_chose_goes_in_one_step(browser: Browser, looked_at: tuple[Server, RunFolder]) -> None:
    """Explore shows what is chosen on Genes as well, and takes it out of its address where that is as usual."""
    server, run = looked_at
    page = browser.new_page()
    page.goto(f"{server.address}/genes?data={DEMO_ID}&run={run.id}")
    title_is(page, "Genes")
    page.wait_for_timeout(500)
    for name, most in (("Runs", 1), ("Explore", 2)):  # the address of the link, and the one without what is as usual
        before = entries(page)
        page.click(f".st-key-menu a:has-text('{name}')")
        title_is(page, name)
        page.wait_for_timeout(1000)
        assert entries(page) - before <= most, name
    page.close()
