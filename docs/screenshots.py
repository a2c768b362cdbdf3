"""Make the pictures of the README and of docs/: the demo with a run of each kind, opened in Chromium.

    python docs/screenshots.py                the pictures in docs/images
    python docs/screenshots.py --all FOLDER   every page, light and dark, at three widths, to look at; fails where a page is wider than
                                              its window, shows an error, or has no picture of its run
    … --home HOME                             an installation that is kept: what an earlier call made in it is not made again

Needs Chromium and the packages of requirements-dev.txt; run it in the root of the repository.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pages.parts.navigation import names  # noqa: E402
from tests.browser.app import Server, chromium, running_app, settle  # noqa: E402
from tests.browser.demo_runs import DemoRuns, ask_to_learn, ask_to_look  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MAP, FIGURE = ".st-key-figure_{} .cell-map[data-painted]", ".st-key-figure_{} .js-plotly-plot"
# page -> what has to be there before its picture is taken: the answer of the run that is open
ANSWERS = {
    "explore": f"body:has({FIGURE.format('conditions')}) {MAP.format('map')}",
    "genes": FIGURE.format("volcano"),
    "screen": FIGURE.format("screen_alike"),
    "evaluate": FIGURE.format("evaluation_effects"),
    "embed": MAP.format("embedding"),
    "finetune": FIGURE.format("head_confusion"),
    "pretrain": FIGURE.format("pretrain_loss"),
}
# pages whose picture is in the README or in a tutorial
PICTURES = ("explore", "genes", "screen", "evaluate", "compare", "embed", "finetune", "train", "models", "submit")
VIEWS = tuple((width, scheme) for width in (1440, 1024, 420) for scheme in ("light", "dark"))
# error boxes and placeholders of Streamlit, and by how many pixels the page or its main part is wider than there is room for
FAULTS = """() => {
    const main = document.querySelector("[data-testid=stMain]");
    const wide = Math.max(document.documentElement.scrollWidth - window.innerWidth, main.scrollWidth - main.clientWidth);
    const errors = [...document.querySelectorAll("[data-testid=stAlertContentError], [data-testid=stException]")];
    return [...(wide > 0 ? [`${wide} pixels wider than the window`] : []), ...errors.map(e => `shows: ${e.innerText.slice(0, 200)}`)];
}"""


def opened(browser: Browser, address: str, name: str, width: int, scheme: str) -> Page:
    """Open a page and wait until it stands still, with the answer of its run; a file without a name as it is."""
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(240_000)
    page.goto(address)
    if not name:  # a file, no page of the app
        return page
    settle(page)
    if name in ANSWERS:
        page.wait_for_selector(ANSWERS[name])
        settle(page)
    page.wait_for_timeout(1500)  # figures move into their places
    settle(page)
    return page


def save(page: Page, path: Path) -> None:
    """Save what is on the screen as WebP, small enough for a repository."""
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").save(path, "WEBP", quality=72, method=6)


def pictures_of_docs(server: Server, browser: Browser, demo: DemoRuns) -> None:
    """Take the pictures of the README and of docs/: pages, and the report of the prediction as a file."""
    IMAGES.mkdir(exist_ok=True)
    for name in PICTURES:
        page = opened(browser, server.address + demo.address(name), name, 1440, "light")
        save(page, IMAGES / f"{name}.webp")
        page.close()
    page = opened(browser, demo.runs["predict"].file("report.html").as_uri(), "", 1440, "light")
    save(page, IMAGES / "report.webp")
    page.close()


def all_pictures(server: Server, browser: Browser, demo: DemoRuns, folder: Path, pages: list[str]) -> list[str]:
    """Take pages in every view, from their top to their end; return what is wrong with them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in pages:
        page = opened(browser, server.address + demo.address(name), name, *VIEWS[0])
        for width, scheme in VIEWS:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(1000)
            settle(page)
            # the page scrolls inside its main part: a window as high as that part shows all of it
            height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
            page.set_viewport_size({"width": width, "height": min(height + 20, 5000)})
            page.wait_for_timeout(1000)
            page.screenshot(path=folder / f"{name}-{scheme}-{width}.png")
            found += [f"{name} {scheme} {width}: {fault}" for fault in page.evaluate(FAULTS)]
        page.close()
    return found


def main() -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README and of docs/.")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page in every view into this folder instead")
    parser.add_argument(
        "--pages", nargs="+", default=names(), choices=names(), metavar="NAME", help="with --all: these pages alone"
    )
    parser.add_argument("--home", type=Path, help="an installation that is kept; default: a new one that goes")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        home = chosen.home or Path(passing)
        home.mkdir(parents=True, exist_ok=True)
        with running_app(home) as server, chromium() as browser:
            demo = DemoRuns(server.settings)
            if not demo.runs:
                ask_to_look(demo)
                ask_to_learn(demo)
            if not chosen.all:
                pictures_of_docs(server, browser, demo)
                return 0
            found = all_pictures(server, browser, demo, chosen.all, chosen.pages)
    sys.stdout.write("\n".join(found or ["No page is too wide or shows an error."]) + "\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
