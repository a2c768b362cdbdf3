"""One file from the web to disk: in pieces, resumed where it stopped, checked, then renamed.

    X.h5ad.part         what has arrived; kept when it stops, for whatever reason, and continued the next time
    X.h5ad.part.json    which bytes these are (`_Origin`): address, ETag or date, length
    X.h5ad              whole and checked

A server that can continue says so (206 with the right Content-Range, for the same ETag: If-Range); with any other the file starts
again, unless its address stands for the same bytes for ever, as that of a commit does.
Boundary: HTTP and bytes; what a file means and who publishes it is not known here. Public data sets and the model hub both call it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from state_engine import __version__
from state_engine.config import Settings
from state_engine.errors import ConfigError, DownloadError
from state_engine.files import read_json, write_json
from state_engine.plain import from_plain, to_plain

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRY_SECONDS = 0.2
TRIES_WITHOUT_PROGRESS = 3
PIECE = 1 << 16  # small, so that little is lost when a connection breaks, and a wish to stop is noticed at once
MOST_REDIRECTS = 5
MOST_WAIT_SECONDS = 10.0
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
AGAIN = "Start it again: it continues where it stopped."
BY_HAND = "Download it in a browser and open it on the Data page."
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BUSY = (408, 425, 429, 500, 502, 503, 504)

Report = Callable[[int, int], None]  # bytes done, bytes of the file (0: not known)


def silent(done: int, total: int) -> None:
    """Ignore a report."""


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


@dataclass(frozen=True)
class Arrived:
    """A file that is whole on this machine.

    Args:
        name, size, sha256: of the file as it lies here; bytes and hex.
        url: where it came from; "" when it was here already.
        checked: how it was compared with what is known of it, in words.
    """

    name: str
    size: int
    sha256: str
    url: str
    checked: str


@dataclass(frozen=True)
class _Origin:
    """Which bytes a part holds. `validator` is a strong ETag or a date; "" when the server gives neither. `size` -1: not told."""

    url: str
    validator: str
    size: int


class _Busy(Exception):  # noqa: N818 - a reason to wait, not an error of the program
    """The server asks to come again. `error` is what to say when it never stops."""

    def __init__(self, error: DownloadError, seconds: float) -> None:
        self.error, self.seconds = error, seconds


def download(
    file: RemoteFile,
    folder: Path,
    settings: Settings,
    report: Report = silent,
    verifying: Report = silent,
    refused: Callable[[Any], None] | None = None,
    remark: Callable[[str], None] | None = None,
) -> Arrived:
    """Bring a file into a folder, from its first address that answers; a whole one that is there already is only checked.

    Args:
        file: what to download.
        folder: where to.
        settings: the largest file that this installation accepts.
        report: told of bytes that arrive; may raise to stop. What has arrived stays and is used the next time.
        verifying: told of bytes that are read again to check them; may raise.
        refused: given an answer before its body is read; raises when it knows better words for a refusal.
        remark: told when an address does not work and the next is tried.

    Raises:
        DownloadError: no network, no such file, no space, another size or hash, or another download of it is running.
    """
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and file.size in (None, target.stat().st_size):
        return _checked(file, target, "", verifying)
    part = target.with_name(target.name + ".part")
    with _alone(part, file) as out:
        for last, url in ((url == file.urls[-1], url) for url in file.urls):
            try:
                _fill(file, url, part, out, settings, report, refused)
                break
            except DownloadError as error:
                if last:
                    raise
                if remark is not None:
                    remark(f"{error.what} {error.why} The next address is tried.".replace("  ", " "))
        arrived = _checked(file, part, url, verifying)
        os.fsync(out.fileno())
        part.replace(target)
    _note(part).unlink(missing_ok=True)
    return arrived


def waiting(file: RemoteFile, folder: Path) -> int:
    """Return the bytes that an earlier try left in a folder."""
    part = folder / f"{file.name}.part"
    return part.stat().st_size if part.is_file() and _note(part).is_file() else 0


def read_text(file: RemoteFile, most: int, refused: Callable[[Any], None] | None = None) -> str:
    """Return the first `most` bytes of a small file as text; nothing is written.

    Raises:
        DownloadError: it cannot be had.
    """
    found = b""
    with _opened(file.urls[0], dict(file.headers), file, refused) as response:
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


# One address


def _fill(
    file: RemoteFile,
    url: str,
    part: Path,
    out: BinaryIO,
    settings: Settings,
    report: Report,
    refused: Callable[[Any], None] | None,
) -> None:
    """Append to the part until it is whole, over as many connections as that takes."""
    idle = 0
    while True:
        before = os.fstat(out.fileno()).st_size
        try:
            if _append(file, url, part, out, settings, report, refused):
                return
            done = os.fstat(out.fileno()).st_size
            of = f" of {file.size:,}" if file.size is not None else ""
            problem = DownloadError(
                f"The download of {file.name} stopped after {done:,}{of} bytes.", "The connection broke several times.", AGAIN
            )
        except _Busy as busy:
            problem = busy.error
            time.sleep(busy.seconds)
        idle = 0 if os.fstat(out.fileno()).st_size > before else idle + 1
        if idle >= TRIES_WITHOUT_PROGRESS:
            raise problem
        time.sleep(RETRY_SECONDS)


def _append(
    file: RemoteFile,
    url: str,
    part: Path,
    out: BinaryIO,
    settings: Settings,
    report: Report,
    refused: Callable[[Any], None] | None,
) -> bool:
    """Append one connection's worth of bytes to the part; return whether the file is whole now."""
    import httpx2

    origin = _read_note(part)
    known = origin is not None and origin.url == url and (file.fixed or origin.validator != "")
    have = os.fstat(out.fileno()).st_size if known else 0
    if origin and have and have == origin.size:
        return True
    headers = {**file.headers, **(_from(have, origin) if origin and have else {})}
    try:
        with _opened(url, headers, file, refused) as response:
            start, total = _place(response, have)
            if start != have or not have:
                _begin(file, part, out, _Origin(url, _validator(response), total), start)
            _check_room(file, part, total, start, settings)
            most = total if total >= 0 else settings.max_file_bytes
            done = _copy(response.iter_raw(file.piece), out, file, start, most, lambda done: report(done, max(total, 0)))
            return done == total or total < 0
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL) as error:
        raise DownloadError(
            f"{file.name} cannot be downloaded: {urlsplit(url).hostname} cannot be reached.",
            f"{type(error).__name__}: {str(error) or 'no answer in time'}.",
            f"Check this machine's network. {file.advice}",
        ) from error
    except httpx2.TransportError:
        out.flush()
        return False
    except OSError as error:
        raise DownloadError(f"{file.name} could not be written.", str(error), "Check space and permissions.") from error


