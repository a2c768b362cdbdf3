"""The route of uploads: who may send, what comes back, and that a piece that stops leaves nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pages.parts import login, upload_route
from pages.parts.server import ROUTES
from pages.parts.upload_route import HEADER, SECONDS, read_token, token_for
from state_engine.config import Settings
from state_engine.library.arriving import PIECE, arrived

ID = "a" * 32
PLACE = f"/api/upload/{ID}"


@pytest.fixture
def client(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(upload_route, "_session_lives", lambda session: session == "here")
    with TestClient(Starlette(routes=list(ROUTES))) as client:
        yield client


def put(client: TestClient, content: bytes, start: int, size: int, **headers: str):  # type: ignore[no-untyped-def]
    words = {"name": "cells.h5ad", "size": str(size), "offset": str(start)}
    given = {HEADER: token_for("", "here", "upload")} | {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(PLACE, params=words, content=content, headers=given)


def test_pieces_come_in_and_are_asked_for(client: TestClient, home: Path) -> None:
    content = os.urandom(3_000_000)
    answer = put(client, content[:2_000_000], 0, len(content), X_Piece_Sha256=hashlib.sha256(content[:2_000_000]).hexdigest())
    assert (answer.status_code, answer.json()) == (200, {"offset": 2_000_000})
    token = answer.headers[HEADER]  # the next one
    assert client.head(PLACE, headers={HEADER: token}).headers["Upload-Offset"] == "2000000"
    assert put(client, b"x", 5, len(content)).json() == {"offset": 2_000_000}  # 409: go on there
    answer = put(client, content[2_000_000:], 2_000_000, len(content), X_File_Sha256=hashlib.sha256(content).hexdigest())
    assert answer.json() == {"offset": len(content)}
    ((found, place),) = arrived(Settings(home), "upload", "here")
    assert found.name == "cells.h5ad" and place.read_bytes() == content
    assert client.delete(PLACE, headers={HEADER: token}).status_code == 200 and arrived(Settings(home), "upload", "here") == ()


def test_bytes_that_were_damaged_do_not_count(client: TestClient, home: Path) -> None:
    assert put(client, b"abc", 0, 6, X_Piece_Sha256="0" * 64).status_code == 422
    assert client.head(PLACE, headers={HEADER: token_for("", "here", "upload")}).headers["Upload-Offset"] == "0"
    assert (
        put(client, b"abcdef", 0, 6, X_File_Sha256="0" * 64).status_code == 422
        and arrived(Settings(home), "upload", "here") == ()
    )


def test_limits(client: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert put(client, bytes(PIECE + 1), 0, 10**9).status_code == 413
    assert put(client, b"abcd", 0, 3).status_code == 422
    monkeypatch.setenv("STATE_EXPLORER_MAX_FILE_GB", "0.000001")
    answer = put(client, b"a", 0, 5000)
    assert answer.status_code == 413 and "are accepted here" in answer.json()["error"]
    monkeypatch.delenv("STATE_EXPLORER_MAX_FILE_GB")
    monkeypatch.setenv("STATE_EXPLORER_QUOTA_GB", "0.000001")
    answer = put(client, b"a", 0, 5000)
    assert answer.status_code == 507 and "no room left for you" in answer.json()["error"]
    assert str(home) not in answer.text
    for wrong in ({"name": "x"}, {"name": "x", "size": "many", "offset": "0"}):
        headers = {HEADER: token_for("", "here", "upload")}
        assert client.put(PLACE, params=wrong, content=b"a", headers=headers).status_code in (400, 422)


def test_who_has_no_token_sends_nothing(client: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = token_for("", "here", "upload")
    body, _, signature = good.partition(".")
    tokens = ["", "x", ".", body, f"{body}.{'0' * 64}", f"{body[:-4]}AAAA.{signature}", f"{body}.é"]
    tokens += [token_for("", "gone", "upload"), token_for("anna", "here", "upload"), token_for("", "here", "upload", now=0.0)]
    for token in tokens:
        for method in ("HEAD", "PUT", "DELETE"):
            answer = client.request(method, PLACE, headers={HEADER: token.encode()}, content=b"" if method == "PUT" else None)
            assert answer.status_code == 401, (token, method)
    assert not (home / "incoming").exists()
    monkeypatch.setattr(login, "login_configured", lambda: True)  # and nobody is logged in
    assert client.head(PLACE, headers={HEADER: good}).status_code == 401


def test_a_token_is_good_for_a_while() -> None:
    token = token_for("anna", "s", "box", now=1000.0)
    ticket = read_token(token, now=1000.0 + SECONDS - 1)
    assert ticket is not None and (ticket.owner, ticket.session, ticket.box) == ("anna", "s", "box")
    assert read_token(token, now=1000.0 + SECONDS + 1) is None
