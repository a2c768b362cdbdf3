"""A model hub on 127.0.0.1 with the endpoints that a download needs, which can misbehave on request."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`files` are path -> content of the only repository, owner/model. The rest is what goes wrong, and what was asked."""

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=lambda: {"license": "mit"})
    gated: str | bool = False
    large: tuple[str, ...] = (".ckpt", ".safetensors")  # stored with a declared sha256, like LFS files
    lie_about: str = ""  # declares another hash for this file
    cut_after: dict[str, int] = field(default_factory=dict)  # breaks the next connection after so many bytes
    always_cut: bool = False
    ranges: bool = True
    status: int = 0  # answers this to everything
    error_code: str = ""
    sha: str = COMMIT
    extra: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    endpoint: str = ""

    def siblings(self) -> list[dict[str, Any]]:
        return [self._sibling(path, content) for path, content in self.files.items()] + self.extra

    def _sibling(self, path: str, content: bytes) -> dict[str, Any]:
        declared = content[::-1] + b"?" if path == self.lie_about else content
        blob = hashlib.sha1(b"blob %d\0" % len(declared) + declared).hexdigest()
        entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
        if path.endswith(self.large):
            entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(declared).hexdigest(), "pointerSize": 100}
        return entry


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((path, self.headers.get("Range", "")))
        if self.hub.status:
            self._fail(self.hub.status, self.hub.error_code)
        elif path.startswith("/api/models/owner/model/revision/"):
            self._api(path.rsplit("/", 1)[1])
        elif path.startswith(f"/owner/model/resolve/{COMMIT}/"):
            self._resolve(path.removeprefix(f"/owner/model/resolve/{COMMIT}/"))
        else:
            self._fail(404, "RepoNotFound")

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _api(self, revision: str) -> None:
        if revision not in ("main", "v1", COMMIT):
            return self._fail(404, "RevisionNotFound")
        body = json.dumps(
            {
                "id": "owner/model",
                "sha": self.hub.sha,
                "gated": self.hub.gated,
                "cardData": self.hub.card,
                "siblings": self.hub.siblings(),
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _resolve(self, path: str) -> None:
        if self.hub.gated:
            return self._fail(403, "GatedRepo")
        content = self.hub.files[path]
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.hub.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.hub.cut_after.get(path) if self.hub.always_cut else self.hub.cut_after.pop(path, None)
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            self.close_connection = True
        return None


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serves `hub` at `hub.endpoint` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