def _from(have: int, origin: _Origin) -> dict[str, str]:
    """Return the headers that ask for what is behind the first bytes, or for all of it where the file is another one now."""
    return {"Range": f"bytes={have}-"} | ({"If-Range": origin.validator} if origin.validator else {})


def _copy(chunks: Iterable[bytes], out: BinaryIO, file: RemoteFile, done: int, most: int, report: Callable[[int], None]) -> int:
    """Append pieces to a file of `done` bytes, and return how many it has then.

    Raises:
        DownloadError: more than `most` bytes come.
    """
    report(done)
    for chunk in chunks:
        done += len(chunk)
        if done > most:
            raise DownloadError(f"{file.name} is longer than its server said.", f"More than {done:,} bytes came.", "Try later.")
        out.write(chunk)
        report(done)
    out.flush()
    return done


def _begin(file: RemoteFile, part: Path, out: BinaryIO, origin: _Origin, start: int) -> None:
    """Forget what the part held when the server does not continue it, and note which bytes come now."""
    if file.size is not None and origin.size >= 0 and origin.size != file.size:
        than = "longer than" if origin.size > file.size else "shorter than"
        raise DownloadError(
            f"{file.name} has another size than is known of it.",
            f"The server offers {origin.size:,} bytes, {than} the {file.size:,} bytes that are known.",
            "It may have been replaced by its publisher: look at its source page.",
        )
    out.truncate(start)
    out.seek(start)
    write_json(_note(part), to_plain(origin))


def _place(response: Any, have: int) -> tuple[int, int]:
    """Return where the bytes of an answer start, and how long the whole file is (-1: not told)."""
    if response.status_code == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match and int(match[1]) == have and match[3] != "*":
            return have, int(match[3])
        raise DownloadError(
            "The server answered with another piece than was asked for.", response.headers.get("Content-Range", ""), AGAIN
        )
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else -1


