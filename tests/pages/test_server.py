"""Hosts that are served, and the headers of every answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pages.parts.server import HEADERS, KnownHosts, SafeHeaders, host_of, hosts


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"ok"})


def asked(app: Any, host: str, kind: str = "http") -> list[dict[str, Any]]:
    """What an ASGI application sends for a request that names this host."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.request"}

    scope = {"type": kind, "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
    if kind == "websocket":
        scope["extensions"] = {"websocket.http.response": {}}
    # in a thread of its own: a browser test of the same process may have left a loop in this one
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(app(scope, receive, send))).result()
    return sent


@pytest.mark.parametrize("host", ["localhost", "localhost:8501", "127.0.0.1:8501", "[::1]:8501", "LOCALHOST:1"])
def test_local_names_are_served(host: str) -> None:
    assert asked(KnownHosts(answer), host)[0]["status"] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8501", "127.0.0.1.evil.example", "", "[::2]", "0.0.0.0"])
def test_other_names_are_not(host: str) -> None:
    assert asked(KnownHosts(answer), host)[0]["status"] == 421
    assert asked(KnownHosts(answer), host, "websocket")[0]["type"].startswith("websocket.http.response")


def test_an_installation_can_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOSTS", "cells.lab.example, 10.0.0.5")
    assert {"cells.lab.example", "10.0.0.5", "localhost"} <= hosts()
    assert asked(KnownHosts(answer), "cells.lab.example:443")[0]["status"] == 200


def test_every_answer_has_the_headers() -> None:
    headers = dict(asked(SafeHeaders(answer), "localhost")[0]["headers"])
    assert headers[b"x-own"] == b"1"
    for name, value in HEADERS.items():
        assert headers[name.lower().encode()] == value.encode()
    assert "img-src 'self' data: blob:" in HEADERS["Content-Security-Policy"]


def test_hosts_are_read_with_and_without_port() -> None:
    assert [host_of(h) for h in ("a:1", "A", "[::1]:3", "[::1]")] == ["a", "a", "::1", "::1"]
