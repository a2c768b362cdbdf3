"""A file on the web: its addresses, what is known of it, and an answer of its server, its body unread.

Boundary: HTTP; nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from state_engine import __version__
from state_engine.errors import ConfigError, DownloadError

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRY_SECONDS = 0.2
PIECE = 1 << 16  # small, so that little is lost when a connection breaks, and a wish to stop is noticed at once
MOST_REDIRECTS = 5
MOST_WAIT_SECONDS = 10.0
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
AGAIN = "Start it again: it continues where it stopped."
BY_HAND = "Download it in a browser and open it on the Data page."
_BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Args:
        name: its name on this machine, relative to the folder it goes to.
        urls: addresses of the same bytes, the best first.
        size: bytes; None when nobody states it.
        sha256, md5, git_sha1: hex; None when nobody states it. `git_sha1` is the hash of a git blob.
        hash_source: who states the hashes.
        unpacked: bytes that it needs beside itself later; None for none.
        headers: sent to the host of its address, and to no other host that it redirects to.
        fixed: its address stands for the same bytes for ever; a part is then continued without an ETag.
        piece: bytes between two reports.
        advice: what a person can do when its host cannot be reached or refuses.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    git_sha1: str | None = None
    hash_source: str = ""
    unpacked: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    piece: int = PIECE
    advice: str = BY_HAND


class Busy(Exception):  # noqa: N818 - a reason to wait, not an error of the program
    """The server asks to come again. `error` is what to say when it never stops."""

    def __init__(self, error: DownloadError, seconds: float) -> None:
        self.error, self.seconds = error, seconds


def read_text(file: RemoteFile, most: int, refused: Callable[[Any], None] | None = None) -> str:
    """Return the first `most` bytes of a small file as text; nothing is written.

    Raises:
        DownloadError: it cannot be had.
    """
    found = b""
    with opened(file.urls[0], dict(file.headers), file, refused) as response:
        for chunk in response.iter_raw(file.piece):
            found += chunk
            if len(found) >= most:
                break
    return found[:most].decode("utf-8", "replace")


def check_address(url: str) -> None:
    """Check that an address is https, or http on this machine, where nobody listens in between.

    Raises:
        ConfigError: it is another.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise ConfigError(f"'{url[:200]}' is not an address.", str(error)) from error
    if host and (parts.scheme == "https" or (parts.scheme == "http" and host in LOCAL_HOSTS)):
        return
    raise ConfigError(
        f"'{url[:200]}' is not an address to download from.", "Only https is used.", "Give one that starts with https://."
    )


@contextmanager
def opened(url: str, headers: dict[str, str], file: RemoteFile, refused: Callable[[Any], None] | None) -> Iterator[Any]:
    """Open an address, its body unread; redirects are followed to addresses that are allowed too.

    Headers of the file (a token) go to the host that they are for; a redirect to another host does not get them.
    """
    import httpx2

    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    # compressed on the way, a range would count compressed bytes
    headers = {"User-Agent": f"state-explorer/{__version__}", **headers, "Accept-Encoding": "identity"}
    with httpx2.Client(timeout=timeout, follow_redirects=False) as client:
        for _ in range(MOST_REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as response:
                if response.status_code not in (301, 302, 303, 307, 308):
                    if refused is not None:
                        refused(response)
                    _check_status(response, file)
                    yield response
                    return
                before, url = url, _next(url, response.headers.get("Location", ""), file)
                if urlsplit(before)[:2] != urlsplit(url)[:2]:
                    private = {name.lower() for name in file.headers}
                    headers = {name: value for name, value in headers.items() if name.lower() not in private}
    raise DownloadError(
        f"The address of {file.name} leads from one to the next without end.", f"Last: {url[:200]}.", "Try later."
    )


def _next(url: str, location: str, file: RemoteFile) -> str:
    where = urljoin(url, location)
    if urlsplit(where)[:2] == urlsplit(url)[:2]:  # the host that was asked for
        return where
    try:
        check_address(where)
        if url.startswith("https:") and not where.startswith("https:"):
            raise ConfigError(f"'{where[:200]}' is not encrypted.")
    except ConfigError as error:
        raise DownloadError(
            f"The address of {file.name} leads to one that is not followed.",
            f"{error.what}",
            "Do not trust it; look at its source page.",
        ) from error
    return where


def _check_status(response: Any, file: RemoteFile) -> None:
    code, host = response.status_code, response.url.host
    if code in (200, 206):
        return
    if code in _BUSY:
        wait = response.headers.get("Retry-After", "")
        error = DownloadError(
            f"{host} is too busy to send {file.name} ({code}).", "It asks to come again.", f"Try later. {AGAIN}"
        )
        raise Busy(error, min(float(wait), MOST_WAIT_SECONDS) if wait.isdigit() else RETRY_SECONDS)
    if code in (404, 410):
        raise DownloadError(
            f"{file.name} is not at {host} any more ({code}).", f"Asked for {response.url}.", "Look at its source page."
        )
    why = "The server wants a login or does not serve programs." if code in (202, 401, 403) else f"Asked for {response.url}."
    raise DownloadError(f"{host} does not send {file.name} ({code}).", why, file.advice)