def _validator(response: Any) -> str:
    """Return what If-Range may carry: a strong ETag, else the date of the last change."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


@contextmanager
def _opened(url: str, headers: dict[str, str], file: RemoteFile, refused: Callable[[Any], None] | None) -> Iterator[Any]:
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
        raise _Busy(error, min(float(wait), MOST_WAIT_SECONDS) if wait.isdigit() else RETRY_SECONDS)
    if code in (404, 410):
        raise DownloadError(
            f"{file.name} is not at {host} any more ({code}).", f"Asked for {response.url}.", "Look at its source page."
        )
    why = "The server wants a login or does not serve programs." if code in (202, 401, 403) else f"Asked for {response.url}."
    raise DownloadError(f"{host} does not send {file.name} ({code}).", why, file.advice)


# The part on disk


@contextmanager
def _alone(part: Path, file: RemoteFile) -> Iterator[BinaryIO]:
    """Open the part for writing by one process at a time; the lock goes with the process."""
    with part.open("ab") as out:
        try:
            fcntl.flock(out.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(
                f"{file.name} is being downloaded already.", "Another process writes it.", "Wait for it."
            ) from error
        yield out


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> _Origin | None:
    """Return what the part is; None when it cannot be told, and then the part is worth nothing."""
    try:
        return from_plain(_Origin, read_json(_note(part)))
    except (OSError, ValueError, ConfigError):
        return None


def _check_room(file: RemoteFile, part: Path, total: int, start: int, settings: Settings) -> None:
    if total > settings.max_file_bytes:
        raise DownloadError(
            f"{file.name} has {total / 1e9:.1f} GB.",
            f"This installation accepts {settings.max_file_bytes / 1e9:.1f} GB.",
            "Raise STATE_EXPLORER_MAX_FILE_GB.",
        )
    needed = max(total - start, 0) + (file.unpacked or 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        unpacked = ", unpacked" if file.unpacked else ""
        raise DownloadError(
            f"{file.name} needs {needed / 1e9:.1f} GB more{unpacked}.", f"{free / 1e9:.1f} GB are free.", "Make room first."
        )


def _checked(file: RemoteFile, path: Path, url: str, verifying: Report) -> Arrived:
    """Read the whole file and compare it with what is known; one that differs is set aside, never used."""
    size, done = path.stat().st_size, 0
    found: dict[str, Any] = {
        "sha256": hashlib.sha256(),
        "md5": hashlib.md5(usedforsecurity=False),
        "git_sha1": hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False),
    }
    declared = {"sha256": file.sha256, "md5": file.md5, "git_sha1": file.git_sha1}
    wanted = {name: digest for name, digest in found.items() if name == "sha256" or declared[name] is not None}
    with path.open("rb") as source:
        while block := source.read(1 << 22):
            for digest in wanted.values():
                digest.update(block)
            done += len(block)
            verifying(done, size)
    got = {name: digest.hexdigest() for name, digest in wanted.items()}
    problems = [f"The size is {size}, not {file.size}"] if file.size not in (None, size) else []
    problems += [
        f"It has another hash: its {name} is {got[name]}, not {known}"
        for name, known in declared.items()
        if known is not None and known != got[name]
    ]
    if problems:
        aside = path.with_name(f"{Path(file.name).name}.refused")
        path.replace(aside)
        _note(path).unlink(missing_ok=True)
        raise DownloadError(
            f"{file.name} is not the file that is known ({file.hash_source or 'by the catalogue'}).",
            f"{'; '.join(problems)}.",
            f"It was set aside as {aside.name}. Try again; if it repeats, it was replaced or cannot be trusted: ask its publisher.",
        )
    return Arrived(file.name, size, got["sha256"], url, _how_checked(file))


def _how_checked(file: RemoteFile) -> str:
    hashes = [name for name, known in (("sha256", file.sha256), ("md5", file.md5), ("git hash", file.git_sha1)) if known]
    if hashes:
        names = hashes if file.size is None else ["size", *hashes]
        return f"Its {' and '.join(names)} are as known ({file.hash_source or 'by the catalogue'})."
    if file.size is not None:
        return "Its size is as known; no hash is published: that of what came is recorded."
    return "Neither its size nor a hash is published: the hash of what came is recorded."
