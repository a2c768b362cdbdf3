"""Make the pictures of the README: the demo, predicted and opened in Chromium.

    python docs/screenshots.py                the two pictures in docs/images
    python docs/screenshots.py --all FOLDER   every page, light and dark and on a narrow screen, to look at

Starts the app with a new home, predicts three perturbations of the demo, waits for the map and the tables, and takes pictures. Needs Chromium and
the packages of requirements-dev.txt; run it in the root of the repository.
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

from tests.browser.app import Server, chromium, open_demo, pick, running_app, settle  # noqa: E402

IMAGES = ROOT / "docs" / "images"
# picture -> page, colour scheme, and what has to be there before it is taken
README = {
    "explore": ("explore", "light", ".st-key-figure_map .cell-map[data-painted]"),
    "genes": ("genes", "light", ".st-key-figure_volcano .js-plotly-plot"),
}
PAGES = ("", "data", "models", "predict", "embed", "runs", "explore", "genes", "attention", "evaluate", "submit", "train")
VIEWS = ((1440, "light"), (1440, "dark"), (420, "light"))


def demo_prediction(server: Server, browser: Browser) -> str:
    """Predict three perturbations of the demo as a user would, and return the address of the finished run."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(240_000)
    open_demo(server, page)
    pick(page, "perturbations_", ["IFN-beta", "TNF", "Dexamethasone"])
    page.click(".st-key-predict button")
    page.wait_for_selector(".st-key-go_explore")
    settle(page)
    for name, _, ready in README.values():  # the first visit starts the jobs that make map and tables
        page.goto(page.url.replace("/predict", f"/{name}").replace("/explore", f"/{name}"))
        page.wait_for_selector(ready)
        settle(page)
    address = page.url
    page.close()
    return address.split("?")[1]


def opened(server: Server, browser: Browser, name: str, query: str, width: int, scheme: str) -> Page:
    """Open a page on the run and wait until it stands still."""
    page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(240_000)
    page.goto(f"{server.address}/{name}?{query}")
    settle(page)
    page.wait_for_timeout(2500)
    settle(page)
    return page


def save(page: Page, path: Path) -> None:
    """Save what is on the screen as WebP, small enough for a repository."""
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").save(path, "WEBP", quality=80, method=6)


def readme_pictures(server: Server, browser: Browser, query: str) -> None:
    """Take the two pictures of the README."""
    IMAGES.mkdir(exist_ok=True)
    for name, (page_name, scheme, ready) in README.items():
        page = opened(server, browser, page_name, query, 1440, scheme)
        page.wait_for_selector(ready)
        save(page, IMAGES / f"{name}.webp")
        page.close()


def all_pictures(server: Server, browser: Browser, query: str, folder: Path) -> None:
    """Take every page in every view, from its top to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    for width, scheme in VIEWS:
        for name in PAGES:
            page = opened(server, browser, name, query, width, scheme)
            # the page scrolls inside its main part: a window as high as that part shows all of it
            height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
            page.set_viewport_size({"width": width, "height": min(height + 20, 4000)})
            page.wait_for_timeout(800)
            page.screenshot(path=folder / f"{name or 'home'}-{scheme}-{width}.png")
            page.close()


def main() -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page in every view into this folder instead")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, running_app(Path(home)) as server, chromium() as browser:
        query = demo_prediction(server, browser)
        if chosen.all:
            all_pictures(server, browser, query, chosen.all)
        else:
            readme_pictures(server, browser, query)
    return 0


if __name__ == "__main__":
    sys.exit(main())
