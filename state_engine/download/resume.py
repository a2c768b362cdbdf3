"""A file brought to disk over as many connections as that takes, each of which continues where the last one broke.

Boundary: what the server says is judged here; addresses are opened by `remote`, bytes lie in a `part`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from state_engine.config import Settings
from state_engine.download import remote
from state_engine.download.part import Arrived, Origin, Report, alone, begin, check_room, check_whole, note_of, read_note, silent
from state_engine.download.remote import RemoteFile, opened
from state_engine.errors import DownloadError

TRIES_WITHOUT_PROGRESS = 3
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


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
        return check_whole(file, target, "", verifying)
    part = target.with_name(target.name + ".part")
    with alone(part, file) as out:
        for last, url in ((url == file.urls[-1], url) for url in file.urls):
            try:
                _fill(file, url, part, out, settings, report, refused)
                break
            except DownloadError as error:
                if last:
                    raise
                if remark is not None:
                    remark(f"{error.what} {error.why} The next address is tried.".replace("  ", " "))
        arrived = check_whole(file, part, url, verifying)
        os.fsync(out.fileno())
        part.replace(target)
    note_of(part).unlink(missing_ok=True)
    return arrived


def waiting(file: RemoteFile, folder: Path) -> int:
    """Return the bytes that an earlier try left in a folder."""
    part = folder / f"{file.name}.part"
    return part.stat().st_size if part.is_file() and note_of(part).is_file() else 0


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
                f"The download of {file.name} stopped after {done:,}{of} bytes.",
                "The connection broke several times.",
                remote.AGAIN,
            )
        except remote.Busy as busy:
            problem = busy.error
            time.sleep(busy.seconds)
        idle = 0 if os.fstat(out.fileno()).st_size > before else idle + 1
        if idle >= TRIES_WITHOUT_PROGRESS:
            raise problem
        time.sleep(remote.RETRY_SECONDS)


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

    origin = _continuable(file, url, part)
    have = os.fstat(out.fileno()).st_size if origin is not None else 0
    if origin is not None and have and have == origin.size:
        return True
    headers = {**file.headers, **_behind(have, origin)}
    try:
        with opened(url, headers, file, refused) as response:
            start, total = _place(response, have)
            if start != have or not have:
                begin(file, part, out, Origin(url, _validator(response), total), start)
            check_room(file, part, total, start, settings)
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


def _continuable(file: RemoteFile, url: str, part: Path) -> Origin | None:
    """Return which bytes the part holds where they are this address's, and can be told from those of another file."""
    origin = read_note(part)
    if origin is None or origin.url != url or not (file.fixed or origin.validator):
        return None
    return origin


def _behind(have: int, origin: Origin | None) -> dict[str, str]:
    """Return the headers that ask for what is behind the first bytes, or for all of it where the file is another one now."""
    if origin is None or not have:
        return {}
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


def _place(response: Any, have: int) -> tuple[int, int]:
    """Return where the bytes of an answer start, and how long the whole file is (-1: not told)."""
    if response.status_code == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match and int(match[1]) == have and match[3] != "*":
            return have, int(match[3])
        raise DownloadError(
            "The server answered with another piece than was asked for.", response.headers.get("Content-Range", ""), remote.AGAIN
        )
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else -1


def _validator(response: Any) -> str:
    """Return what If-Range may carry: a strong ETag, else the date of the last change."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))
