"""A link survives the login: what the server notes of a stranger's request, and where it leads once they are known."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import streamlit as st
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import Message, Receive, Scope, Send

from pages.parts import deep_link
from pages.parts.deep_link import COOKIE, MOST, KeepsDeepLinks
from pages.parts.login import USER_COOKIE_NAME, _is_open
from pages.parts.navigation import below_base, names

LINK = "/genes?data=0123456789ab&run=20261129-120000-abcdef&gene=A%26B"


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_link, "login_configured", lambda: True)
    monkeypatch.setattr(deep_link, "owner_of_request", lambda connection, settings: None)


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("page")(scope, receive, send)


async def logged_in(scope: Scope, receive: Receive, send: Send) -> None:
    answer = RedirectResponse("/", 302)
    answer.set_cookie(USER_COOKIE_NAME, "somebody")
    await answer(scope, receive, send)


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    await RedirectResponse("/", 302)(scope, receive, send)


def answered(app: object, address: str, cookie: str = "") -> list[tuple[str, str]]:
    """Return the headers of the answer to a browser that asks for an address."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    path, _, query = address.partition("?")
    headers = [(b"cookie", f"{COOKIE}={cookie}".encode())] if cookie else []
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": headers}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(KeepsDeepLinks(app)(scope, receive, send))).result()  # type: ignore[arg-type]
    return [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]


def noted(address: str) -> str:
    """Return what the cookie holds after a stranger asked for an address; "" for no cookie."""
    cookies = [value for name, value in answered(page, address) if name == "set-cookie"]
    assert all("HttpOnly" in cookie and "SameSite=Lax" in cookie for cookie in cookies)
    return cookies[0].partition(";")[0].partition("=")[2] if cookies else ""


def led_to(cookie: str, app: object = logged_in) -> str:
    return dict(answered(app, "/oauth2callback?code=x", cookie))["location"]


def test_a_link_is_noted_and_followed_after_the_login() -> None:
    assert led_to(noted(LINK)) == LINK
    assert led_to(noted("/?share=TOKEN")) == "/?share=TOKEN"
    gone = [value for name, value in answered(logged_in, "/oauth2callback", noted(LINK)) if name == "set-cookie"]
    assert any(value.startswith(f"{COOKIE}=;") and "Max-Age=0" in value for value in gone)


def test_a_login_that_failed_leads_to_the_first_page_and_keeps_the_link() -> None:
    assert led_to(noted(LINK), refused) == "/"
    assert not [name for name, _ in answered(refused, "/oauth2callback", noted(LINK)) if name == "set-cookie"]


@pytest.mark.parametrize(
    "address", ["/", "/static/js/x.js", "/healthz", "/media/x.h5ad", "/nopage?x=1", "/oauth2callback?code=x"]
)
def test_what_is_no_page_with_a_choice_is_not_noted(address: str) -> None:
    assert noted(address) == ""


@pytest.mark.parametrize(
    "page_", ["https://evil.example/", "//evil.example/", "/\\evil.example", "evil", "/nopage", "/genes\r\nSet-Cookie: x=1?y", "/genes?x\r\n"]
)  # fmt: skip
def test_a_cookie_leads_nowhere_else(page_: str) -> None:
    assert led_to(quote(page_, safe="")) == "/"


def test_somebody_known_and_an_installation_without_a_login_get_no_cookie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_link, "owner_of_request", lambda connection, settings: "anna")
    assert noted(LINK) == ""
    monkeypatch.setattr(deep_link, "owner_of_request", lambda connection, settings: None)
    monkeypatch.setattr(deep_link, "login_configured", lambda: False)
    assert noted(LINK) == ""


def test_an_address_too_long_for_a_cookie_is_noted_without_its_choices() -> None:
    assert led_to(noted("/explore?perturbations=" + "x" * MOST)) == "/explore"


def test_the_app_may_lie_in_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "get_option", lambda name: "cells" if name == "server.baseUrlPath" else None)
    location = dict(answered(logged_in, "/cells/oauth2callback?code=x", noted("/cells" + LINK)))["location"]
    assert location == "/cells" + LINK
    assert below_base("/cells") == below_base("/cells/") == "/" and below_base("/cellsx") == "/cellsx"
    assert all(_is_open(f"/cells/{name}") for name in (*names(), "healthz", "oauth2callback")) and not _is_open("/cells/media/x")
