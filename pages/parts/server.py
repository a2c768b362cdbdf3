"""What the server refuses and says of itself, whatever page is asked for: hosts, headers of every answer, and whose call it is.

A page that a stranger opened elsewhere can point a name of its own at 127.0.0.1 and then speak to this server as if it were its own (DNS
rebinding); so only hosts that the installation knows are served. The content security policy keeps the browser from asking any other
machine for anything: an image in the name of a gene loads nothing.

Source: the ASGI specification; Content Security Policy level 3.
"""

from __future__ import annotations

import os
from typing import Final

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.parts.deep_link import KeepsDeepLinks
from pages.parts.login import Gate
from pages.parts.metrics import metrics
from pages.parts.upload_route import upload
from state_engine import __version__
from state_engine.config import load_settings
from state_engine.jobs.logs import start_log
from state_engine.sandbox import PLACES
from state_engine.sandbox.places import NOBODY

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Streamlit's own front end needs them
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'self' blob:",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def hosts() -> frozenset[str]:
    """Return the names under which this server may be addressed: local ones, its own address, and STATE_EXPLORER_HOSTS."""
    given = [h.strip().lower() for h in os.environ.get("STATE_EXPLORER_HOSTS", "").split(",")]
    own = [str(st.get_option(name) or "").lower() for name in ("server.address", "browser.serverAddress")]
    return frozenset(filter(None, (*LOCAL, *given, *own))) - {"0.0.0.0", "::"}


def host_of(header: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def browser() -> str:
    """Return what tells this browser from others, in all of its tabs and after a reload; "" outside a page.

    Streamlit gives each browser a random token, in a cookie that hides it behind another mask each time. Without one (a program that
    keeps no cookies) each session is for itself.
    """
    context = get_script_run_ctx(suppress_warning=True)
    if context is None:
        return NOBODY
    parts = str(st.context.cookies.get("_streamlit_xsrf", "")).split("|")
    try:
        mask, hidden = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
        return bytes(byte ^ mask[i % len(mask)] for i, byte in enumerate(hidden)).hex()
    except (IndexError, ValueError, ZeroDivisionError):
        return context.session_id


PLACES.callers_are(browser)  # so that one person's files do not hold up those of the others


class KnownHosts:
    """Refuse requests, and connections of the page, that name a host which this installation does not know."""

    def __init__(self, app: ASGIApp, known: frozenset[str] | None = None) -> None:
        self.app, self.known = app, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            name = host_of(Headers(scope=scope).get("host", ""))
            if name not in (self.known or hosts()):
                text = f"This server is not called '{name[:100]}'. Add the name to STATE_EXPLORER_HOSTS if it should be.\n"
                await PlainTextResponse(text, status_code=421)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SafeHeaders:
    """Add `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def health(request: Request) -> JSONResponse:
    """Answer whether this installation can work: its home can be written."""
    home = load_settings().home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    well = os.access(there, os.W_OK)
    return JSONResponse({"status": "ok" if well else "home cannot be written", "version": __version__}, 200 if well else 503)


if os.environ.get("STATE_EXPLORER_LOG") == "json":  # once, when the server imports this
    start_log()
ROUTES: Final = (
    Route("/healthz", health),
    Route("/metrics", metrics),
    Route("/api/upload/{identity}", upload, methods=["HEAD", "PUT", "DELETE"]),
)
MIDDLEWARE: Final = (Middleware(SafeHeaders), Middleware(KnownHosts), Middleware(Gate), Middleware(KeepsDeepLinks))
