"""The gate: a fresh server shows nothing before the login, whichever address is opened first; then each sees their own."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from pages.parts.navigation import names
from state_engine.library.datasets import adopt_upload
from tests.browser.app import Server, keep_picture, no_errors, running_app, settle, shows
from tests.browser.oidc import Provider, provider
from tests.small import write_cells

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SECRET = "pbmc-of-anna.h5ad"


@pytest.fixture(scope="module")
def idp() -> Iterator[Provider]:
    with provider() as found:
        yield found


@pytest.fixture(scope="module")
def server(idp: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    secrets = tmp_path_factory.mktemp("secrets") / "secrets.toml"
    secrets.write_text(idp.secrets())
    with running_app(home, flags=("--secrets.files", str(secrets))) as running:
        yield running


def log_in(idp: Provider, server: Server, page: Page, name: str) -> None:
    """Log in as somebody, from whatever page is open."""
    idp.claims = {"sub": name, "email": f"{name}@lab.example", "email_verified": True, "name": name.capitalize()}
    page.click(".st-key-login_default button")
    page.locator(".st-key-account").get_by_text(name.capitalize()).wait_for()
    settle(page)


def status(address: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_nothing_is_shown_before_the_login_and_then_ones_own(
    idp: Provider, server: Server, browser: Browser, tmp_path: Path
) -> None:
    anna = server.settings.of("anna@lab.example")
    entry = adopt_upload(anna, SECRET, write_cells(tmp_path / "cells.h5ad"))
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.set_default_timeout(120_000)
    for name in ("genes", *names()):  # a deep link first, on a server that ran nothing yet
        page.goto(f"{server.address}/{'' if name == 'home' else name}?data={entry.id}")
        page.locator(".st-key-login_default button").wait_for()
        settle(page)
        assert page.locator(".st-key-menu").count() == 0
        body = page.inner_text("body")
        assert SECRET not in body and "Data set" not in body, name
    keep_picture(page, "login")
    assert status(f"{server.address}/healthz") == 200
    for path in ("media/x.h5ad", "api/upload/" + "0" * 32, "_stcore/upload_file/a/b", "component/x", "runs/x", "jobs.sqlite"):
        assert status(f"{server.address}/{path}") == 401, path
    assert status(f"{server.address}/api/upload/" + "0" * 32, "PUT") == 401

    log_in(idp, server, page, "bert")
    page.goto(f"{server.address}/data?data={entry.id}")  # Anna's id is like one that never was
    settle(page)
    shows(page, "Nothing is open")
    assert SECRET not in page.inner_text("body")
    page.get_by_role("button", name="Log out").click()
    page.locator(".st-key-login_default button").wait_for()

    page.goto(f"{server.address}/data?data={entry.id}")
    page.locator(".st-key-login_default button").wait_for()
    log_in(idp, server, page, "anna")  # the link that was opened before the login is what it leads to
    page.get_by_role("heading", name=SECRET).wait_for()
    page.wait_for_url(f"**/data?*data={entry.id}*")
    settle(page)
    no_errors(page)
    keep_picture(page, "logged-in")
    page.context.close()
