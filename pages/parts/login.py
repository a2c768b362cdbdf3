"""Who is here: the owner that the login names, else the local one; and the gate before every page and route where people log in.

Login is configured by `[auth]` in Streamlit's secrets.toml (OpenID Connect). A file of secrets that cannot be read opens nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import streamlit as st
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.auth_util import get_cookie_with_chunks
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.secrets import secrets_singleton
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from pages.parts.format import md
from pages.parts.navigation import below_base, names
from state_engine.config import LOCAL, Settings, load_settings
from state_engine.errors import ConfigError, RequestError
from state_engine.library.people import owner_of

# asked for before anybody is known: the browser's program, the login itself, and whether the server lives. The page's own connection is
# open, too; what it shows is guarded by `logged_in`
OPEN: Final = (
    "/",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/stream",
    "/healthz",
    "/metrics",  # asks for a token of its own
    "/auth/login",
    "/auth/logout",
    "/oauth2callback",
)
OPEN_FOLDERS: Final = ("/static/",)


def login_configured() -> bool:
    """Return whether people log in here."""
    if secrets_singleton.load_if_toml_exists():
        return "auth" in secrets_singleton
    return any(Path(place).is_file() for place in st.get_option("secrets.files"))


def owner(settings: Settings) -> str:
    """Return whose session this is.

    Raises:
        RequestError: people log in here and this one did not. ConfigError: the login names nobody.
    """
    if not login_configured():
        return LOCAL
    if get_script_run_ctx(suppress_warning=True) is None or not st.user.is_logged_in:
        raise RequestError("Nobody is logged in.", "", "Log in first.")
    return owner_of(st.user.to_dict(), settings.trust_email)


def logged_in() -> bool:
    """Return whether this session may see anything."""
    return not login_configured() or bool(st.user.is_logged_in)


def owner_sentence() -> str:
    """Say whose data sets, models and runs these are."""
    if login_configured():
        return "What you open, import and run here is yours alone, unless you share a run by a link."
    return "Nothing leaves this computer. Nobody logs in here: whoever opens this address sees and changes the same data sets, models and runs."


def account() -> None:
    """Draw who is logged in, with the button that logs out; nothing where nobody logs in."""
    if not login_configured():
        return
    with st.sidebar, st.container(horizontal=True, vertical_alignment="center", key="account"):
        name = str(st.user.get("name") or st.user.get("email") or st.user.get("sub"))
        st.caption(f":material/person: {md(name)}")
        if st.button("Log out", key="log_out", type="tertiary"):
            st.logout()


def ask_for_login() -> None:
    """Draw the only page of somebody who is not logged in."""
    with st.container(key="login", width=420):
        st.title("STATE Explorer", anchor=False)
        st.markdown("Predicts how perturbations change single cells. Log in to see your data sets, models and runs.")
        for name, label in _providers().items():
            icon = ":material/login:"
            if st.button(label, key=f"login_{name or 'default'}", type="primary", icon=icon):
                st.login(name or None)


def owner_of_request(connection: HTTPConnection, settings: Settings) -> str | None:
    """Return who asks for a route: the local owner where nobody logs in; None for a stranger."""
    if not login_configured():
        return LOCAL
    secret = get_cookie_secret()

    def cookie(name: str) -> bytes | None:
        value = connection.cookies.get(name)
        return None if value is None else decode_signed_value(secret, name, value.encode("latin-1", "replace"))

    try:
        found = get_cookie_with_chunks(cookie, USER_COOKIE_NAME)
        claims = json.loads(found) if found else {}
        known = isinstance(claims, dict) and claims.get("is_logged_in")
        return owner_of(claims, settings.trust_email) if known else None
    except (ValueError, ConfigError):
        return None


class Gate:
    """Refuse routes that could hold somebody's record to whoever is not logged in, where people log in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and not _is_open(scope["path"])
        if guarded and owner_of_request(HTTPConnection(scope), load_settings()) is None:
            await PlainTextResponse("Log in first.\n", status_code=401)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_open(path: str) -> bool:
    """Return whether a path shows nothing of anybody: it is open, or a page's address, which the same program answers for each page."""
    path = below_base(path)
    return path in OPEN or path.startswith(OPEN_FOLDERS) or path.strip("/") in names()


def _providers() -> dict[str, str]:
    """Return the names of the logins that are configured with the words of their buttons; "" is the only one."""
    found: Mapping[str, object] = secrets_singleton.get("auth", {}) if secrets_singleton.load_if_toml_exists() else {}
    named = [name for name, section in found.items() if isinstance(section, Mapping) and "client_id" in section]
    if not named or "client_id" in found:
        return {"": "Log in"}
    return {name: f"Log in with {name.replace('_', ' ').capitalize()}" for name in named}
