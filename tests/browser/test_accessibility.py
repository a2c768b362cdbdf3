"""axe-core 4.14.1 (tests/browser/axe, MPL-2.0) on every page: nothing serious or critical of WCAG 2.2 A and AA, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from pages.parts.navigation import names
from state_engine.library.datasets import DEMO_ID, DEMO_PATH
from state_engine.library.models import list_models
from tests.browser.app import Server, settle

pytestmark = [pytest.mark.browser, pytest.mark.slow]
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
RULES = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'], resultTypes: ['violations']}"
DARK = ("home", "models", "predict")  # the style is one for all pages


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
@pytest.mark.parametrize(("scheme", "pages"), [("light", names()), ("dark", DARK)])
def test_no_page_has_a_serious_barrier(server: Server, browser: Browser, scheme: str, pages: tuple[str, ...]) -> None:
    model = next(e.card.id for e in list_models(server.settings) if e.demo and e.card)
    page = browser.new_page(viewport={"width": 1440, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(120_000)
    found = []
    for name in pages:
        page.goto(f"{server.address}/{'' if name == 'home' else name}?data={DEMO_ID}&model={model}")
        settle(page)
        page.evaluate(AXE)
        for rule in page.evaluate(f"axe.run(document, {RULES})")["violations"]:
            if rule["impact"] in ("serious", "critical"):
                found += [f"{name}: {rule['id']} at {node['target']}: {node['failureSummary'][:200]}" for node in rule["nodes"]]
    page.close()
    assert not found, "\n".join(found[:20])
