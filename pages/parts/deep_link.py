"""A link to a page survives the login: the page that a stranger asked for is kept in a cookie and opened once they are known.

Streamlit's login always ends at the first page. The cookie holds a page's name and the query behind it, is read by this server alone, lasts
some minutes, and is followed only to pages of this app, so that nobody is led elsewhere.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from pages.parts.login import login_configured, owner_of_request
from pages.parts.navigation import base, below_base, names
from state_engine.config import load_settings

COOKIE: Final = "state_explorer_wanted"
SECONDS: Final = 1800  # that a login may take
MOST: Final = 3000  # characters of an address that are kept; browsers drop cookies above 4 kB
CALLBACK: Final = "/oauth2callback"


class KeepsDeepLinks:
    """Note which page a stranger asks for, and lead there instead of to the first page when the login is done."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not login_configured():
            await self.app(scope, receive, send)
            return
        if below_base(scope["path"]) == CALLBACK:
            await self.app(scope, receive, _leading_to(wanted(scope), send))
            return
        asked = asked_page(scope)
        if asked and owner_of_request(HTTPConnection(scope), load_settings()) is None:
            send = _noting(asked, send)
        await self.app(scope, receive, send)


def asked_page(scope: Scope) -> str:
    """Return the page that a request asks for with its query, as a path below the app's; "" for what is no page, or the first one as it is."""
    name, query = below_base(scope["path"]).strip("/"), scope["query_string"].decode("latin-1")
    if name not in ("", *names()) or not (name or query):
        return ""
    found = f"/{name}" + (f"?{query}" if query else "")
    return found if len(quote(found, safe="")) <= MOST else f"/{name}"


def wanted(scope: Scope) -> str:
    """Return the page that the cookie of a request names; "" without one, or where it names no page of this app."""
    found = unquote(HTTPConnection(scope).cookies.get(COOKIE, ""))
    path, _, query = found.partition("?")
    known = path.startswith("/") and path[1:] in ("", *names()) and query.isascii() and query.isprintable()
    return found if known else ""


def _leading_to(page: str, send: Send) -> Send:
    """Return what sends an answer on: where it logs somebody in, it leads to a page, and the cookie goes."""

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start" and page:
            headers = MutableHeaders(scope=message)
            if any(value.startswith(f"{USER_COOKIE_NAME}=") for value in headers.getlist("set-cookie")):
                headers["location"] = base() + page
                headers.append("set-cookie", _cookie("", 0))
        await send(message)

    return changed


def _noting(page: str, send: Send) -> Send:
    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("set-cookie", _cookie(quote(page, safe=""), SECONDS))
        await send(message)

    return changed


def _cookie(value: str, seconds: int) -> str:
    return f"{COOKIE}={value}; Path={base() or '/'}; Max-Age={seconds}; HttpOnly; SameSite=Lax"
