"""The Evaluate page as users have it: the demo on its held-out cells, its numbers, figures and files, on a wide and on a small screen."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from tests.browser.app import Server, keep_picture, no_errors, press, settle, shows

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FIGURES = (".st-key-figure_evaluation_conditions .js-plotly-plot", ".st-key-figure_evaluation_effects .js-plotly-plot")


def test_the_demo_on_its_held_out_cells(server: Server, page: Page, browser: Browser) -> None:
    page.goto(f"{server.address}/evaluate")
    settle(page)
    keep_picture(page, "evaluate-empty")
    page.click(".st-key-evaluate_demo button")
    page.wait_for_selector(".st-key-evaluate_job_panel, " + FIGURES[1])
    address = page.url
    assert "evaluation=" in address
    page.goto("about:blank")  # the job goes on, and the address brings one back
    page.goto(address)
    for figure in FIGURES:
        page.wait_for_selector(figure, timeout=240_000)
    settle(page)
    no_errors(page)
    shows(
        page,
        "Held out of the training of Demo ST",
        "Too few conditions for a verdict",
        "How far does it get",
        "MAE ↓",
        "Mean of other contexts",
        "cell-eval2 0.20",
        "r = ",
        within="[data-testid=stMain]",
    )
    keep_picture(page, "evaluate-demo")
    with page.expect_download() as download:
        press(page, "evaluation_metrics_csv")
    table = pd.read_csv(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert {"corrected", "no change", "mean of other contexts"} <= set(table["method"]) and (
        table["n_measured"].dropna() > 0
    ).all()
    _choose_a_point(page)
    _small_and_dark(browser, page.url)


def _choose_a_point(page: Page) -> None:
    """A click on a condition shows its genes."""
    heading = page.locator(".st-key-figure_evaluation_effects strong").first
    before = heading.inner_text()
    points = page.locator(".st-key-figure_evaluation_conditions .scatterlayer .point")
    for i in range(points.count()):
        points.nth(i).click(force=True)
        settle(page)
        page.wait_for_timeout(500)
        if heading.inner_text() != before:
            break
    assert heading.inner_text() != before
    no_errors(page)


def _small_and_dark(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 420, "height": 900}, color_scheme="dark")
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(FIGURES[1])
    settle(page)
    no_errors(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    keep_picture(page, "evaluate-small-dark")
    context.close()
