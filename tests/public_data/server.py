"""A web server on 127.0.0.1 that sends files as object stores do, and misbehaves on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """`files` are path -> content. The rest is what goes wrong, and what was asked (path, Range, If-Range)."""

    files: dict[str, bytes]
    etag: str = '"v1"'
    modified: str = ""
    ranges: bool = True
    lengths: bool = True
    cut_after: dict[str, int] = field(default_factory=dict)  # breaks the next connection after so many bytes
    always_cut: bool = False
    status: dict[str, list[int]] = field(default_factory=dict)  # answers these first, one a request
    headers: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    wrong_piece: bool = False
    seconds_a_block: float = 0.0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # what each request carried as Authorization
    endpoint: str = ""

    def url(self, path: str) -> str:
        return f"{self.endpoint}/{path}"


class _Handler(BaseHTTPRequestHandler):
    server_data: FileServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        data, path = self.server_data, self.path.lstrip("/")
        wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        data.asked.append((path, wanted, condition))
        data.tokens.append(self.headers.get("Authorization", ""))
        if data.status.get(path):
            self._answer(data.status[path].pop(0), data.headers, b"")
        elif path in data.redirects:
            self._answer(302, {"Location": data.redirects[path]}, b"")
        elif path not in data.files:
            self._answer(404, {}, b"")
        else:
            self._send(path, wanted, condition)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, path: str, wanted: str, condition: str) -> None:
        data, content = self.server_data, self.server_data.files[path]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and data.ranges else 0
        if condition and condition not in (data.etag, data.modified):
            start = 0
        self.send_response(206 if start else 200)
        if start:
            said = start + 1 if data.wrong_piece else start
            self.send_header("Content-Range", f"bytes {said}-{len(content) - 1}/{len(content)}")
        if data.etag:
            self.send_header("ETag", data.etag)
        if data.modified:
            self.send_header("Last-Modified", data.modified)
        if data.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = data.cut_after.get(path) if data.always_cut else data.cut_after.pop(path, None)
        body = content[start:] if cut is None else content[start : start + cut]
        try:
            for at in range(0, len(body), 1 << 16):
                self.wfile.write(body[at : at + (1 << 16)])
                time.sleep(data.seconds_a_block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = self.close_connection or cut is not None


@contextmanager
def serving(data: FileServer) -> Iterator[FileServer]:
    """Serves `data` at `data.endpoint` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_data": data}))
    data.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield data
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
