"""The route that takes uploads: pieces go to disk as they come, so that a file of any size costs the server a block of memory.

    HEAD   /api/upload/ID                          Upload-Offset: how many bytes are there
    PUT    /api/upload/ID?name=…&size=…&offset=…   the next bytes, up to 16 MB; X-Piece-Sha256, and X-File-Sha256 with the last ones, are compared
    DELETE /api/upload/ID                          let go of it

Each needs X-Upload-Token: for one owner, one session and one box of a page, for some minutes. Every answer has the next one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from streamlit.runtime import Runtime

from pages.parts.login import owner_of_request
from state_engine.config import Settings, load_settings
from state_engine.errors import DataError, QuotaError, StateError, UnsafeFileError
from state_engine.library import arriving
from state_engine.library.shown import for_people

SECONDS: Final = 600.0  # that a token is good for
BLOCK: Final = 1 << 20
HEADER: Final = "X-Upload-Token"
_SECRET: Final = secrets.token_bytes(32)  # of this server's process: a new one knows no session of before either
_busy: set[str] = set()
_STATUS = {UnsafeFileError: 413, QuotaError: 507, DataError: 507}


@dataclass(frozen=True)
class Ticket:
    """What a token allows.

    Args:
        owner: whose home the bytes go to.
        session: of Streamlit; it ends with the browser's tab.
        box: the uploader.
        until: seconds since 1970.
    """

    owner: str
    session: str
    box: str
    until: float


def token_for(owner: str, session: str, box: str, now: float | None = None) -> str:
    """Return a token."""
    until = (time.time() if now is None else now) + SECONDS
    body = base64.urlsafe_b64encode(json.dumps([owner, session, box, until]).encode()).decode()
    return f"{body}.{_signature(body)}"


def read_token(token: str, now: float | None = None) -> Ticket | None:
    """Return what a token allows; None when it is not ours, or over."""
    body, _, signature = token.partition(".")
    if not hmac.compare_digest(_signature(body).encode(), signature.encode()):
        return None
    ticket = Ticket(*json.loads(base64.urlsafe_b64decode(body)))
    return ticket if (time.time() if now is None else now) < ticket.until else None


def _signature(body: str) -> str:
    return hmac.new(_SECRET, body.encode(), hashlib.sha256).hexdigest()


async def upload(request: Request) -> Response:
    """Answer one call of the route."""
    settings = load_settings()
    ticket = read_token(request.headers.get(HEADER, ""))
    if ticket is None or not _session_lives(ticket.session) or owner_of_request(request, settings) != ticket.owner:
        return JSONResponse({"error": "This page is no longer open, or nobody is logged in."}, 401)
    settings, identity = settings.of(ticket.owner), request.path_params["identity"]
    token = token_for(ticket.owner, ticket.session, ticket.box)
    try:
        if request.method == "PUT":
            answer = await _put(request, settings, identity, ticket)
        elif request.method == "DELETE":
            await to_thread.run_sync(arriving.drop, settings, identity)
            answer = JSONResponse({"offset": 0})
        else:
            there = await to_thread.run_sync(arriving.offset, settings, identity, ticket.session)
            answer = Response(headers={"Upload-Offset": str(there)})
    except StateError as error:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 422)
        return JSONResponse({"error": str(for_people(error, settings))}, status)
    except (ValueError, ClientDisconnect):
        return JSONResponse({"error": "This is no upload."}, 400)
    answer.headers[HEADER] = token
    return answer


async def _put(request: Request, settings: Settings, identity: str, ticket: Ticket) -> Response:
    """Take the next bytes.

    Raises:
        ValueError: the request is no such one. StateError: they cannot be taken.
    """
    asked, length = request.query_params, int(request.headers.get("content-length", "-1"))
    name, size, start = asked.get("name", ""), int(asked.get("size", "-1")), int(asked.get("offset", "-1"))
    if not 0 <= length <= arriving.PIECE:
        return JSONResponse({"error": f"A piece has up to {arriving.PIECE:,} bytes, and says how many."}, 413)
    asked_for = arriving.Arriving(identity, name, size, ticket.box, ticket.session)
    there = await to_thread.run_sync(arriving.begin, settings, asked_for)
    place = f"{settings.owner}/{identity}"
    if there != start or place in _busy:
        return JSONResponse({"offset": there}, 409)
    _busy.add(place)
    try:
        with arriving.Piece(settings, identity, start) as piece:
            await _copied(request, piece.write)
            there = piece.keep(request.headers.get("x-piece-sha256", "").lower())
    finally:
        _busy.discard(place)
    whole = request.headers.get("x-file-sha256", "")
    if there == size and whole:
        await to_thread.run_sync(arriving.check_whole, settings, identity, whole)
    return JSONResponse({"offset": there})


async def _copied(request: Request, write: Callable[[bytes], None]) -> None:
    """Hand the body over in blocks, by a thread, so that other requests are answered meanwhile."""
    waiting = bytearray()
    async for block in request.stream():
        waiting += block
        if len(waiting) >= BLOCK:
            await to_thread.run_sync(write, bytes(waiting))
            waiting.clear()
    await to_thread.run_sync(write, bytes(waiting))


def _session_lives(session: str) -> bool:
    return Runtime.exists() and Runtime.instance().is_active_session(session)
