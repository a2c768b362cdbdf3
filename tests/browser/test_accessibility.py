"""Every page with a finished run open, light and dark: nothing serious for axe-core 4.14.1 (tests/browser/axe, MPL-2.0; WCAG 2.2 A and AA), and every
control reached by the Tab key or with the arrows of its group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page

from pages.parts.navigation import names
from state_engine.library.datasets import DEMO_PATH
from tests.browser.app import Server, settle
from tests.browser.finished_runs import with_runs

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout"),
]
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
RULES = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'], resultTypes: ['violations']}"
# what has to be there with the run that a page shows
ANSWERS = {
    "explore": ".st-key-figure_map .cell-map[data-painted]",
    "genes": ".st-key-figure_volcano .js-plotly-plot",
    "attention": ".js-plotly-plot",
    "evaluate": ".st-key-figure_evaluation_effects .js-plotly-plot",
    "compare": ".js-plotly-plot",
    "screen": ".st-key-figure_screen_alike .js-plotly-plot",
    "train": ".js-plotly-plot",
    "finetune": ".st-key-figure_head_confusion .js-plotly-plot",
    "pretrain": ".st-key-figure_pretrain_loss .js-plotly-plot",
}
# a second view of a page: what its address holds besides, and the folds that are opened
SECOND = {
    "attention": ({"layer": "3", "head": "2", "under": "difference", "sort": "A gene"}, ()),
    "compare": ({"pair": "2"}, ("Another comparison", "How to repeat this, and what to know")),
    "screen": (
        {"rows": "1-2", "ask": "yes", "goal": "explanation", "sort": "effect_size"},
        ("How to repeat this, and what to know",),
    ),
}
# controls that are seen and may be used, but that no key reaches; those of a group are reached with the arrows from the one that has the focus
OUT_OF_REACH = """() => {
    const inside = (root) => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? inside(e.shadowRoot) : [])]);
    const controls = "a[href], button, input, select, textarea, summary, [role=button], [role=tab], [role=radio], [role=switch], [role=slider]";
    const groups = "[role=radiogroup], [role=tablist], [role=listbox], [role=menu], [role=toolbar], [role=group]";
    // the steps of a number are those of the arrow keys in its field
    const steps = (e) => e.closest("[data-testid=stNumberInput]") && e.matches("button");
    const used = (e) => !steps(e) && !e.disabled && e.getAttribute("aria-disabled") !== "true" && e.type !== "file" && e.type !== "hidden";
    const seen = (e) => e.checkVisibility({opacityProperty: true, visibilityProperty: true}) && !e.closest("[aria-hidden=true], [inert]");
    return inside(document.body).filter(e => e.matches(controls) && used(e) && seen(e) && e.tabIndex < 0)
        .filter(e => ![...(e.closest(groups)?.querySelectorAll("*") ?? [])].some(other => other.tabIndex >= 0))
        .map(e => e.outerHTML.slice(0, 200));
}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    with with_runs(tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.fixture(scope="module")
def sheet(browser: Browser) -> Iterator[Page]:
    """One page of Chromium for all pages of the app."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.close()


# a page that runs again fades what it is about to replace, and what it replaced it with comes back over a while
FADED = """() => document.querySelector("[data-stale=true]") === null &&
    document.getAnimations().every(a => a.playState !== "running" || a.effect.getComputedTiming().endTime === Infinity)"""


def barriers(page: Page) -> list[str]:
    """What is serious or critical on a page once it stands still."""
    settle(page)
    page.wait_for_function(FADED)
    found = page.evaluate(f"axe.run(document, {RULES})")["violations"]
    serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']} at {node['target']}: {node['failureSummary'][:200]}" for rule in serious for node in rule["nodes"]]


@pytest.mark.parametrize("name", names())
def test_a_page_with_its_answer_has_no_serious_barrier(place: tuple[Server, dict[str, str]], sheet: Page, name: str) -> None:
    found = looked_at(place, sheet, name, {}, ())
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("name", SECOND)
def test_a_second_view_has_none_either(place: tuple[Server, dict[str, str]], sheet: Page, name: str) -> None:
    found = looked_at(place, sheet, name, *SECOND[name])
    assert not found, "\n".join(found[:20])


def looked_at(
    place: tuple[Server, dict[str, str]], sheet: Page, name: str, more: dict[str, str], folds: tuple[str, ...]
) -> list[str]:
    """Return what is serious on a page, light and dark, and the controls that no key reaches."""
    server, runs = place
    sheet.emulate_media(color_scheme="light")
    sheet.goto(f"{server.address}/{'' if name == 'home' else name}?{urlencode(runs | more)}")
    settle(sheet)
    if name in ANSWERS:
        sheet.wait_for_selector(ANSWERS[name])
    for fold in folds:
        sheet.locator("summary", has_text=fold).click()
        settle(sheet)
    sheet.evaluate(AXE)
    found = [f"light: {barrier}" for barrier in barriers(sheet)]
    found += [f"no key reaches {control}" for control in sheet.evaluate(OUT_OF_REACH)]
    light = sheet.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    sheet.emulate_media(color_scheme="dark")  # the page follows without being opened again
    dark = "light => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor !== light"
    sheet.wait_for_function(dark, arg=light)
    return found + [f"dark: {barrier}" for barrier in barriers(sheet)]
