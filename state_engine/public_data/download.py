"""One file from the web to disk: in pieces, resumed where it stopped, checked, then renamed.

    X.h5ad.part         what has arrived; kept when it stops, for whatever reason, and continued the next time
    X.h5ad.part.json    which bytes these are (`_Origin`): address, ETag or date, length
    X.h5ad              whole and checked

A server that can continue says so (206 with the right Content-Range, for the same ETag: If-Range); with any other the file starts anew.
Boundary: HTTP and bytes; what a file means is not known here. Pauses and retries are those of `checkpoints.transfer`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

from state_engine import __version__
from state_engine.config import Settings
from state_engine.download import CONNECT_SECONDS, READ_SECONDS, RETRY_SECONDS, TRIES_WITHOUT_PROGRESS
from state_engine.errors import ConfigError, DownloadError
from state_engine.files import write_json
from state_engine.plain import from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent
from state_engine.public_data.catalogue import PublicFile, check_address

PIECE = 1 << 16  # small, so that little is lost when a connection breaks, and a wish to stop is noticed at once
MOST_REDIRECTS = 5
MOST_WAIT_SECONDS = 10.0
Report = Callable[[int, int], None]  # bytes done, bytes of the file (0: not known)
AGAIN = "Start it again: it continues where it stopped."
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BUSY = (408, 425, 429, 500, 502, 503, 504)


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


def download(file: PublicFile, folder: Path, settings: Settings, on_progress: OnProgress = silent) -> Arrived:
    """Brings `file` into `folder`, from its first address that answers. A whole one that is there already is only checked.

    Args:
        on_progress: told of bytes; may raise to stop. What has arrived stays and is used the next time.

    Raises:
        DownloadError: no network, no such file, no space, another size or hash, or another download of it is running.
    """
    target, stage = folder / file.name, f"Downloading {file.name}"
    folder.mkdir(parents=True, exist_ok=True)
    if target.is_file() and file.size in (None, target.stat().st_size):
        return _checked(file, target, "", on_progress)
    part = target.with_name(target.name + ".part")
    with _alone(part, file) as out:
        for last, url in ((url == file.urls[-1], url) for url in file.urls):
            try:
                _fill(file, url, part, out, settings, lambda done, total: on_progress(Progress(stage, done, total)))
                break
            except DownloadError as error:
                if last:
                    raise
                on_progress(Progress(stage, message=f"{error.what} {error.why} The next address is tried.".replace("  ", " ")))
        arrived = _checked(file, part, url, on_progress)
        os.fsync(out.fileno())
        part.replace(target)
    _note(part).unlink(missing_ok=True)
    return arrived


def waiting(file: PublicFile, folder: Path) -> int:
    """Bytes of `file` that an earlier try left in `folder`."""
    part = folder / f"{file.name}.part"
    return part.stat().st_size if part.is_file() and _note(part).is_file() else 0


# One address


def _fill(file: PublicFile, url: str, part: Path, out: BinaryIO, settings: Settings, report: Report) -> None:
    """Appends to `part` until it is whole, over as many connections as that takes."""
    idle = 0
    while True:
        before = os.fstat(out.fileno()).st_size
        try:
            if _append(file, url, part, out, settings, report):
                return
            problem = DownloadError(f"The connection for {file.name} broke several times.", f"{_so_far(out)}.", AGAIN)
        except _Busy as busy:
            problem = busy.error
            time.sleep(busy.seconds)
        idle = 0 if os.fstat(out.fileno()).st_size > before else idle + 1
        if idle >= TRIES_WITHOUT_PROGRESS:
            raise problem
        time.sleep(RETRY_SECONDS)


def _append(file: PublicFile, url: str, part: Path, out: BinaryIO, settings: Settings, report: Report) -> bool:
    """One connection's worth of bytes behind those in `part`; whether the file is whole now."""
    import httpx2

    origin = _read_note(part)
    have = os.fstat(out.fileno()).st_size if origin and origin.url == url and origin.validator else 0
    if origin and have and have == origin.size:
        return True
    headers = {"User-Agent": f"state-explorer/{__version__}", "Accept-Encoding": "identity"}
    if origin and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": origin.validator}
    try:
        with _opened(url, headers, file) as response:
            start, total = _place(response, have)
            if start != have or not have:
                origin = _Origin(url, _validator(response), total)
                _begin(file, part, out, origin, start)
            _check_room(file, part, total, start, settings)
            done = start
            report(done, max(total, 0))
            for chunk in response.iter_raw(PIECE):
                done += len(chunk)
                if done > (total if total >= 0 else settings.max_file_bytes):
                    raise DownloadError(
                        f"{file.name} is longer than its server said.", f"More than {done:,} bytes came.", "Try later."
                    )
                out.write(chunk)
                report(done, max(total, 0))
            out.flush()
            return done == total or total < 0
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL) as error:
        raise DownloadError(
            f"{file.name} cannot be downloaded: {httpx2.URL(url).host} cannot be reached.",
            f"{type(error).__name__}: {str(error) or 'no answer in time'}.",
            "Check this machine's network, or download the file elsewhere and open it on the Data page.",
        ) from error
    except httpx2.TransportError:
        out.flush()
        return False
    except OSError as error:
        raise DownloadError(f"{file.name} could not be written.", str(error), "Check space and permissions.") from error


