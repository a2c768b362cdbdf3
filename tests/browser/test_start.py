"""The server: deep links first, no torch in its process, the demo in one click, and a run that survives a reload."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest
from playwright.sync_api import Browser, Page

from state_engine.jobs.store import JobStore
from state_engine.library.datasets import DEMO_ID, DEMO_PATH
from state_engine.library.models import list_models
from tests.browser.app import ROOT, Server, keep_picture, no_errors, open_demo, pick, press, settle, shows

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGES = ("", "data", "models", "predict", "runs", "explore", "genes", "attention", "submit")


def test_a_deep_link_opened_first_has_the_whole_app(start_server: Callable[[], Server], browser: Browser) -> None:
    server = start_server()
    page = browser.new_page()
    page.goto(f"{server.address}/genes")
    settle(page)
    page.wait_for_timeout(1000)
    assert page.title().startswith("Genes") and page.locator(".st-key-menu a").count() >= len(PAGES)
    assert page.locator("[role=dialog]").count() == 0, page.inner_text("[role=dialog]")
    shows(page, "Which genes?", within="h1")
    page.close()


def whole_app(page: Page, title: str) -> None:
    """The page of this title, with the menu, the thread and no message in front of it."""
    settle(page)
    page.wait_for_timeout(1000)
    assert page.title().startswith(title) and page.locator(".st-key-menu a").count() >= len(PAGES)
    assert page.locator(".st-key-thread").count() == 1 and page.locator("[role=dialog]").count() == 0
    no_errors(page)


def test_the_same_deep_link_works_again_and_again(start_server: Callable[[], Server], browser: Browser) -> None:
    server = start_server()
    page = browser.new_page()
    for _ in range(2):
        page.goto(f"{server.address}/predict")
        whole_app(page, "Predict")
        assert page.locator(".st-key-empty_state").count() == 1
    press(page, "empty_go")  # and the app goes on from there
    whole_app(page, "Data")
    page.close()


def test_two_sessions_open_deep_links_at_once(start_server: Callable[[], Server], browser: Browser) -> None:
    server = start_server()
    pages = {"Predict": browser.new_context().new_page(), "Runs": browser.new_context().new_page()}
    for title, page in pages.items():
        page.goto(f"{server.address}/{title.lower()}", wait_until="commit")
    for title, page in pages.items():
        whole_app(page, title)
        page.context.close()


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_a_fragment_of_a_deep_linked_page_runs_again(start_server: Callable[[], Server], browser: Browser) -> None:
    """The panel of a job is a fragment that polls: opened by a deep link first, it gives way to the result by itself."""
    server = start_server()
    model = next(e.card.id for e in list_models(server.settings) if e.demo and e.card)
    page = browser.new_page()
    page.goto(f"{server.address}/predict?data={DEMO_ID}&model={model}")
    whole_app(page, "Predict")
    pick(page, "perturbations_", ["TNF"])
    page.click(".st-key-predict button")
    page.wait_for_url("**/explore*", timeout=180_000)
    whole_app(page, "Explore")
    page.go_back()  # once: the result opens a single time
    page.wait_for_selector(".st-key-go_explore", timeout=60_000)
    whole_app(page, "Predict")
    page.close()


def test_every_page_of_the_menu_has_its_file_for_deep_links() -> None:
    from pages.parts.navigation import names

    files = {path.stem for path in (ROOT / "pages").glob("*.py")} - {"__init__"}
    assert files == set(names())


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (420, "light")])
def test_every_page_opens_without_an_error(server: Server, browser: Browser, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    for name in PAGES:
        page.goto(f"{server.address}/{name}")
        settle(page)
        no_errors(page)
        assert page.locator("h1").first.inner_text().strip()
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{name} is {overflow} pixels wider than the window"
        keep_picture(page, f"start-{name or 'home'}-{scheme}-{width}")
    page.close()


def test_the_server_never_loads_torch(server: Server, page: Page) -> None:
    for name in PAGES:
        page.goto(f"{server.address}/{name}")
        settle(page)
    maps = psutil.Process(server.process).memory_maps()
    assert maps and not [m.path for m in maps if "libtorch" in m.path or "/torch/" in m.path]


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_what_is_typed_and_entered_adds_one_perturbation(server: Server, page: Page) -> None:
    model = next(e.card.id for e in list_models(server.settings) if e.demo and e.card)
    page.goto(f"{server.address}/predict?data={DEMO_ID}&model={model}")
    settle(page)
    picker = page.locator("[class*='st-key-perturbations_']").first
    picker.locator("input").first.click()
    for _ in range(len(picker.locator("[data-baseweb=tag]").all())):
        page.keyboard.press("Backspace")
    settle(page)
    picker.locator("input").first.fill("IFN")
    page.locator("[data-testid=stSelectboxVirtualDropdown] li, [role=option]").first.wait_for()
    page.keyboard.press("Enter")
    settle(page)
    assert ("IFN-beta" in picker.inner_text(), "IFN-gamma" in picker.inner_text()) == (True, False)


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_demo_from_one_click_to_every_answer(server: Server, page: Page) -> None:
    open_demo(server, page)
    pick(page, "perturbations_", ["IFN-beta", "TNF", "Dexamethasone"])
    page.click(".st-key-predict button")
    page.wait_for_url("**/*run=*")
    address = page.url.replace("/explore", "/predict")  # where the result opens by itself when it is done
    # a reload is a new session: the run is in the address
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".st-key-go_explore", timeout=180_000)
    settle(page)
    keep_picture(page, "demo-predict")
    for name in ("explore", "genes", "attention", "submit"):
        page.goto(address.replace("/predict", f"/{name}"))
        settle(page)
        page.wait_for_timeout(1500)
        no_errors(page)
        keep_picture(page, f"demo-{name}")
    jobs = JobStore(server.settings.database).list()
    assert any(job.kind == "predict" and job.state == "done" and job.started is not None for job in jobs)
