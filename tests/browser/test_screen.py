"""A screen of the demo in a browser: genes pasted, ranked, a row's genes, and on to Predict."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.app import Server, keep_picture, no_errors, open_demo, press, settle, shows

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_signature_leads_to_a_ranking_and_into_predict(server: Server, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(240_000)
    open_demo(server, page)
    page.goto(page.url.replace("/predict", "/screen"))
    settle(page)
    keep_picture(page, "screen-form")
    words = page.locator(".st-key-screen_up textarea")
    words.fill("ISG15 IFIT1 MX1 IFI6 STAT1")
    words.blur()
    settle(page)
    press(page, "screen")
    page.wait_for_selector(".st-key-figure_screen_alike .js-plotly-plot")
    settle(page)
    no_errors(page)
    shows(page, "The best is IFN-", within="h3")  # interferons move these genes in the demo
    address = page.url
    for width, scheme in ((1440, "light"), (1440, "dark"), (1024, "light"), (1024, "dark")):
        other = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
        other.set_default_timeout(240_000)
        other.goto(address)
        settle(other)
        other.wait_for_selector(".st-key-figure_screen_alike .js-plotly-plot")
        # as high as the page: nothing has to be scrolled
        height = other.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        other.set_viewport_size({"width": width, "height": min(height + 500, 4000)})
        other.wait_for_timeout(1500)
        settle(other)
        # a tick above the first row ticks all of them
        box = other.locator(".st-key-screen_ranking canvas").first.bounding_box()
        assert box is not None
        other.mouse.move(box["x"] + 20, box["y"] + 20)
        other.wait_for_timeout(500)
        other.mouse.click(box["x"] + 20, box["y"] + 20)
        settle(other)
        other.get_by_text("Which genes does it move?").wait_for()
        other.wait_for_timeout(800)
        no_errors(other)
        assert "rows=1-" in other.url
        keep_picture(other, f"screen-{scheme}-{width}")
        if (width, scheme) == (1440, "light"):  # a reload keeps the shortlist, and Back takes it back
            other.reload()
            settle(other)
            other.get_by_text("Which genes does it move?").wait_for()
            other.go_back()
            other.get_by_text("Which genes does it move?").wait_for(state="detached")
            assert "rows=" not in other.url
        if (width, scheme) == (1024, "dark"):
            press(other, "screen_predict")
            other.wait_for_url("**/predict?*")
            settle(other)
            shows(other, "IFN-", within="[class*='st-key-perturbations_']")
        other.close()
    page.close()