def _begin(file: PublicFile, part: Path, out: BinaryIO, origin: _Origin, start: int) -> None:
    """Forgets what the part held when the server does not continue it, and notes which bytes come now."""
    if file.size is not None and origin.size >= 0 and origin.size != file.size:
        raise DownloadError(
            f"{file.name} has another size than is known of it.",
            f"The server offers {origin.size:,} bytes, {file.size:,} are known.",
            "It may have been replaced by its publisher: look at the page of the data set.",
        )
    out.truncate(start)
    out.seek(start)
    write_json(_note(part), to_plain(origin))


def _place(response: Any, have: int) -> tuple[int, int]:
    """Where the bytes of an answer start, and how long the whole file is (-1: not told)."""
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
    """What If-Range may carry: a strong ETag, else the date of the last change."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


class _Busy(Exception):  # noqa: N818 - a reason to wait, not an error of ours
    """The server asks to come again. `error` is what to say when it never stops."""

    def __init__(self, error: DownloadError, seconds: float) -> None:
        self.error, self.seconds = error, seconds


@contextmanager
def _opened(url: str, headers: dict[str, str], file: PublicFile) -> Iterator[Any]:
    """The answer for `url`, with its body unread; redirects are followed to addresses that are allowed too."""
    import httpx2

    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    with httpx2.Client(timeout=timeout, follow_redirects=False) as client:
        for _ in range(MOST_REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as response:
                if response.status_code not in (301, 302, 303, 307, 308):
                    _check_status(response, file)
                    yield response
                    return
                url = _next(url, response.headers.get("Location", ""), file)
    raise DownloadError(
        f"The address of {file.name} leads from one to the next without end.", f"Last: {url[:200]}.", "Try later."
    )


def _next(url: str, location: str, file: PublicFile) -> str:
    where = urljoin(url, location)
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


def _check_status(response: Any, file: PublicFile) -> None:
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
    raise DownloadError(
        f"{host} does not send {file.name} ({code}).", why, "Download it in a browser and open it on the Data page."
    )


# The part on disk


@contextmanager
def _alone(part: Path, file: PublicFile) -> Iterator[BinaryIO]:
    """The part, open for writing, by one process at a time; the lock goes with the process."""
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
    """What the part is; None when it cannot be told, and then the part is worth nothing."""
    try:
        return from_plain(_Origin, json.loads(_note(part).read_text("utf-8")))
    except (OSError, ValueError, ConfigError):
        return None


def _check_room(file: PublicFile, part: Path, total: int, start: int, settings: Settings) -> None:
    if total > settings.max_file_bytes:
        raise DownloadError(
            f"{file.name} has {total / 1e9:.1f} GB.",
            f"This installation accepts {settings.max_file_bytes / 1e9:.1f} GB.",
            "Raise STATE_EXPLORER_MAX_FILE_GB.",
        )
    needed = max(total - start, 0) + (file.unpacked or 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(
            f"{file.name} needs {needed / 1e9:.1f} GB more, unpacked."
            if file.unpacked
            else f"{file.name} needs {needed / 1e9:.1f} GB more.",
            f"{free / 1e9:.1f} GB are free.",
            "Make room first.",
        )


def _so_far(out: BinaryIO) -> str:
    return f"{os.fstat(out.fileno()).st_size:,} bytes have arrived"


def _checked(file: PublicFile, path: Path, url: str, on_progress: OnProgress) -> Arrived:
    """Reads the whole file and compares it with what is known; one that differs is set aside, never used."""
    size = path.stat().st_size
    sha256, md5, done = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as source:
        while block := source.read(1 << 22):
            sha256.update(block)
            md5.update(block)
            done += len(block)
            on_progress(Progress(f"Verifying {file.name}", done, size))
    problems = [
        f"{what} is {got}, not {known}"
        for what, known, got in (
            ("The size", file.size, size),
            ("Its sha256", file.sha256, sha256.hexdigest()),
            ("Its md5", file.md5, md5.hexdigest()),
        )
        if known is not None and known != got
    ]
    if problems:
        aside = path.with_name(f"{file.name}.refused")
        path.replace(aside)
        _note(path).unlink(missing_ok=True)
        raise DownloadError(
            f"{file.name} is not the file that is known ({file.hash_source or 'by the catalogue'}).",
            f"{'; '.join(problems)}.",
            f"It was set aside as {aside.name}. Try again; if it repeats, it was replaced or cannot be trusted: ask its publisher.",
        )
    return Arrived(file.name, size, sha256.hexdigest(), url, _words(file))


def _words(file: PublicFile) -> str:
    names = [name for name, known in (("size", file.size), ("sha256", file.sha256), ("md5", file.md5)) if known is not None]
    if not names:
        return "Neither its size nor a hash is published: the hash of what came is recorded."
    if file.sha256 or file.md5:
        return f"Its {' and '.join(names)} are as known ({file.hash_source or 'by the catalogue'})."
    return "Its size is as known; no hash is published: that of what came is recorded."
