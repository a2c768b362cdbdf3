"""Moving a hub's files to disk: in pieces, resumed, compared with the declared hash; and what goes wrong, in plain words.

Boundary: one file at a time, HTTP and bytes. Which files a model needs is `hub`'s matter.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state_engine.config import Settings
from state_engine.errors import DownloadError

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRY_SECONDS = 0.2
CHUNK = 1 << 20
TRIES_WITHOUT_PROGRESS = 3


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `sha256` is declared for large files, `git_sha1` (hash of the git blob) for the others."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


def text_of(repo: str, commit: str, file: HubFile, settings: Settings) -> str:
    """The content of a small file."""
    with plain_errors(repo, commit, settings), _stream(repo, commit, file, 0, settings) as (_, chunks):
        return b"".join(chunks)[: file.size].decode("utf-8", "replace")


def fetch(repo: str, commit: str, file: HubFile, target: Path, settings: Settings, report: Callable[[int], None]) -> str:
    """Brings `file` to `target`, from where an earlier try stopped, and returns its sha256."""
    if target.is_file() and target.stat().st_size == file.size:
        report(file.size)
        return _verified(file, target, repo)
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > file.size:
        part.unlink()
    idle = 0
    while (have := part.stat().st_size if part.is_file() else 0) < file.size or not part.is_file():
        problem = _append(repo, commit, file, part, settings, report)
        idle = 0 if part.is_file() and part.stat().st_size > have else idle + 1
        if problem is not None and idle >= TRIES_WITHOUT_PROGRESS:
            raise problem
    digest = _verified(file, part, repo)
    part.replace(target)
    return digest


def _append(
    repo: str, commit: str, file: HubFile, part: Path, settings: Settings, report: Callable[[int], None]
) -> DownloadError | None:
    """One connection's worth of bytes behind those in `part`; an interruption is returned, not raised."""
    import httpx2

    have = part.stat().st_size if part.is_file() else 0
    try:
        with _stream(repo, commit, file, have, settings) as (start, chunks), part.open("r+b" if have else "wb") as out:
            out.truncate(start)
            out.seek(start)
            for chunk in chunks:
                start += len(chunk)
                if start > file.size:
                    raise DownloadError(
                        f"{file.path} is longer than the {file.size:,} bytes that the hub declares.", "", "Try later."
                    )
                out.write(chunk)
                report(start)
        if start == file.size:
            return None
    except httpx2.ConnectError:
        raise
    except httpx2.TransportError:
        time.sleep(RETRY_SECONDS)
    return DownloadError(
        f"The download of {file.path} stopped after {part.stat().st_size if part.is_file() else 0:,} of {file.size:,} bytes.",
        "The connection broke several times.",
        "Start it again: it continues where it stopped.",
    )


@contextmanager
def _stream(repo: str, commit: str, file: HubFile, start: int, settings: Settings) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Opens `file` from byte `start`. Gives where the bytes really start (0 when the server ignores ranges) and the bytes."""
    import httpx2
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    # Compressed on the way, a range would count compressed bytes.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    url = hf_hub_url(repo, file.path, revision=commit, endpoint=settings.hub_endpoint)
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        yield (start if response.status_code == 206 else 0), response.iter_bytes(CHUNK)


def _verified(file: HubFile, path: Path, repo: str) -> str:
    """The sha256 of `path` after comparing it with what the hub declares; a file that differs is removed."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as source:
        while block := source.read(1 << 22):
            sha256.update(block)
            if not file.sha256:
                blob.update(block)
    expected, got = (file.sha256, sha256.hexdigest()) if file.sha256 else (file.git_sha1, blob.hexdigest())
    if expected and expected != got:
        path.unlink()
        raise DownloadError(
            f"{file.path} of {repo} arrived with another hash than the hub declares.",
            f"Declared {expected[:12]}…, got {got[:12]}….",
            "It was removed. Start the download again; if it happens twice, do not trust the source.",
        )
    return sha256.hexdigest()


@contextmanager
def plain_errors(repo: str, revision: str, settings: Settings) -> Iterator[None]:
    """What the HTTP client and the hub's library raise, in plain words."""
    import httpx2
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError as error:
        raise DownloadError(
            f"{repo} is gated.",
            "Its owner must grant you access, and this installation needs your token.",
            f"Ask for access at {settings.hub_endpoint}/{repo}, then set HF_TOKEN to a token of yours.",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise DownloadError(f"{repo} has no revision '{revision}'.", "", "Try 'main', or a commit from its history.") from error
    except hub.RepositoryNotFoundError as error:
        raise DownloadError(
            f"There is no model repository '{repo}' on {settings.hub_endpoint}, or it is private.",
            "",
            "Check the name; for a private one set HF_TOKEN to a token with access.",
        ) from error
    except hub.EntryNotFoundError as error:
        raise DownloadError(f"{repo} lists a file that it does not have.", str(error).splitlines()[0], "Try later.") from error
    except hub.HfHubHTTPError as error:
        raise _http_error(error, repo, settings) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, hub.OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"{settings.hub_endpoint} cannot be reached.",
            f"{type(error).__name__}: {str(error) or 'no answer in time'}.",
            "Check this machine's network, or download elsewhere and import the folder.",
        ) from error
    except OSError as error:
        raise DownloadError("A file of the model could not be written.", str(error), "Check space and permissions.") from error


def _http_error(error: Any, repo: str, settings: Settings) -> DownloadError:
    code = error.response.status_code
    if code in (401, 403):
        fix = "Check the name, and set HF_TOKEN to a valid token with access, or unset it for public models."
        why = "Hubs answer so for private repositories, for expired tokens, and some for names that do not exist."
        return DownloadError(f"{settings.hub_endpoint} refused access to {repo} ({code}).", why, fix)
    if code == 429:
        return DownloadError(
            f"{settings.hub_endpoint} asks to wait ({code}).", "Too many requests in a short time.", "Try later."
        )
    return DownloadError(f"{settings.hub_endpoint} answered with error {code} for {repo}.", "", "Try later.")
