"""The app as users have it, driven from Python: a server with a home of its own, Chromium, and the gestures of a user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from state_engine.config import Settings
from tests.jobs.workers import stopped

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
IDLE = "[data-testid=stApp][data-test-connection-state=CONNECTED][data-test-script-state=notRunning]"


@dataclass(frozen=True)
class Server:
    """A running app: where it answers and where it keeps things."""

    address: str
    settings: Settings
    process: int


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield instance
        instance.close()


@contextmanager
def running_app(home: Path, tree: Path = ROOT, flags: tuple[str, ...] = ()) -> Iterator[Server]:
    """A server on a free port, which keeps everything in `home`; it ends with the block, and its worker too.

    Args:
        home: of the installation.
        tree: whose app it is.
        flags: further ones of Streamlit.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), *flags]
    with (home / "server.log").open("wb") as log:
        environment = os.environ | {"STATE_EXPLORER_HOME": str(home)}
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield Server(f"http://127.0.0.1:{port}", Settings(home), process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)
        stopped(Settings(home))


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def settle(page: Page) -> None:
    """Until the script has run and nothing is a placeholder any more. On a busy machine a click may arrive later: wait for what it shows."""
    page.wait_for_timeout(250)
    page.wait_for_selector(IDLE, timeout=120_000)
    page.wait_for_function("document.querySelectorAll('[data-testid=stSkeleton]').length === 0")


def shows(page: Page, *texts: str, within: str = "body") -> None:
    """Until the page, or the first element of a selector, shows all the texts as a person reads them."""
    for text in texts:
        read = "([within, text]) => [...document.querySelectorAll(within)].slice(0, 1).some(e => e.innerText.includes(text))"
        try:
            page.wait_for_function(read, arg=[within, text], timeout=60_000)
        except TimeoutError as error:
            raise AssertionError(f"{text!r} is not in {page.inner_text(within)[:3000]!r}") from error


def press(page: Page, key: str) -> None:
    """Click the button of a Streamlit key and wait for what it does."""
    page.click(f".st-key-{key} button")
    settle(page)


def open_demo(server: Server, page: Page) -> None:
    """Choose the demo on the first page, and wait for the page that it leads to: its address holds the ids of data set and model."""
    page.goto(server.address)
    settle(page)
    page.click(".st-key-start_demo button")
    page.wait_for_url("**/predict?*model=*")
    settle(page)


def pick(page: Page, key_start: str, names: list[str]) -> None:
    """Choose options of a multiselect by typing; those that are chosen already stay so."""
    box = page.locator(f"[class*='st-key-{key_start}'] input").first
    there = page.locator(f"[class*='st-key-{key_start}'] [data-testid=stMultiSelect]").first.inner_text()
    for name in (name for name in names if name not in there):
        box.fill(name)
        page.locator("[data-testid=stSelectboxVirtualDropdown] li, [role=option]").first.wait_for()
        page.keyboard.press("Enter")
        settle(page)
    page.keyboard.press("Escape")
    page.locator("h1").first.click()  # the list of options lies over what is below it until it loses the focus
    settle(page)


def map_drawn(page: Page, key: str, timeout: float = 300_000) -> None:
    """Until the map of a Streamlit key has drawn its cells, as often as it was asked to."""
    page.wait_for_selector(f".st-key-figure_{key} .cell-map[data-painted]", timeout=timeout)
    settle(page)
    one = page.locator(f".st-key-figure_{key} .cell-map").element_handle()
    page.wait_for_function("(map) => !map.isConnected || map.dataset.painted === map.dataset.drawn", arg=one)


def lasso(page: Page, key: str) -> None:
    """Draw around all cells of the map of a Streamlit key; the page then has a button that clears the selection."""
    # in the middle of the window: the head of the page lies over what is at its upper edge
    page.locator(f".st-key-figure_{key} .cell-map .cells").evaluate("map => map.scrollIntoView({block: 'center'})")
    box = page.locator(f".st-key-figure_{key} .cell-map .cells").bounding_box()
    assert box is not None
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.02)]
    at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()
    page.get_by_text("Clear selection").wait_for()
    settle(page)


def no_errors(page: Page) -> None:
    """No error box, no traceback, no page that is missing."""
    assert page.locator("[data-testid=stAlertContentError]").count() == 0, page.inner_text("body")[:3000]
    assert page.locator("[data-testid=stException]").count() == 0, page.inner_text("body")[:3000]


def keep_picture(page: Page, name: str) -> None:
    """A screenshot into the folder named by STATE_EXPLORER_PICTURES, for looking at; none without it."""
    folder = os.environ.get("STATE_EXPLORER_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=False)
