"""From a prediction to a comparison, its report, and a link: in Chromium, with what leaves counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder
from tests.browser.app import Server, running_app, settle
from tests.pages.make_run import make_run

pytestmark = pytest.mark.browser
PRESSED = "[aria-pressed=true], [aria-checked=true]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, RunFolder]]:
    """A server with a finished prediction."""
    home = tmp_path_factory.mktemp("home")
    run = make_run(Settings(home))
    with running_app(home) as server:
        yield server, run


def test_a_comparison_is_asked_for_and_its_report_opens_offline(
    browser: Browser, place: tuple[Server, RunFolder], tmp_path: Path
) -> None:
    server, run = place
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    page.goto(f"{server.address}/compare?run={run.id}")
    settle(page)
    page.get_by_text("More settings").click()
    page.locator(".st-key-compare_map label").first.click()  # without the map: its UMAP takes long
    settle(page)
    page.click(".st-key-compare button")
    expect(page.get_by_text("effects correlate with median r")).to_be_visible(timeout=90_000)
    settle(page)
    page.get_by_role("button", name="Report").click()
    page.click(".st-key-make_report button")
    with page.expect_download(timeout=90_000) as download:
        page.locator(".st-key-report_" + parse_qs(urlsplit(page.url).query)["comparison"][0]).wait_for()
        page.get_by_role("button", name="Report (", exact=False).click(timeout=90_000)
    report = tmp_path / "report.html"
    download.value.save_as(report)
    context.close()

    alone = browser.new_context(offline=True)
    sheet = alone.new_page()
    asked: list[str] = []
    said: list[str] = []
    sheet.on("request", lambda request: asked.append(request.url))
    sheet.on("console", lambda message: said.append(message.text))
    sheet.goto(report.as_uri())
    expect(sheet.locator("svg").first).to_be_visible()
    assert asked == [report.as_uri()] and said == []
    assert "effects correlate with median r" in sheet.inner_text(".verdict")
    # the policy is in force: a script that somebody puts into the page does not run
    assert sheet.locator("meta[http-equiv=Content-Security-Policy]").count() == 1
    with pytest.raises(Exception, match="Content Security Policy"):
        sheet.add_script_tag(content="document.title = 'run'")
    alone.close()


def shown(page: Page) -> dict[str, str]:
    """Return what the address holds."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def test_a_link_shows_the_same_view_in_another_browser(browser: Browser, place: tuple[Server, RunFolder]) -> None:
    server, run = place
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{server.address}/explore?run={run.id}")
    settle(page)
    page.locator(".st-key-map_colour").get_by_text("Perturbation", exact=True).click()
    page.wait_for_url("**colour=Perturbation**")
    page.locator(".st-key-map_kinds").get_by_text("measured", exact=True).click()
    page.wait_for_url("**kinds=**")
    settle(page)
    address = page.url
    assert shown(page)["colour"] == "Perturbation" and "observed," not in shown(page)["kinds"] + ","
    other = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    other.goto(address)
    settle(other)
    for one in (page, other):
        expect(one.locator(".st-key-map_colour").locator(PRESSED)).to_have_text("Perturbation")
        expect(one.locator(".st-key-map_kinds").locator(PRESSED)).to_have_text(["predicted", "measured control"])
    assert shown(other) == shown(page)
    page.close()
    other.context.close()
