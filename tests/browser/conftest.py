"""A server for each file of tests, and a page of Chromium for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.app import CHROMIUM, Server, chromium, running_app


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with chromium() as instance:
        yield instance


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Server]]:
    """Starts servers that end with the module's tests, their workers too."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(running_app(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def server(start_server: Callable[[], Server]) -> Server:
    return start_server()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    context.set_default_timeout(120_000)
    yield context.new_page()
    context.close()
