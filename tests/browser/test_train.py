"""A training in Chromium on the demo: the split from clicks, live curves, stop, reload, go on, the verdict, and a prediction with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page

from state_engine.library.datasets import DEMO_PATH
from tests.browser.app import Server, keep_picture, no_errors, open_demo, pick, press, settle, shows

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout"),
]
TINY = "hidden=16\nlayers=1\nheads=2\nset_size=16\nsets_a_step=4\nvalidate_every=50\ncheckpoint_every=50\nvalidation_sets=8"


def fill(page: Page, key: str, value: str) -> None:
    """Type into a widget and leave it."""
    box = page.locator(f"[class*='st-key-{key}'] input, [class*='st-key-{key}'] textarea").first
    box.fill(value)
    box.press("Control+Enter" if key == "train_settings" else "Enter")
    settle(page)


def test_from_clicks_to_a_model(server: Server, page: Page) -> None:
    open_demo(server, page)
    page.goto(page.url.replace("/predict", "/train"))
    page.wait_for_selector("text=What is it tested on?")
    settle(page)
    keep_picture(page, "train-form")
    shows(page, "Tested on CD8 T (held out whole). Nothing is kept for validation.")
    page.get_by_text("Perturbations", exact=True).first.click()
    page.wait_for_selector("[class*='st-key-split_n_test_demo']")
    settle(page)
    page.get_by_text("Contexts", exact=True).first.click()
    page.wait_for_selector("[class*='st-key-split_val_demo']")
    pick(page, "split_val_demo", ["B"])
    shows(page, "Tested on CD8 T (held out whole). Validated on B (held out whole).")
    page.get_by_text("More settings").click()
    fill(page, "train_steps_default", "1000")
    fill(page, "train_settings", TINY)
    settle(page)
    no_errors(page)
    keep_picture(page, "train-settings")
    page.click(".st-key-train button")

    page.wait_for_selector(".st-key-training_stop", timeout=60_000)
    page.wait_for_selector("text=Error on validation cells", timeout=120_000)
    page.wait_for_selector("text=Validation at", timeout=120_000)
    keep_picture(page, "train-running")
    address = page.url
    assert "training=" in address
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".st-key-training_stop", timeout=60_000)
    page.click(".st-key-training_stop button")
    page.wait_for_selector("text=What was trained so far is kept", timeout=60_000)
    settle(page)
    no_errors(page)
    keep_picture(page, "train-stopped")
    before = steps_shown(page)
    press(page, "training_resume")

    page.wait_for_selector("text=it is in your library", timeout=300_000)
    settle(page)
    no_errors(page)
    assert 0 < before < 1000 and steps_shown(page) == 1000
    shows(
        page, "Trained for 1,000 steps", "How good is it on cells it has never seen?", "MAE", "no change", "How far to believe it"
    )
    keep_picture(page, "train-done")
    press(page, "training_predict")
    page.wait_for_selector("text=known to this model", timeout=60_000)
    settle(page)
    no_errors(page)


def steps_shown(page: Page) -> int:
    """The last step of the loss curve, from its caption."""
    return int(page.get_by_text("Validation at").first.inner_text().split(" steps")[0].replace(",", ""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 420])
def test_it_can_be_read_at_any_width_and_in_the_dark(browser: Browser, server: Server, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(60_000)
    page = context.new_page()
    runs = (
        sorted(p.name for p in server.settings.runs.iterdir() if (p / "training").is_dir())
        if server.settings.runs.is_dir()
        else []
    )
    shown: dict[str, Callable[[], object]] = {
        f"{server.address}/train?data=demo": lambda: page.wait_for_selector("text=What is trained?"),
    }
    if runs:
        shown[f"{server.address}/train?data=demo&training={runs[-1]}"] = lambda: page.wait_for_selector(".js-plotly-plot")
    for number, (address, ready) in enumerate(shown.items()):
        page.goto(address)
        ready()
        settle(page)
        no_errors(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
        keep_picture(page, f"train-{scheme}-{width}-{number}")
    context.close()
